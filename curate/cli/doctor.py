"""The command `curate doctor`: report on the software, the devices and the store, and estimate a planned run.

Its flags are those of `curate train`. They come from the config of a training run, which needs torch. If torch cannot
be imported, the command still works, with fewer flags and without the estimate.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..doctor.examine import examine
from ..doctor.finding import Finding, as_data, failures, lines, one_line
from ..runtime.terminal import say

if TYPE_CHECKING:
    from ..doctor.plan import PlannedRun

EXAMPLES = """
curate doctor
curate doctor configs/uds.yaml
curate doctor --model Qwen/Qwen2.5-0.5B --pool pool --selector uds --candidates 64 --keep 8 --max-length 512 --full
curate doctor --json > doctor.json
"""


def print_findings(sections: dict[str, list[Finding]], *, as_json: bool) -> None:
    """Print the findings. Exit with code 1 if one of them would stop a run."""
    say(*([json.dumps(as_data(sections), indent=2)] if as_json else lines(sections)))
    if failures(sections):
        raise typer.Exit(1)


def _with_plan() -> Callable[..., None]:
    from ..doctor.plan import PlannedRun
    from .flags import with_flags

    def act(store: Path, planned: PlannedRun) -> None:
        print_findings(examine(store, planned), as_json=planned.as_json)

    return with_flags(PlannedRun, act)


def _without_plan(reason: BaseException) -> Callable[..., None]:
    """Return the command for a machine on which the training code cannot be imported: it reports, but estimates no run.

    Args:
        reason: the error of the import.
    """

    def doctor(
        as_json: Annotated[bool, typer.Option("--json/--no-json", help="Print the findings as JSON.")] = False,
        store: Annotated[Path, typer.Option("--store", envvar="CURATE_STORE", metavar="DIR")] = Path("store"),
        ignored: Annotated[list[str] | None, typer.Argument(metavar="", hidden=True)] = None,
    ) -> None:
        sections = examine(store)
        message = f"cannot be estimated until this is fixed: {one_line(reason)}"
        sections["Planned run"] = [Finding("plan", message, "wrong")]
        print_findings(sections, as_json=as_json)

    return doctor


try:
    doctor = _with_plan()
except (ImportError, OSError, RuntimeError) as broken:  # a broken build of torch raises any of these
    doctor = _without_plan(broken)
