"""The pool that runs are over, and samples out of it, a shard at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ArtifactNotFound, DataError
from ..samples import Sample, from_row
from ..store import Artifact, Store

if TYPE_CHECKING:
    from ..store.rows.pool_rows import PoolRows


def pool_of(store: Store, makers: Sequence[Artifact], given: Artifact | None = None) -> Artifact:
    """The pool that runs, or subsets, are over.

    Args:
        store: where it is.
        makers: they name one pool; of none, and of what scripts of the user's have made, it is the only pool there is.
        given: what `--pool` says, which goes before.

    Raises:
        DataError: they are over several pools, or theirs is gone.
        ArtifactNotFound: nothing says which it is.
    """
    if given is not None:
        return given
    pools = [artifact for artifact in store.artifacts() if artifact.stage == "ingest"]
    wanted = {maker.inputs["pool"]: maker for maker in makers if "pool" in maker.inputs}
    if len(wanted) > 1:
        names = " and ".join(maker.name for maker in wanted.values())
        raise DataError(f"The runs {names} are over different pools, and only those over one go together.")
    if wanted:
        ((mark, maker),) = wanted.items()
        if found := [pool for pool in pools if pool.fingerprint == mark]:
            return found[0]
        raise DataError(f"The pool of '{maker.name}' is no longer in the store: ingest it and make that again.")
    labels = store.display_names()
    pools = [pool for pool in pools if labels[pool.fingerprint] == pool.name]
    if len(pools) == 1:
        return pools[0]
    names = ", ".join(sorted(pool.name for pool in pools))
    said = f"The store {store.root} has several pools ({names})" if pools else "The pool of these samples is not found"
    raise ArtifactNotFound(f"{said}: give --pool.")


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
