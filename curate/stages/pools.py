"""Samples out of a pool in the store, a shard at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError
from ..samples import Sample, from_row
from ..store import Artifact

if TYPE_CHECKING:
    from ..store.pool_rows import PoolRows


def pool_samples(artifact: Artifact) -> Iterator[tuple[int, Sample]]:
    """Every row of a pool as `(position, sample)`, in order; repeated conversations come as often as they are there."""
    for table in artifact.tables():
        for batch in table.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                yield row["position"], from_row(row)


CONVERSATION = ("sample_id", "position", "source", "format", "messages", "tools")
"""The columns of a pool that a model reads a sample from: not the row as it was, which is the larger part."""


def samples_between(rows: PoolRows, start: int, stop: int, *, originals: bool = False) -> Iterator[tuple[int, Sample]]:
    """Rows [start, stop) of a pool as `(position, sample)`, with the rows that they were read from where wanted."""
    for table in rows.read(start, stop, [*CONVERSATION, "original"] if originals else CONVERSATION):
        for batch in table.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                yield row["position"], from_row(row)


def samples_of(artifact: Artifact, sample_ids: Collection[str]) -> dict[str, Sample]:
    """The samples of these ids, each once (the first of its repeats); ids that the pool has not got are left out."""
    wanted = pa.array(list(sample_ids), pa.string())
    found: dict[str, Sample] = {}
    for table in artifact.tables():
        rows = table.filter(pc.is_in(table["sample_id"], value_set=wanted))
        for row in rows.to_pylist():
            found.setdefault(row["sample_id"], from_row(row))
    return found


def subset_of(pool: Artifact, subset: Artifact | None) -> set[str] | None:
    """The sample ids of a subset (`curate select`) of this pool; None where there is no subset."""
    if subset is None:
        return None
    if subset.inputs.get("pool") != pool.fingerprint:
        raise DataError(f"The subset '{subset.name}' is not of the pool '{pool.name}' as it is now: select it again.")
    return set(subset.table(["sample_id"])["sample_id"].to_pylist())
