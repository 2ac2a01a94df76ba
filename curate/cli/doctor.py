"""The command line of `curate doctor`. Its flags are those of a training, where these can be made at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..doctor import devices, packages, storage
from ..doctor.finding import Finding, as_data, failures, lines, said_by

if TYPE_CHECKING:
    from ..doctor.plan import PlannedRun

EXAMPLES = """
curate doctor
curate doctor configs/uds.yaml
curate doctor --model Qwen/Qwen2.5-0.5B --pool pool --selector uds --candidates 64 --keep 8 --max-length 512 --full
curate doctor --json > doctor.json
"""

ESTIMATES = "Planned run (estimates for one process, with every text --max-length tokens long)"


def examine(store: Path, planned: PlannedRun | None = None) -> dict[str, list[Finding]]:
    """All that there is to say, by section.

    Args:
        store: its folder.
        planned: a run to estimate, or None.
    """
    there, device = devices.look()
    sections = {"Software": packages.software(), "Devices": there, "Store": storage.look(store)}
    if planned is not None and planned.is_given:
        from ..doctor.plan import Resources, look

        sections[ESTIMATES] = look(planned, store, Resources(device, devices.memory(), storage.free_at(store)))
    return sections


def print_findings(sections: dict[str, list[Finding]], *, as_json: bool) -> None:
    """Print the findings; exit with 1 where one of them would stop a run."""
    print(json.dumps(as_data(sections), indent=2, ensure_ascii=False) if as_json else "\n".join(lines(sections)))
    if failures(sections):
        raise typer.Exit(1)


def _with_plan() -> Callable[..., None]:
    from ..doctor.plan import PlannedRun
    from .flags import with_flags

    def act(store: Path, planned: PlannedRun) -> None:
        print_findings(examine(store, planned), as_json=planned.as_json)

    return with_flags(PlannedRun, act)


def _without_plan(reason: BaseException) -> Callable[..., None]:
    """Where what training needs cannot be imported, there is nothing to plan, and all the more to look at."""

    def doctor(
        as_json: Annotated[bool, typer.Option("--json/--no-json", help="Print it for machines.")] = False,
        store: Annotated[Path, typer.Option("--store", envvar="CURATE_STORE", metavar="DIR")] = Path("store"),
        ignored: Annotated[list[str] | None, typer.Argument(metavar="", hidden=True)] = None,
    ) -> None:
        sections = examine(store)
        said = f"cannot be estimated before this is mended: {said_by(reason)}"
        sections["Planned run"] = [Finding("plan", said, "wrong")]
        print_findings(sections, as_json=as_json)

    return doctor


try:
    doctor = _with_plan()
except (ImportError, OSError, RuntimeError) as broken:  # torch with libraries of another machine raises any of these
    doctor = _without_plan(broken)
