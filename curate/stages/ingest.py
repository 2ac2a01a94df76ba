"""`curate ingest`: read a pool of instruction data into the store.

Rows of whatever format become samples; rows that cannot are kept as rejects with file, row and reason, so that what a
pool is without can be asked of it: `SELECT reason, count(*) FROM rejects GROUP BY ALL`. A pool may be larger than
memory: one shard is held at a time (and, with `--deduplicate`, 24 to 48 bytes a conversation). An ingest that is
stopped begins anew.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from struct import Struct
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BeforeValidator, Field

from ..config import EXTERNAL, NOT_HASHED, Config
from ..errors import ConfigError, DataError, did_you_mean
from ..formats import Row, Unusable, parse_columns, read_location, to_sample, with_layout
from ..formats.locations import shown, writable
from ..log import LOGGER, bar
from ..runtime.redaction import redacted
from ..samples import Sample, to_json, to_table
from ..store import Draft
from ..store.rows.out_of_core import count_distinct
from .inputs import Inputs
from .stage import Stage

EXAMPLES = """\
curate ingest --data alpaca.parquet --name pool
curate ingest --data math=gsm8k.jsonl --data chat=sharegpt/ --licence math=mit,chat=cc-by-4.0 --name pool
curate ingest --data qa.csv --columns prompt=frage,completion=antwort --strict --name qa
curate ingest --data s3://bucket/chats/ --data https://example.org/qa.jsonl.gz --name remote
curate ingest --data tatsu-lab/alpaca --licence cc-by-nc-4.0 --deduplicate --name alpaca"""

MOST_CHARACTERS = 1 << 28
"""Of the rows of a shard: Arrow's texts end at 2 GiB, and a shard is held in memory."""
DUPLICATE = "duplicate of an earlier row"


def _as_places(value: Any) -> Any:
    places = (value,) if isinstance(value, str) else value
    if not isinstance(places, (list, tuple)):
        return places
    return [writable(each) if isinstance(each, str) else each for each in places]


def _as_text(value: Any) -> Any:
    return ",".join(f"{key}={item}" for key, item in value.items()) if isinstance(value, dict) else value


class IngestConfig(Config):
    """What to read, and what to make of rows that are in the way."""

    data: Annotated[tuple[str, ...], BeforeValidator(_as_places), EXTERNAL] = Field(
        min_length=1,
        description="What to read: label=place or a place: a file, a folder, a save_to_disk folder, a URL, a Hub id.",
    )
    split: str = Field("train", description="The split to take, where the data has named ones.")
    subset: str | None = Field(None, description="The configuration of a Hub data set.")
    columns: Annotated[dict[str, str], BeforeValidator(parse_columns)] = Field(
        default_factory=dict,
        description="Which columns are which, where their names do not say: prompt=a,completion=b.",
    )
    strict: bool = Field(False, description="Stop at the first row that cannot be used.")
    deduplicate: bool = Field(False, description="Leave out exact copies of earlier conversations.")
    licence: Annotated[str | None, BeforeValidator(_as_text)] = Field(
        None, description="Licence of the data, for the card of what is exported: mit, or label=mit,label=cc-by-4.0."
    )
    shard_rows: Annotated[int, NOT_HASHED] = Field(10_000, gt=0, description="Rows a Parquet file, and held in memory.")


REJECTS = pa.schema(
    {"source": pa.string(), "file": pa.string(), "row": pa.int64(), "sample_id": pa.string(), "reason": pa.string()}
)
FACTS = pa.schema(
    {
        "sample_id": pa.string(),
        "position": pa.int64(),
        "source": pa.string(),
        "format": pa.string(),
        "turns": pa.int32(),
        "characters": pa.int64(),
        "metadata": pa.string(),
    }
)


def run(config: IngestConfig, inputs: Inputs, draft: Draft) -> None:
    """Read every place of `data` into shards, and facts of samples and rejects."""
    sources = [key.split(".", 2)[2] for key in inputs.locations]
    licences = licences_of(config.licence, sources)
    draft.restart()
    pool = _Pool(config, draft)
    with bar(total=None, label="ingest", unit=" rows") as progress:
        for source, (key, place) in zip(sources, inputs.locations.items(), strict=True):
            LOGGER.debug("reading %s", shown(place))
            rows = read_location(place, split=config.split, subset=config.subset, revision=_commit(inputs, key))
            for row, layout in with_layout(rows, config.columns):
                progress.update()
                try:
                    if row.values is None or layout is None:
                        raise Unusable(row.reason)
                    pool.add(row, to_sample(row.values, layout, source))
                except Unusable as reason:
                    pool.reject(row, source, str(reason))
    pool.close()
    draft.summary |= {"licences": licences}


def licences_of(text: str | None, sources: list[str]) -> dict[str, str]:
    """Source -> licence, from one licence for all or `label=licence,label=licence`."""
    if not text:
        return {}
    if "=" not in text:
        return dict.fromkeys(sources, text.strip())
    pairs = [pair.partition("=") for pair in re.split(r",(?=[^,]*=)", text)]
    licences = {label.strip(): licence.strip() for label, _, licence in pairs}
    for label in licences:
        if label not in sources:
            raise ConfigError(f"licence: there is no data labelled '{label}'.{did_you_mean(label, sources)}")
    return licences


