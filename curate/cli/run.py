"""Pipelines: YAML files that list stages, run in order. What is made is found, so a stopped pipeline goes on.

    stages:
      - ingest: {name: pool, data: [pool.jsonl]}
      - train: {config: configs/uds.yaml, name: uds, pool: pool}
      - query: {file: compare_runs.sql, params: {run: uds}, timeout: 60}

An entry's `config` names a YAML file that its other keys go over. Every entry is checked before any is run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from pydantic import Field, model_validator

from ..config import Config, Options, assign, build, read_yaml
from ..errors import ConfigError, CurateError, did_you_mean
from ..log import LOGGER
from ..runtime import bundled
from ..runtime.redaction import redacted
from ..stages import STAGES, build_config
from ..stages.query_options import QueryOptions
from . import completion
from .flags import StoreFlag
from .query import about, find, write
from .stage import make_or_find

if TYPE_CHECKING:
    from ..store import Store

EXAMPLES = """
curate run demo
curate run pipelines/demo.yaml
curate run pipelines/demo.yaml --set demo-uds.learning_rate=1e-4
"""

QUERY = "query"
LONGEST = 20
"""Rows of an answer that a pipeline shows."""


def command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The pipeline: a file, or the name of one that comes with curate.",
            autocompletion=completion.pipelines,
        ),
    ],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME.KEY=VALUE", help="An option of what is made as NAME. [repeatable]"),
    ] = None,
    store: StoreFlag = Path("store"),
) -> None:
    """`curate run`: check every entry of a pipeline, then run them in order."""
    from ..store import Store

    entries = read(file, sets or (), store)
    print("\n".join(run(Store(store), entries)))


class Question(QueryOptions, Options):
    """What a query of a pipeline says."""

    file: str | None = Field(None, description="A file of SQL, or a saved question.")
    sql: str | None = Field(None, description="The SQL itself.")
    params: dict[str, Any] | None = Field(None, description="Values of $name.")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if bool(self.file) == bool(self.sql):
            raise ValueError("give either file or sql")
        return self


@dataclass(frozen=True)
class Entry:
    """One line of a pipeline: a stage with its config, or a question with its SQL."""

    stage: str
    label: str
    config: Config | None = None
    question: Question | None = None
    sql: str = ""


def read(file: Path, sets: Iterable[str] = (), root: Path = Path("store")) -> list[Entry]:
    """Every entry of a pipeline, checked; `sets` are `name.key=value`, by the name of what an entry makes."""
    asked, file = file, bundled.pipeline(file)
    if not file.exists() and not asked.suffix:
        raise ConfigError(
            f"There is no file and no pipeline '{asked}'.{did_you_mean(asked.name, bundled.names('pipelines'))}"
        )
    content = read_yaml(file)
    if unknown := [key for key in content if key != "stages"]:
        raise ConfigError(f"{file}: unknown key '{unknown[0]}'.{did_you_mean(str(unknown[0]), ['stages'])}")
    stages = content.get("stages")
    if not isinstance(stages, list) or not stages:
        raise ConfigError(
            f"{file} lists no stages. It wants 'stages:' and below it one '- stage: {{key: value}}' each."
        )
    raw = [_split(item, f"{file}, entry {number}") for number, item in enumerate(stages, 1)]
    _override(raw, sets, file)
    return [_entry(stage, values, f"{file}, entry {n} ({stage})", root) for n, (stage, values) in enumerate(raw, 1)]


def _split(item: Any, where: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(item, dict) or len(item) != 1:
        raise ConfigError(
            f"{where}: wants one stage and its keys, as in '- ingest: {{name: pool, data: [pool.jsonl]}}'."
        )
    stage, values = next(iter(item.items()))
    if stage not in (*STAGES, QUERY):
        raise ConfigError(f"{where}: there is no stage '{stage}'.{did_you_mean(str(stage), (*STAGES, QUERY))}")
    if not isinstance(values, dict):
        raise ConfigError(f"{where} ({stage}): wants keys and values, not {values!r}.")
    values = dict(values)
    if stage == QUERY or "config" not in values:
        return stage, values
    file = values.pop("config")
    if not isinstance(file, str):
        raise ConfigError(f"{where} ({stage}): config wants the name of a YAML file, not {file!r:.80}.")
    base = read_yaml(Path(file))
    return stage, {**base, **values}


def _override(raw: Sequence[tuple[str, dict[str, Any]]], sets: Iterable[str], file: Path) -> None:
    names = {str(values["name"]): values for _, values in raw if "name" in values}
    for pair in sets:
        target = max((name for name in names if pair.startswith(f"{name}.")), key=len, default=None)
        if target is None:
            name = pair.split("=", 1)[0].rpartition(".")[0] or pair
            raise ConfigError(f"--set {pair}: {file} makes nothing named '{name}'.{did_you_mean(name, names)}")
        assign(names[target], pair.removeprefix(f"{target}."))


def _entry(stage: str, values: dict[str, Any], where: str, root: Path) -> Entry:
    if stage != QUERY:
        config = build_config(stage, values, where=f" in {where}")
        return Entry(stage, config.name, config=config)
    question = build(Question, values, where=f" in {where}")
    try:
        sql = question.sql or find(question.file or "", root)
    except CurateError as error:
        raise ConfigError(f"{where}: {error}") from None
    return Entry(stage, question.file or "sql", question=question, sql=sql)


def run(store: Store, entries: Sequence[Entry]) -> list[str]:
    """Run the entries in order: a line each on stderr, the answers of queries on stdout.

    Returns:
        `what  where` lines: the folder of every data set that was written out, and the store's.
    """
    places: dict[str, Path] = {}
    for number, entry in enumerate(entries, 1):
        start = time.monotonic()
        if entry.question is not None:
            print(f"\n{about(entry.sql) or entry.label}\n")
            write(store.query(entry.sql, entry.question.params or {}, entry.question.limits), "table", longest=LONGEST)
            end = "answered"
        elif entry.config is not None:
            artifact, fresh = make_or_find(store, entry.stage, entry.config)
            end = f"made in {time.monotonic() - start:.1f} s" if fresh else "found"
            if destination := getattr(entry.config, "destination", None):
                places[f"dataset {artifact.name}"] = destination
        LOGGER.info(f"[{number}/{len(entries)}] {entry.stage} {entry.label} ... {end}")
    places["store"] = store.root
    width = max(map(len, places))
    return [f"{what:<{width}}  {redacted(str(where))}" for what, where in places.items()]
