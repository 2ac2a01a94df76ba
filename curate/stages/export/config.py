"""Options of `curate export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ...config import NOT_HASHED, POWER, NamedConfig, Ref
from ...formats.locations import is_url, local
from ..query_options import QueryOptions
from .trainers import AUTO, resolve_formats

Format = Literal["original", "messages", "prompt-completion", "alpaca", "sharegpt", "auto"]


class ExportConfig(QueryOptions, NamedConfig):
    """Options of `curate export`: the samples, their format, and the destination."""

    run: Ref | None = Field(
        None, description="Export the samples that this run kept, in the order in which it first kept them."
    )
    subset: Ref | None = Field(
        None, description="Export this subset (made by curate select, curriculum or subset), in its order."
    )
    sql: str | None = Field(
        None, description="Export the samples that this query returns, in its order; it must return a sample_id."
    )
    pool: Ref | None = Field(
        None, description="The pool of the samples. Default: the pool of the run or subset, or the store's only pool."
    )
    to: Annotated[str | None, NOT_HASHED, POWER] = Field(
        None, description="The folder or URL to write to. Default: exports/NAME."
    )
    overwrite: Annotated[bool, NOT_HASHED, POWER] = Field(
        False,
        description="Also replace an export of another name, and write next to other files, which stay as they are.",
    )
    file_format: Literal["hf", "jsonl", "parquet"] = Field(
        "hf",
        description="Format of the files; hf is for datasets.load_from_disk.",
        json_schema_extra={"flag": "as"},
    )
    format: Format = Field(
        "original",
        description="Format of the rows; original keeps the columns as they were ingested. auto, the default of --for "
        "trl, is messages, or prompt-completion where TRL has the masks of curate train only there.",
    )
    columns: tuple[str, ...] = Field(
        (),
        description="Columns to add: score, times_kept, loss, weight, source, sample_id, or any column of the query. "
        "With chosen answers of conversations (column chosen_turns) they are lists, one value per answer.",
    )
    trainer: Literal["trl", "llama-factory", "axolotl", "ms-swift"] | None = Field(
        None,
        description="Write formats and files for this trainer, with instructions to keep the order.",
        json_schema_extra={"flag": "for"},
    )
    min_times_kept: int = Field(1, ge=1, description="With --run, export only samples kept at least this many times.")
    push_to_hub: Annotated[str | None, NOT_HASHED, POWER] = Field(
        None, description="Upload the dataset to this Hub repository as well."
    )
    private: Annotated[bool, NOT_HASHED, POWER] = Field(
        True, description="Make the Hub repository private if the upload creates it."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if [self.run, self.subset, self.sql].count(None) != 2:
            raise ValueError("give either --run or --sql or --subset")
        if self.trainer is not None:
            given = {str(name): getattr(self, name) for name in ("format", "file_format")}
            given = {name: value for name, value in given.items() if name in self.model_fields_set}
            for name, value in resolve_formats(self.trainer, given).items():
                object.__setattr__(self, name, value)
        elif self.format == AUTO:
            raise ValueError("format auto needs --for trl")
        return self

    def obvious_name(self) -> str:
        """Return the name of the folder at the destination, or of what is exported."""
        folder = Path(self.to.rstrip("/")).name if self.to else ""
        name = folder.strip(".") or self.run or self.subset or ""
        return self.name_beside(name, "export")

    @property
    def destination(self) -> Path | str:
        """The folder or URL that the dataset is copied to."""
        if self.to and is_url(self.to):
            return local(self.to) or self.to
        return Path(self.to).expanduser() if self.to else Path("exports") / self.name
