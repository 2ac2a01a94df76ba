"""`curate export`: write the samples that a run kept, a subset holds or SQL chose, as a Hugging Face data set.

The result is kept in the store and copied to `--to`, so that asking again costs a copy. What was chosen counts in the
fingerprint, not only how it was asked for: when a query's answer changes, so does the export. It may be larger than
memory: of what was chosen the ids and the asked columns are held, of the samples some at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator

from ...config import NOT_HASHED, Config, Ref
from ...formats.locations import is_url, local, shown
from ...log import LOGGER
from ...store import Artifact, Draft
from ...store.artifacts.files import write_text
from ...store.rows.out_of_core import gather
from ..inputs import Inputs
from ..query_options import QueryOptions
from ..stage import Stage
from ..subsets import SUBSETS
from .card import FILES, card
from .files import write_rows
from .publish import copy_out, push, upload
from .rows import ChosenRows
from .selection import ChosenSamples, choose, made_by
from .trainers import check_calls, described, fitted

EXAMPLES = """\
curate export --run uds --to exports/uds --name uds-kept
curate export --subset subset --as jsonl --name chosen
curate export --subset curriculum --for llama-factory --columns rank,weight --name ordered
curate export --run uds --min-times-kept 2 --columns score,times_kept --as jsonl --name twice
curate export --sql "SELECT sample_id, loss FROM features WHERE loss < 2 ORDER BY loss" --pool pool --name easy
curate export --subset subset --as parquet --to s3://bucket/chosen --name remote
curate export --run uds --format messages --push-to-hub me/uds-kept --name uds-chat"""

Format = Literal["original", "messages", "prompt-completion", "alpaca", "sharegpt"]


class ExportConfig(QueryOptions, Config):
    """Which samples, in which format, to where."""

    run: Ref | None = Field(None, description="Export what this run kept, in the order that it was first kept.")
    subset: Ref | None = Field(None, description="Export this subset (curate select, curate curriculum), in its order.")
    sql: str | None = Field(None, description="Export what this query chooses (it gives a sample_id), in its order.")
    pool: Ref | None = Field(
        None, description="Where the samples are; by default the run's or subset's, or the only one."
    )
    to: Annotated[str | None, NOT_HASHED] = Field(
        None, description="The folder or URL to write to; by default exports/NAME."
    )
    overwrite: Annotated[bool, NOT_HASHED] = Field(False, description="Replace whatever is in that folder.")
    file_format: Literal["hf", "jsonl", "parquet"] = Field(
        "hf", description="hf is for datasets.load_from_disk.", json_schema_extra={"flag": "as"}
    )
    format: Format = Field("original", description="Shape of the rows; original is the columns as they came.")
    columns: tuple[str, ...] = Field(
        (), description="Further columns: of the query, or score, times_kept, loss, weight, ...; source, sample_id."
    )
    trainer: Literal["trl", "llama-factory", "axolotl", "ms-swift"] | None = Field(
        None,
        description="Write what this trainer reads (trl, llama-factory, axolotl, ms-swift), and how it keeps the "
        "order.",
        json_schema_extra={"flag": "for"},
    )
    min_times_kept: int = Field(1, ge=1, description="With --run, only samples that were kept so often.")
    push_to_hub: Annotated[str | None, NOT_HASHED] = Field(None, description="Upload it to this Hub repository, too.")
    private: Annotated[bool, NOT_HASHED] = Field(True, description="The Hub repository is private, if it is a new one.")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if [self.run, self.subset, self.sql].count(None) != 2:
            raise ValueError("give either --run or --sql or --subset")
        if self.trainer is not None:
            given = {str(name): getattr(self, name) for name in ("format", "file_format")}
            given = {name: value for name, value in given.items() if name in self.model_fields_set}
            for name, value in fitted(self.trainer, given).items():
                object.__setattr__(self, name, value)
        return self

    @property
    def destination(self) -> Path | str:
        """The folder, or URL, that the data set is written to."""
        if self.to and is_url(self.to):
            return local(self.to) or self.to
        return Path(self.to).expanduser() if self.to else Path("exports") / self.name


def more_inputs(config: ExportConfig, inputs: Inputs) -> dict[str, str]:
    """The pool, where the config leaves it open, and what the query answers."""
    choice = choose(config, inputs)
    return {
        "pool": choice.pool.fingerprint,
        "choice": choice.digest(["score", "weight", *config.columns]),
    }


def run(config: ExportConfig, inputs: Inputs, draft: Draft) -> None:
    """Write the data set, its card and which samples it holds."""
    draft.restart()
    choice = choose(config, inputs)
    gathered = draft.path / "gathered.parquet"
    gather(choice.pool.shards(), choice.positions(draft.path), gathered)
    rows = ChosenRows(gathered, choice.rows, config.format, config.columns)
    write_rows(rows, draft.files, config.file_format)
    gathered.unlink()
    if config.trainer is not None:
        _describe(config, config.trainer, rows, draft)
    draft.rows = len(choice.rows)
    draft.add("subsets", _subset_facts(choice))
    draft.summary |= {"rows": draft.rows, "pool": inputs.store.display_names()[choice.pool.fingerprint]}
    text = card(config.stored(), inputs.store, choice.pool, made_by(inputs), rows.sources)
    (draft.files / "README.md").write_text(text, encoding="utf-8")


def _describe(config: ExportConfig, trainer: str, rows: ChosenRows, draft: Draft) -> None:
    """Write what the trainer wants beside the rows."""
    if rows.calls or "tools" in rows.present:
        check_calls(trainer, config.format)
    file = FILES.get(config.file_format, "")
    if found := described(trainer, config.format, config.name, file, rows.present):
        write_text(draft.files / found[0], found[1])


def deliver(config: ExportConfig, artifact: Artifact) -> None:
    """Copy the data set to `--to`, and to the Hub if that was asked for."""
    destination = config.destination
    if isinstance(destination, str):
        upload(artifact, destination, config.name, overwrite=config.overwrite)
    else:
        copy_out(artifact, destination, config.name, overwrite=config.overwrite)
    LOGGER.info(f"{artifact.rows} samples in {shown(str(destination))}")
    if config.push_to_hub:
        push(artifact.files, config.push_to_hub, private=config.private)
        LOGGER.info(f"pushed to https://huggingface.co/datasets/{config.push_to_hub}")


def _subset_facts(choice: ChosenSamples) -> pa.Table:
    def numbers(name: str) -> Any:
        if name not in choice.rows.column_names or not _is_number(choice.rows[name].type):
            return pa.nulls(len(choice.rows), pa.float64())
        return choice.rows[name].cast(pa.float64(), safe=False)

    columns = {"sample_id": choice.rows["sample_id"], "rank": pa.array(range(len(choice.rows)), pa.int64())}
    return pa.table({**columns, "score": numbers("score"), "weight": numbers("weight")}, schema=SUBSETS)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


STAGE = Stage(ExportConfig, run, EXAMPLES, more_inputs=more_inputs, deliver=deliver)
