"""`curate ingest`: read a pool of instruction data into the store.

Rows of any supported format become samples. A row that cannot become a sample is rejected, and recorded with file, row
and reason: `SELECT reason, count(*) FROM rejects GROUP BY ALL`. A pool may be larger than memory: one shard is in
memory at a time, and with `--deduplicate` 24 to 48 bytes per conversation. An ingest that was stopped starts again from
the first row.
"""

from __future__ import annotations

import gc
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from struct import Struct
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ..config import EXTERNAL, NOT_HASHED, NamedConfig
from ..errors import ConfigError, DataError, did_you_mean
from ..formats import (
    Notes,
    ReadOptions,
    Row,
    Unusable,
    parse_columns,
    parse_roles,
    parse_take,
    to_sample,
    with_layout,
)
from ..formats.locations import shown, writable
from ..log import LOGGER, bar
from ..runtime.redaction import redacted
from ..samples import Sample, to_json, to_table, weights_of
from ..store import Draft
from .ingest_report import Report
from .inputs import Inputs, label_of
from .stage import Stage

EXAMPLES = """\
curate ingest --data alpaca.parquet --name pool
curate ingest --data math=gsm8k.jsonl --data chat=sharegpt/ --licence math=mit,chat=cc-by-4.0 --name pool
curate ingest --data qa.csv --columns prompt=frage,completion=antwort --strict --name qa
curate ingest --data graded.jsonl --weight-column grade --name graded
curate ingest --data s3://bucket/chats/ --data https://example.org/qa.jsonl.gz --name remote
curate ingest --data tatsu-lab/alpaca --licence cc-by-nc-4.0 --deduplicate --name alpaca"""

MOST_CHARACTERS = 1 << 28
"""Most characters of the rows of a shard: a text column of Arrow ends at 2 GiB, and a shard is held in memory."""
MOST_REASONS = 200
"""Different reasons that the summary counts: reasons may contain names from the data."""
OTHER = "other reasons"
DUPLICATE = "duplicate of an earlier row"
"""Reason for which `--deduplicate` rejects a row."""
FEW_COLLECTIONS = 50_000
"""New objects between two searches for cyclic garbage while rows are read; Python's default is 700."""
WEIGHTLESS = "weight 0"
"""Reason for which a row is rejected that would not be trained on."""


def _as_locations(value: Any) -> Any:
    locations = (value,) if isinstance(value, str) else value
    if not isinstance(locations, (list, tuple)):
        return locations
    return [writable(each) if isinstance(each, str) else each for each in locations]


def _as_text(value: Any) -> Any:
    return ",".join(f"{key}={item}" for key, item in value.items()) if isinstance(value, dict) else value