def _commit(inputs: Inputs, key: str) -> str | None:
    """The commit that a Hub id was fingerprinted by, so that exactly that is read."""
    mark = inputs.fingerprints[key]
    return mark.removeprefix("hub:") if mark.startswith("hub:") else None


class _Pool:
    """Samples and rejects on their way into the draft, a shard at a time."""

    def __init__(self, config: IngestConfig, draft: Draft) -> None:
        self.config = config
        self.draft = draft
        self.shards = 0
        self.rows = 0
        self.samples: list[Sample] = []
        self.characters = 0
        self.rejects: list[dict[str, Any]] = []
        self.reject_parts = 0
        self.seen = IdSet() if config.deduplicate else None
        self.counts: dict[str, Counter[str]] = {"sources": Counter(), "formats": Counter(), "rejects": Counter()}

    def add(self, row: Row, sample: Sample) -> None:
        """Take a sample in; a copy of an earlier one only where copies are wanted."""
        if self.seen is not None and not self.seen.add(bytes.fromhex(sample.sample_id)):
            self.reject(row, sample.source, DUPLICATE, sample.sample_id, strict=False)
            return
        self.samples.append(sample)
        self.characters += len(sample.original_json)
        self.counts["sources"][sample.source] += 1
        self.counts["formats"][sample.format] += 1
        if len(self.samples) == self.config.shard_rows or self.characters > MOST_CHARACTERS:
            self._write_samples()

    def reject(self, row: Row, source: str, reason: str, sample_id: str | None = None, *, strict: bool = True) -> None:
        """Keep file, row and reason of a row that is not taken; with `--strict` the first one is the end."""
        if strict and self.config.strict:
            raise DataError(
                f"{row.file}, row {row.number}: {reason}. Mend the row, or leave --strict out: then such rows are "
                "skipped, counted and listed in the table rejects."
            )
        self.counts["rejects"][reason] += 1
        place = {"source": source, "file": row.file, "row": row.number}
        self.rejects.append({**place, "sample_id": sample_id, "reason": reason})
        if len(self.rejects) == self.config.shard_rows:
            self._write_rejects()

    def close(self) -> None:
        """Write what is left, and the summary."""
        if self.samples:
            self._write_samples()
        if self.rejects:
            self._write_rejects()
        if not self.rows:
            raise DataError(f"No row of {redacted(', '.join(self.config.data))} can be used{self._why()}.")
        self.draft.rows = self.rows
        self.draft.summary |= {"rows": self.rows, "distinct": self._distinct()}
        self.draft.summary |= {name: dict(counter.most_common()) for name, counter in self.counts.items()}

    def _distinct(self) -> int:
        if self.seen is not None:
            return self.rows
        shards = [self.draft.shard(number) for number in range(self.shards)]
        return count_distinct(shards, "sample_id", self.draft.path)

    def _why(self) -> str:
        counted = ", ".join(f"{reason} ({n})" for reason, n in self.counts["rejects"].most_common(5))
        return f": {counted}" if counted else ": there are none"

    def _write_samples(self) -> None:
        facts = [
            {
                "sample_id": sample.sample_id,
                "position": self.rows + offset,
                "source": sample.source,
                "format": sample.format,
                "turns": len(sample.messages),
                "characters": sample.characters,
                "metadata": to_json(sample.metadata),
            }
            for offset, sample in enumerate(self.samples)
        ]
        self.draft.write(self.shards, to_table(self.samples, self.rows))
        self.draft.add("samples", pa.Table.from_pylist(facts, schema=FACTS), key=f"{self.shards:05d}")
        self.rows += len(self.samples)
        self.shards += 1
        self.samples, self.characters = [], 0

    def _write_rejects(self) -> None:
        table = pa.Table.from_pylist(self.rejects, schema=REJECTS)
        self.draft.add("rejects", table, key=f"{self.reject_parts:05d}")
        self.reject_parts += 1
        self.rejects = []


PAIR = Struct("<QQ")


class IdSet:
    """A set of 16-byte marks that is only added to: 24 to 48 bytes each, where a set of Python's takes 100.

    Open addressing with linear probing; the marks are hashes, so their low bits are the place.
    """

    def __init__(self) -> None:
        self._size = 1 << 10
        self._slots = array("Q", bytes(16 * self._size))
        self._count = 0
        self._zero = False  # the mark of zeros stands for an empty slot

    def __len__(self) -> int:
        return self._count + self._zero

    def add(self, mark: bytes) -> bool:
        """Put a mark in; False if it was in already."""
        low, high = PAIR.unpack(mark)
        if not low and not high:
            new, self._zero = not self._zero, True
            return new
        new = self._put(low, high)
        self._count += new
        if 3 * self._count > 2 * self._size:
            self._grow()
        return new

    def _put(self, low: int, high: int) -> bool:
        slots, last = self._slots, self._size - 1
        place = low & last
        while True:
            one, other = slots[2 * place], slots[2 * place + 1]
            if one == low and other == high:
                return False
            if not one and not other:
                slots[2 * place], slots[2 * place + 1] = low, high
                return True
            place = (place + 1) & last

    def _grow(self) -> None:
        old = self._slots
        self._size *= 2
        self._slots = array("Q", bytes(16 * self._size))
        for place in range(0, len(old), 2):
            if old[place] or old[place + 1]:
                self._put(old[place], old[place + 1])


STAGE = Stage(IngestConfig, run, EXAMPLES)
