"""The command `curate run`: run a pipeline, and print answers of queries and tables of comparisons.

`curate.api.commands.pipelines` reads the file and checks all entries before the first one runs. The stages run in
order. A stage finds what is already in the store, so a stopped pipeline resumes when it is run again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..api.commands.pipelines import Entry, next_steps, read, with_consent_of
from ..api.commands.questions import about
from ..errors import ConfigError
from ..log import LOGGER
from ..runtime.terminal import say
from ..stages import make_or_find, stage_of
from ..stages.consent import Consent
from . import completion
from .answers.printing import print_answer
from .flags import StoreFlag, with_consent

if TYPE_CHECKING:
    from ..store import Store

EXAMPLES = """
curate run demo
curate run pipelines/demo.yaml
curate run pipelines/demo.yaml --set demo-model.seed=2
curate run pipelines/uds.yaml --trust-remote-code --allow-files
curate run pipelines/uds.yaml --slurm partition=gpu,time=8:00:00 --slurm train.gpus-per-node=4
curate run pipelines/uds.yaml --slurm partition=gpu --dry-run
"""

LONGEST = 20
"""Largest number of rows that a pipeline shows of an answer."""

SlurmFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm",
        metavar="[NAME.]KEY=VALUE",
        help="Submit a job of Slurm for each entry, with this option of sbatch (partition=gpu); for one stage or "
        "entry with its name (train.gpus-per-node=4). embed.array=N shares the work of embed among N jobs. "
        "[repeatable]",
    ),
]
PartFlag = Annotated[
    str | None,
    typer.Option(
        "--part", metavar="K/N", help="Do only part K of N (from 0) of the work of embed, and finish nothing."
    ),
]


@with_consent
def command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Pipeline to run: a YAML file, or the name of a pipeline that comes with curate.",
            autocompletion=completion.pipelines,
        ),
    ],
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME.KEY=VALUE", help="Set an option of the entry that makes NAME. [repeatable]"
        ),
    ] = None,
    slurm: SlurmFlag = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --slurm: print the scripts, and write and submit nothing.")
    ] = False,
    part: PartFlag = None,
    store: StoreFlag = Path("store"),
    *,
    consent: Consent,
) -> None:
    """Run `curate run`: check every entry of a pipeline, then run the entries in order, or submit them to Slurm."""
    from ..store import Store

    if dry_run and slurm is None:
        raise ConfigError("--dry-run prints the scripts of jobs: give --slurm, too, such as --slurm partition=gpu.")
    if part is not None and slurm is not None:
        raise ConfigError("--part is for the jobs that --slurm submits: leave out one of them.")
    entries = read(file, sets or (), store)
    following = next_steps(file)
    allowed = with_consent_of(entries, file, consent)
    if slurm is not None:
        _submit(Store(store), allowed, slurm, file, dry_run=dry_run)
    elif part is not None:
        _run_part(Store(store), allowed, part)
    else:
        say(*run(Store(store), allowed), *following)


def _run_part(store: Store, entries: Sequence[Entry], text: str) -> None:
    """Do part K of N of every entry, of stages whose work can be shared."""
    from ..stages import run_part

    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise ConfigError(f"--part needs K/N with K from 0 and below N, such as 0/8, not {text!r:.40}.")
    for entry in entries:
        if entry.config is None:
            raise ConfigError("The work of a query cannot be shared by jobs: leave out --part.")
        run_part(store, entry.stage, entry.config, int(part), int(parts))


def _submit(store: Store, entries: Sequence[Entry], given: Sequence[str], file: Path, *, dry_run: bool) -> None:
    """Submit a pipeline to Slurm and print its jobs; with `dry_run` print their scripts only."""
    from ..executors.slurm.submit import find_sbatch, submit
    from ..stages.jobs import plan

    planned = plan(store, entries, given, file.stem)
    if dry_run:
        for job in planned.jobs:
            after = "".join(f" after {other.name}" for other in job.after[:1])
            after += "".join(f" and {other.name}" for other in job.after[1:])
            say(f"# {job.path}{after}", job.text, hide_secrets=False)  # a script, as it would be written
        return
    sbatch = find_sbatch()
    if not planned.jobs:
        LOGGER.info("Every entry is finished: there is nothing to submit.")
        return
    planned.write()
    numbers = submit(planned.jobs, sbatch)
    for job in planned.jobs:
        say(f"{numbers[job.name]}  {job.name}" + "".join(f"  after {numbers[other.name]}" for other in job.after))
    LOGGER.info(f"Scripts and logs are in {planned.folder}.")


def run(store: Store, entries: Sequence[Entry]) -> list[str]:
    """Run the entries in order. Log one line per entry to stderr; print answers and comparisons to stdout.

    Returns:
        Lines `name  path`: the folder of every exported dataset, and the folder of the store.
    """
    outputs: dict[str, Path] = {}
    for number, entry in enumerate(entries, 1):
        start = time.monotonic()
        if entry.query is not None:
            say(f"\n{about(entry.sql) or entry.label}\n")
            print_answer(store.root, entry.sql, entry.query.params or {}, entry.query.limits, longest=LONGEST)
            end = "answered"
        elif entry.config is not None:
            artifact, fresh = make_or_find(store, entry.stage, entry.config)
            end = f"made in {time.monotonic() - start:.1f} s" if fresh else "found"
            if destination := getattr(entry.config, "destination", None):
                outputs[f"dataset {artifact.name}"] = destination
            if (show := stage_of(entry.stage).show) is not None:
                say("", show(entry.config, artifact), "")
        LOGGER.info(f"[{number}/{len(entries)}] {entry.stage} {entry.label} ... {end}")
    outputs["store"] = store.root
    width = max(map(len, outputs))
    return [f"{name:<{width}}  {path}" for name, path in outputs.items()]
