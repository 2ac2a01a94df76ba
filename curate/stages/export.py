"""`curate export`: write the samples that a run kept, a subset holds or SQL chose, as a Hugging Face data set.

The result is kept in the store and copied to `--to`, so that asking again costs a copy. What was chosen counts in the
fingerprint, not only how it was asked for: when a query's answer changes, so does the export.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator

from ..config import INERT, Config, Ref
from ..errors import ArtifactNotFound, ConfigError, DataError, did_you_mean
from ..formats import render
from ..log import LOGGER
from ..samples import Sample, to_json
from ..store import Artifact, Draft, Store
from .card import card
from .delivery import copy_out, push, write_rows
from .inputs import Inputs
from .pools import samples_of

EXAMPLES = """\
curate export --run uds --to exports/uds --name uds-kept
curate export --subset subset --as jsonl --name chosen
curate export --run uds --min-times-kept 2 --columns score,times_kept --as jsonl --name twice
curate export --sql "SELECT sample_id, loss FROM features WHERE loss < 2 ORDER BY loss" --pool pool --name easy
curate export --run uds --format messages --push-to-hub me/uds-kept --name uds-chat"""

Format = Literal["original", "messages", "prompt-completion", "alpaca", "sharegpt"]


class ExportConfig(Config):
    """Which samples, in which format, to where."""

    run: Ref | None = Field(None, description="Export what this run kept, in the order that it was first kept.")
    subset: Ref | None = Field(None, description="Export this subset (curate select), in its order.")
    sql: str | None = Field(None, description="Export what this query chooses (it gives a sample_id), in its order.")
    pool: Ref | None = Field(
        None, description="Where the samples are; by default the run's or subset's, or the only one."
    )
    to: Annotated[str | None, INERT] = Field(None, description="The folder to write; by default exports/NAME.")
    overwrite: Annotated[bool, INERT] = Field(False, description="Replace whatever is in that folder.")
    file_format: Literal["hf", "jsonl", "parquet"] = Field(
        "hf", description="hf is for datasets.load_from_disk.", json_schema_extra={"flag": "as"}
    )
    format: Format = Field("original", description="Shape of the rows; original is the columns as they came.")
    columns: tuple[str, ...] = Field(
        (), description="Further columns: of the query, or score, times_kept, loss, weight, ...; source, sample_id."
    )
    min_times_kept: int = Field(1, ge=1, description="With --run, only samples that were kept so often.")
    push_to_hub: Annotated[str | None, INERT] = Field(None, description="Upload it to this Hub repository, too.")
    private: Annotated[bool, INERT] = Field(True, description="The Hub repository is private, if it is a new one.")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if [self.run, self.subset, self.sql].count(None) != 2:
            raise ValueError("give either --run or --sql or --subset")
        return self

    @property
    def destination(self) -> Path:
        """The folder that the data set is written to."""
        return Path(self.to).expanduser() if self.to else Path("exports") / self.name


CONFIG = ExportConfig

SUBSETS = pa.schema({"sample_id": pa.string(), "rank": pa.int64(), "score": pa.float64(), "weight": pa.float64()})


@dataclass(frozen=True)
class Choice:
    """Which samples, from which pool: one row a sample, `sample_id` and whatever else is known of it."""

    pool: Artifact
    rows: pa.Table

    @property
    def sample_ids(self) -> list[str]:
        """In order."""
        ids: list[str] = self.rows["sample_id"].to_pylist()
        return ids


def more_inputs(config: ExportConfig, inputs: Inputs) -> dict[str, str]:
    """The pool, where the config leaves it open, and what the query answers."""
    choice = choose(config, inputs)
    used = [name for name in ("sample_id", "score", "weight", *config.columns) if name in choice.rows.column_names]
    content = to_json(choice.rows.select(list(dict.fromkeys(used))).to_pydict())
    return {
        "pool": choice.pool.fingerprint,
        "choice": "b2:" + hashlib.blake2b(content.encode(), digest_size=16).hexdigest(),
    }


def run(config: ExportConfig, inputs: Inputs, draft: Draft) -> None:
    """Write the data set, its card and which samples it holds."""
    draft.restart()
    choice = choose(config, inputs)
    samples = _samples(choice)
    rows = _with_columns(render(samples, config.format), samples, choice.rows, config)
    write_rows(rows, draft.files, config.file_format)
    draft.rows = len(rows)
    draft.add("subsets", _subset_facts(choice))
    draft.summary |= {"rows": len(rows), "pool": inputs.store.labels()[choice.pool.fingerprint]}
    text = card(config.model_dump(mode="json"), inputs.store, choice.pool, _made_by(inputs), samples)
    (draft.files / "README.md").write_text(text, encoding="utf-8")


def deliver(config: ExportConfig, artifact: Artifact) -> None:
    """Copy the data set to `--to`, and to the Hub if that was asked for."""
    copy_out(artifact, config.destination, config.name, overwrite=config.overwrite)
    LOGGER.info(f"{artifact.rows} samples in {config.destination}")
    if config.push_to_hub:
        push(artifact.files, config.push_to_hub, private=config.private)
        LOGGER.info(f"pushed to https://huggingface.co/datasets/{config.push_to_hub}")


# Choosing


def choose(config: ExportConfig, inputs: Inputs) -> Choice:
    """What the run kept, the subset holds or the query answers; an id that comes twice counts where it comes first."""
    pool = _pool(config, inputs)
    if config.sql is not None:
        rows = inputs.store.query(config.sql)
        if "sample_id" not in rows.column_names:
            raise DataError(f"The query must give a column sample_id; it gives {', '.join(rows.column_names)}.")
        what = "The query chooses no sample."
    elif config.subset is not None:
        rows, what = inputs.artifacts["subset"].table(), f"The subset '{config.subset}' is empty."
    else:
        rows = _kept(inputs.store, inputs.artifacts["run"], config.min_times_kept)
        what = f"The run '{config.run}' kept no sample {config.min_times_kept} times or more."
    rows = _each_once(rows)
    if not rows.num_rows:
        raise DataError(f"{what} Nothing is exported.")
    return Choice(pool, rows)


def _pool(config: ExportConfig, inputs: Inputs) -> Artifact:
    if "pool" in inputs.artifacts:
        return inputs.artifacts["pool"]
    store = inputs.store
    labels = store.labels()
    pools = [artifact for artifact in store.artifacts() if artifact.stage == "ingest"]
    if made_by := _made_by(inputs):
        wanted = made_by.inputs.get("pool")
        pools = [pool for pool in pools if pool.fingerprint == wanted]
    else:
        pools = [pool for pool in pools if labels[pool.fingerprint] == pool.name]
    if len(pools) == 1:
        return pools[0]
    names = ", ".join(sorted(pool.name for pool in pools))
    said = f"The store {store.root} has several pools ({names})" if pools else "The pool of these samples is not found"
    raise ArtifactNotFound(f"{said}: give --pool.")


def _made_by(inputs: Inputs) -> Artifact | None:
    """The run or subset that is exported; None for what SQL chose."""
    return inputs.artifacts.get("run") or inputs.artifacts.get("subset")


def _kept(store: Store, made_by: Artifact, min_times: int) -> pa.Table:
    """One row a sample that a run kept: how often, when, and means of what the ledger says of it when it was kept."""
    label = store.labels()[made_by.fingerprint]
    found = store.query(
        "SELECT DISTINCT unnest(map_keys(parts)) AS part FROM ledger WHERE run = $run AND kept ORDER BY part",
        {"run": label},
    )
    fixed = ("sample_id", "times_kept", "first_step", "last_step", "score", "weight", "loss", "tokens", "target_tokens")
    parts = [part for part in found["part"].to_pylist() if part not in fixed]
    means = "".join(f", avg(parts[{_quoted(part, chr(39))}]) AS {_quoted(part, chr(34))}" for part in parts)
    return store.query(
        "SELECT sample_id, count(*) AS times_kept, min(step) AS first_step, max(step) AS last_step, "
        "avg(score) AS score, avg(weight) AS weight, avg(loss) AS loss, any_value(tokens) AS tokens, "
        f"any_value(target_tokens) AS target_tokens{means} FROM ledger WHERE run = $run AND kept "
        'GROUP BY sample_id HAVING count(*) >= $least ORDER BY min((step, "rank", slot)), sample_id',
        {"run": label, "least": min_times},
    )


def _quoted(text: str, mark: str) -> str:
    return mark + text.replace(mark, mark + mark) + mark


def _each_once(rows: pa.Table) -> pa.Table:
    first: dict[Any, int] = {}
    for number, sample_id in enumerate(rows["sample_id"].to_pylist()):
        if sample_id is not None:
            first.setdefault(str(sample_id), number)
    chosen = rows.take(pa.array(first.values(), pa.int64()))
    return chosen.set_column(chosen.column_names.index("sample_id"), "sample_id", pa.array(first, pa.string()))


def _samples(choice: Choice) -> list[Sample]:
    found = samples_of(choice.pool, choice.sample_ids)
    missing = [sample_id for sample_id in choice.sample_ids if sample_id not in found]
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            f"{len(missing)} of {len(choice.sample_ids)} sample_ids are not in the pool '{choice.pool.name}': {some}. "
            "Give the --pool that they come from, or narrow the query to it."
        )
    return [found[sample_id] for sample_id in choice.sample_ids]


# Writing


def _with_columns(
    rows: list[dict[str, Any]], samples: Sequence[Sample], chosen: pa.Table, config: ExportConfig
) -> list[dict[str, Any]]:
    """The rows with the columns that were asked for: of the choice, of the sample, or of the row as it came."""
    present = {column for row in rows for column in row}
    came = {column for sample in samples for column in sample.original}
    for column in config.columns:
        if column in present and column in came and column not in chosen.column_names:
            continue
        if column in present:
            raise ConfigError(
                f"columns: the rows have a column '{column}' of their own. Choose with --sql and name the other one "
                "otherwise (AS), or leave it out."
            )
        if column in chosen.column_names:
            values = chosen[column].to_pylist()
        elif column == "source":
            values = [sample.source for sample in samples]
        elif column in came:
            values = [sample.original.get(column) for sample in samples]
        else:
            known = [*chosen.column_names, "source", *came]
            raise ConfigError(f"columns: nothing is known as '{column}'.{did_you_mean(column, known)}")
        rows = [row | {column: value} for row, value in zip(rows, values, strict=True)]
    return rows


def _subset_facts(choice: Choice) -> pa.Table:
    def numbers(name: str) -> list[float | None]:
        if name not in choice.rows.column_names or not _is_number(choice.rows[name].type):
            return [None] * choice.rows.num_rows
        return [None if value is None else float(value) for value in choice.rows[name].to_pylist()]

    columns = {"sample_id": choice.sample_ids, "rank": range(choice.rows.num_rows)}
    return pa.table({**columns, "score": numbers("score"), "weight": numbers("weight")}, schema=SUBSETS)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))