class IngestConfig(NamedConfig):
    """Options of `curate ingest`: the data to read, and the treatment of rows that cannot be used."""

    BEFORE: ClassVar[Mapping[str, Any]] = {"roles": {}, "take": None, "metadata_columns": (), "weight_column": None}

    data: Annotated[tuple[str, ...], BeforeValidator(_as_locations), EXTERNAL] = Field(
        min_length=1,
        description="Data to read: a file, a folder, a save_to_disk folder, a URL or a Hub id; with a label for the "
        "source, label=LOCATION.",
    )
    split: str = Field("train", description="Split to read, if the data has splits.")
    subset: str | None = Field(None, description="Configuration (subset) of a Hub dataset.")
    columns: Annotated[dict[str, str], BeforeValidator(parse_columns)] = Field(
        default_factory=dict,
        description="Names of the columns, if they are not the usual ones: prompt=a,completion=b.",
    )
    roles: Annotated[dict[str, str], BeforeValidator(parse_roles)] = Field(
        default_factory=dict,
        description="Names of speakers that curate does not know, with their roles: NAME=assistant,NAME=user.",
    )
    take: str | None = Field(
        None,
        description="Rows of preference or KTO data to train on: chosen, or label=true (or another COLUMN=VALUE); by "
        "default such rows are rejected.",
    )
    metadata_columns: tuple[str, ...] = Field(
        (), description="Columns that are no part of the conversation, under any name."
    )
    weight_column: str | None = Field(
        None,
        min_length=1,
        description="Column with the weight of a row in the loss, a number from 0: 2 means the same as the row twice. "
        "By default the column weight, if there is one.",
    )
    strict: bool = Field(
        False,
        description="Stop with an error at the first row that cannot be used, or of which something that looks like "
        "content would be left out.",
    )
    deduplicate: bool = Field(False, description="Reject exact copies of earlier conversations.")
    licence: Annotated[str | None, BeforeValidator(_as_text)] = Field(
        None, description="Licence of the data, for the card of exports: mit, or per label a=mit,b=cc-by-4.0."
    )
    shard_rows: Annotated[int, NOT_HASHED] = Field(10_000, gt=0, description="Rows per Parquet file, and in memory.")

    @field_validator("take")
    @classmethod
    def _check_take(cls, value: str | None) -> str | None:
        if value is not None:
            parse_take(value)
        return value

    @model_validator(mode="after")
    def _check_weight(self) -> Self:
        if self.weight_column in self.metadata_columns:
            raise ValueError(
                f"'{self.weight_column}' is given as --weight-column and as --metadata-columns: choose one"
            )
        return self

    def reading(self) -> ReadOptions:
        """Return how rows are read."""
        return ReadOptions(
            roles=self.roles,
            take=parse_take(self.take) if self.take else None,
            metadata=frozenset(self.metadata_columns),
            weight=self.weight_column,
            notes=Notes(strict=self.strict),
        )

    def obvious_name(self) -> str:
        """Return the label of the data, if there is one entry of it."""
        return label_of(self.data[0]).rpartition("/")[2] if len(self.data) == 1 else ""


REJECT_RECORDS = {"source": "string", "file": "string", "row": "int64", "sample_id": "string", "reason": "string"}
SAMPLE_RECORDS = {
    "sample_id": "string",
    "position": "int64",
    "source": "string",
    "format": "string",
    "turns": "int32",
    "characters": "int64",
    "metadata": "string",
    "weight": "float64",
}
"""Columns of the records -> their Arrow types."""


def run(config: IngestConfig, inputs: Inputs, draft: Draft) -> None:
    """Read all `data` into shards, and write the records of the tables `samples` and `rejects`."""
    from ..formats import read_location

    sources = [key.split(".", 2)[2] for key in inputs.locations]
    licences = licences_of(config.licence, sources)
    draft.restart()
    reading = config.reading()
    report = Report(reading.notes)
    pool = _Pool(config, draft, report)
    with _few_collections(), bar(total=None, label="ingest", unit="row") as progress:
        for source, (key, location) in zip(sources, inputs.locations.items(), strict=True):
            LOGGER.debug("reading %s", shown(location))
            rows = read_location(
                location, split=config.split, subset=config.subset, revision=_commit(inputs, key), notes=reading.notes
            )
            for row, layout in with_layout(rows, config.columns, reading):
                progress.update()
                try:
                    if row.values is None or layout is None:
                        raise Unusable(row.reason)
                    pool.add(row, to_sample(row.values, layout, source, reading))
                    if row.types is not None:
                        pool.keep_types(row.types)
                except Unusable as reason:
                    pool.reject(row, source, str(reason))
    pool.close()
    _check_weights(config, reading.notes)
    draft.summary |= {"licences": licences}
    for line in report.lines(pool.counts["formats"], pool.counts["rejects"]):
        LOGGER.info(line)


