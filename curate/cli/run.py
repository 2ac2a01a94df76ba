"""The command `curate run`: run a pipeline, which is a YAML file with a list of stages.

    stages:
      - ingest: {name: pool, data: [pool.jsonl]}
      - train: {config: configs/uds.yaml, name: uds, pool: pool}
      - query: {file: compare_runs.sql, params: {run: uds}, timeout: 60}

The key `config` of an entry names a YAML file; the other keys of the entry override it. All entries are checked before
the first one runs. The stages run in order. A stage finds what is already in the store, so a stopped pipeline resumes
when it is run again. Answers of queries and tables of comparisons are printed. Next to `stages` a pipeline may have
`next`: lines that are printed at the end, for example the commands to go on with.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from pydantic import Field, model_validator

from ..config import Config, Options, assign, build, read_yaml
from ..errors import ConfigError, CurateError, did_you_mean
from ..log import LOGGER
from ..runtime import bundled
from ..runtime.terminal import say
from ..stages import STAGES, build_config, stage_of
from ..stages.consent import Consent, check
from ..stages.query_options import QueryOptions
from . import completion
from .answer import print_answer
from .flags import StoreFlag, with_consent
from .query import about, find
from .stage import make_or_find

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

QUERY = "query"
NEXT = "next"
"""Key of a pipeline with the lines that are printed at its end."""

LONGEST = 20
"""Largest number of rows that a pipeline shows of an answer."""


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
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm",
            metavar="[NAME.]KEY=VALUE",
            help="Submit a job of Slurm for each entry, with this option of sbatch (partition=gpu); for one stage or "
            "entry with its name (train.gpus-per-node=4). embed.array=N shares the work of embed among N jobs. "
            "[repeatable]",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --slurm: print the scripts, and write and submit nothing.")
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(
            "--part", metavar="K/N", help="Do only part K of N (from 0) of the work of embed, and finish nothing."
        ),
    ] = None,
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
    allowed = []
    for number, entry in enumerate(entries, 1):
        who = f"{file}, entry {number} ({entry.stage} {entry.label}),"
        options = entry.config or entry.query
        withheld = check(options.model_dump(), consent, who, flat=True) if options is not None else {}
        config = entry.config.model_copy(update=withheld) if entry.config is not None else None
        allowed.append(replace(entry, config=config))
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
            say(f"# {job.path}{after}", job.text)
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


class QueryEntry(QueryOptions, Options):
    """Options of a `query` entry of a pipeline."""

    file: str | None = Field(None, description="File of SQL, or name of a saved question.")
    sql: str | None = Field(None, description="SQL text.")
    params: dict[str, Any] | None = Field(None, description="Values of the parameters $name in the SQL.")

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if bool(self.file) == bool(self.sql):
            raise ValueError("give either file or sql")
        return self


@dataclass(frozen=True)
class Entry:
    """One entry of a pipeline: a stage with its config, or a query with its SQL.

    Attributes:
        stage: the name of the stage, or `query`.
        label: the name that messages show: the name of the artifact, or the file of the query.
        config: the config of the stage; None for a query.
        query: the options of the query; None for a stage.
        sql: the SQL of the query; empty for a stage.
    """

    stage: str
    label: str
    config: Config | None = None
    query: QueryEntry | None = None
    sql: str = ""


def read(file: Path, sets: Iterable[str] = (), root: Path = Path("store")) -> list[Entry]:
    """Read a pipeline and check every entry.

    Args:
        file: the YAML file, or the name of a pipeline that comes with curate.
        sets: overrides `name.key=value`, where `name` is the name of the artifact that an entry makes.
        root: the folder of the store, which may hold saved questions.

    Raises:
        ConfigError: the file, an entry or an override is wrong.
    """
    file, content = _content(file)
    stages = content.get("stages")
    if not isinstance(stages, list) or not stages:
        raise ConfigError(
            f"{file} lists no stages. Write 'stages:', and below it a line '- stage: {{key: value}}' for each stage."
        )
    raw = [_split(item, f"{file}, entry {number}") for number, item in enumerate(stages, 1)]
    _override(raw, sets, file)
    return [_entry(stage, values, f"{file}, entry {n} ({stage})", root) for n, (stage, values) in enumerate(raw, 1)]


def next_steps(file: Path) -> list[str]:
    """Return the lines that a pipeline prints at its end, below an empty line; none if it has no key `next`.

    Raises:
        ConfigError: `next` is not a list of texts.
    """
    file, content = _content(file)
    lines = content.get(NEXT, [])
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ConfigError(f"{file}: {NEXT} needs a list of texts, not {lines!r:.80}.")
    return ["", *lines] if lines else []


def _content(file: Path) -> tuple[Path, dict[str, Any]]:
    """Return the path of a pipeline's file, and its keys."""
    given, file = file, bundled.pipeline(file)
    if not file.exists() and not given.suffix:
        raise ConfigError(
            f"There is no file and no pipeline '{given}'.{did_you_mean(given.name, bundled.names('pipelines'))}"
        )
    content = read_yaml(file)
    if unknown := [key for key in content if key not in ("stages", NEXT)]:
        raise ConfigError(f"{file}: unknown key '{unknown[0]}'.{did_you_mean(str(unknown[0]), ['stages', NEXT])}")
    return file, content


def _split(item: Any, where: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(item, dict) or len(item) != 1:
        raise ConfigError(
            f"{where}: needs one stage and its keys, as in '- ingest: {{name: pool, data: [pool.jsonl]}}'."
        )
    stage, values = next(iter(item.items()))
    if stage not in (*STAGES, QUERY):
        raise ConfigError(f"{where}: there is no stage '{stage}'.{did_you_mean(str(stage), (*STAGES, QUERY))}")
    if not isinstance(values, dict):
        raise ConfigError(f"{where} ({stage}): needs keys and values, not {values!r}.")
    values = dict(values)
    if stage == QUERY or "config" not in values:
        return stage, values
    file = values.pop("config")
    if not isinstance(file, str):
        raise ConfigError(f"{where} ({stage}): config needs the name of a YAML file, not {file!r:.80}.")
    base = read_yaml(Path(file))
    return stage, {**base, **values}


def _override(raw: Sequence[tuple[str, dict[str, Any]]], sets: Iterable[str], file: Path) -> None:
    names = {str(values["name"]): values for _, values in raw if "name" in values}
    for pair in sets:
        target = max((name for name in names if pair.startswith(f"{name}.")), key=len, default=None)
        if target is None:
            name = pair.split("=", 1)[0].rpartition(".")[0] or pair
            raise ConfigError(
                f"--set {pair.partition('=')[0]}: {file} makes nothing named '{name}'.{did_you_mean(name, names)}"
            )
        assign(names[target], pair.removeprefix(f"{target}."))


def _entry(stage: str, values: dict[str, Any], where: str, root: Path) -> Entry:
    if stage != QUERY:
        config = build_config(stage, values, where=f" in {where}")
        return Entry(stage, config.name, config=config)
    query = build(QueryEntry, values, where=f" in {where}")
    try:
        sql = query.sql or find(query.file or "", root)
    except CurateError as error:
        raise ConfigError(f"{where}: {error}") from None
    return Entry(stage, query.file or "sql", query=query, sql=sql)


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