@contextmanager
def _few_collections() -> Iterator[None]:
    """Search for cyclic garbage once in some thousand rows, and as often as before at the end.

    Rows and samples form no cycles, so Python frees them without a search. Searching the samples of a shard after every
    few hundred rows took about a tenth of the time in which rows become samples. The limit is one of the process.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], FEW_COLLECTIONS) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _check_weights(config: IngestConfig, notes: Notes) -> None:
    """Raise `DataError` if no row has the column that should hold the weights."""
    column = config.weight_column
    if column is not None and column not in notes.weights:
        others = [name for name in notes.columns if name != column]
        raise DataError(
            f"No row that can be used has a weight in the column '{column}' (--weight-column)."
            f"{did_you_mean(column, others)}"
        )


def licences_of(text: str | None, sources: list[str]) -> dict[str, str]:
    """Return source -> licence.

    Args:
        text: one licence for all sources, or `label=licence,label=licence`.
        sources: labels of all sources.

    Raises:
        ConfigError: no source has a label of `text`.
    """
    if not text:
        return {}
    if "=" not in text:
        return dict.fromkeys(sources, text.strip())
    pairs = [pair.partition("=") for pair in re.split(r",(?=[^,]*=)", text)]
    licences = {label.strip(): licence.strip() for label, _, licence in pairs}
    for label in licences:
        if label not in sources:
            raise ConfigError(f"licence: there is no data with the label '{label}'.{did_you_mean(label, sources)}")
    return licences


def _commit(inputs: Inputs, key: str) -> str | None:
    """Return the commit in the fingerprint of a Hub id, so that exactly this commit is read; None for other data."""
    fingerprint = inputs.fingerprints[key]
    return fingerprint.removeprefix("hub:") if fingerprint.startswith("hub:") else None


class _Pool:
    """Writer of the pool: collects samples and rejects, and writes them to the draft shard by shard."""

    def __init__(self, config: IngestConfig, draft: Draft, report: Report) -> None:
        self.config, self.report = config, report
        self.draft = draft
        self.shards = 0
        self.rows = self.weighted = 0
        self.samples: list[Sample] = []
        self.characters = 0
        self.rejects: list[dict[str, Any]] = []
        self.reject_parts = 0
        self.ids = IdSet() if config.deduplicate else None
        self.types: dict[str, str] = {}
        self.last_types: Mapping[str, str] | None = None
        self.counts: dict[str, Counter[str]] = {"sources": Counter(), "formats": Counter(), "rejects": Counter()}

    def keep_types(self, types: Mapping[str, str]) -> None:
        """Keep the Arrow types of columns for exports; a column that has two types in the data has none."""
        if types is not self.last_types:
            self.last_types = types
            for column, kind in types.items():
                self.types[column] = kind if self.types.get(column, kind) == kind else ""

    def add(self, row: Row, sample: Sample) -> None:
        """Add a sample; reject one of weight 0, and with `--deduplicate` a copy of an earlier one, of any weight."""
        if not sample.weight:
            self.reject(row, sample.source, WEIGHTLESS, sample.sample_id, strict=False)
            return
        if self.ids is not None and not self.ids.add(bytes.fromhex(sample.sample_id)):
            self.reject(row, sample.source, DUPLICATE, sample.sample_id, strict=False)
            return
        self.samples.append(sample)
        self.characters += len(sample.original_json)
        if len(self.samples) == self.config.shard_rows or self.characters > MOST_CHARACTERS:
            self._write_samples()

    def reject(self, row: Row, source: str, reason: str, sample_id: str | None = None, *, strict: bool = True) -> None:
        """Reject a row: record its file, row number and reason.

        Args:
            row: the row.
            source: label of its source.
            reason: reason, in a few words.
            sample_id: id of its sample, if it could be read.
            strict: raise an error with `--strict`; False for rows that are no errors.

        Raises:
            DataError: `--strict` is given.
        """
        if strict and self.config.strict:
            raise DataError(
                f"{row.file}, row {row.number}: {reason}. Fix the row, or remove --strict: then such rows are "
                "rejected, counted and listed in the table rejects."
            )
        reasons = self.counts["rejects"]
        reasons[reason if reason in reasons or len(reasons) < MOST_REASONS else OTHER] += 1
        self.report.reject(reason, row.file, row.number)
        record = {"source": source, "file": row.file, "row": row.number, "sample_id": sample_id, "reason": reason}
        self.rejects.append(record)
        if len(self.rejects) == self.config.shard_rows:
            self._write_rejects()

    def close(self) -> None:
        """Write the last shard and the summary.

        Raises:
            DataError: no row became a sample.
        """
        if self.samples:
            self._write_samples()
        if self.rejects:
            self._write_rejects()
        if not self.rows:
            raise DataError(f"No row of {redacted(', '.join(self.config.data))} can be used{self._reasons()}.")
        self.draft.rows = self.rows
        self.draft.summary |= {"rows": self.rows, "distinct": self._distinct()}
        if self.weighted:
            self.draft.summary["rows with a weight"] = self.weighted
        if types := {column: kind for column, kind in self.types.items() if kind}:
            self.draft.summary["types"] = types
        self.draft.summary |= {name: dict(counter.most_common()) for name, counter in self.counts.items()}

    def _distinct(self) -> int:
        if self.ids is not None:
            return self.rows
        shards = [self.draft.shard(number) for number in range(self.shards)]
        from ..store.rows.out_of_core import count_distinct

        return count_distinct(shards, "sample_id", self.draft.path)

    def _reasons(self) -> str:
        reasons = ", ".join(f"{reason} ({n})" for reason, n in self.counts["rejects"].most_common(5))
        return f": {reasons}" if reasons else ": the data has no rows"

    def _write_samples(self) -> None:
        import pyarrow as pa

        samples = self.samples
        columns = {
            "sample_id": [sample.sample_id for sample in samples],
            "position": range(self.rows, self.rows + len(samples)),
            "source": [sample.source for sample in samples],
            "format": [sample.format for sample in samples],
            "turns": [len(sample.messages) for sample in samples],
            "characters": [sample.characters for sample in samples],
            "metadata": [to_json(sample.metadata) if sample.metadata else "{}" for sample in samples],
            "weight": weights_of(samples),
        }
        self.counts["sources"].update(sample.source for sample in samples)
        self.counts["formats"].update(sample.format for sample in samples)
        self.weighted += sum(sample.weight != 1 for sample in samples)
        records = pa.Table.from_pydict(columns, schema=pa.schema(list(SAMPLE_RECORDS.items())))
        self.draft.write(self.shards, to_table(self.samples, self.rows))
        self.draft.add("samples", records, key=f"{self.shards:05d}")
        self.rows += len(self.samples)
        self.shards += 1
        self.samples, self.characters = [], 0

    def _write_rejects(self) -> None:
        import pyarrow as pa

        table = pa.Table.from_pylist(self.rejects, schema=pa.schema(list(REJECT_RECORDS.items())))
        self.draft.add("rejects", table, key=f"{self.reject_parts:05d}")
        self.reject_parts += 1
        self.rejects = []


TWO_INTEGERS = Struct("<QQ")
"""Layout of a 16-byte id: the low and the high 64-bit integer."""


class IdSet:
    """An append-only set of 16-byte ids. It needs 24 to 48 bytes per id; a Python set needs 100.

    It is a hash table with open addressing and linear probing. The ids are hashes, so their low bits are the slot.
    """

    def __init__(self) -> None:
        self._size = 1 << 10
        self._slots = array("Q", bytes(16 * self._size))
        self._count = 0
        self._has_zero = False  # a slot of zeros is empty, so the id of zeros is kept here

    def __len__(self) -> int:
        return self._count + self._has_zero

    def add(self, sample_id: bytes) -> bool:
        """Add an id of 16 bytes; return False if the set has it already."""
        low, high = TWO_INTEGERS.unpack(sample_id)
        if not low and not high:
            new, self._has_zero = not self._has_zero, True
            return new
        new = self._insert(low, high)
        self._count += new
        if 3 * self._count > 2 * self._size:
            self._grow()
        return new

    def _insert(self, low: int, high: int) -> bool:
        slots, last = self._slots, self._size - 1
        slot = low & last
        while True:
            slot_low, slot_high = slots[2 * slot], slots[2 * slot + 1]
            if slot_low == low and slot_high == high:
                return False
            if not slot_low and not slot_high:
                slots[2 * slot], slots[2 * slot + 1] = low, high
                return True
            slot = (slot + 1) & last

    def _grow(self) -> None:
        old = self._slots
        self._size *= 2
        self._slots = array("Q", bytes(16 * self._size))
        for start in range(0, len(old), 2):
            if old[start] or old[start + 1]:
                self._insert(old[start], old[start + 1])


STAGE = Stage(IngestConfig, run, EXAMPLES)
