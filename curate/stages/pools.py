"""Find the pool of runs or subsets, and read samples from a pool one shard at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ArtifactNotFound, DataError
from ..log import LOGGER
from ..samples import Sample, from_row
from ..store import POOLS, Artifact, Store

if TYPE_CHECKING:
    from ..store.rows.pool_rows import PoolRows


def rows_with(pool: Artifact, sample_ids: Collection[str]) -> int:
    """Return the number of rows of a pool with one of these samples: a sample may be in several rows."""
    from ..store.rows.out_of_core import read_batches

    wanted = pa.array(sorted(sample_ids), pa.string())
    if not len(wanted):
        return 0
    batches = (batch for shard in pool.shards() for batch in read_batches(shard, ["sample_id"]))
    return sum(pc.sum(pc.is_in(batch.column("sample_id"), wanted)).as_py() or 0 for batch in batches)


def pool_of(store: Store, makers: Sequence[Artifact], given: Artifact | None = None) -> Artifact:
    """Return the pool that runs or subsets were made from.

    Args:
        store: the store of the pool.
        makers: runs or subsets. If none of them names a pool (there are none, or the user's scripts made them), the
            store must hold exactly one pool.
        given: the pool of `--pool`; it takes precedence.

    Raises:
        DataError: the artifacts were made from several pools, or their pool is gone.
        ArtifactNotFound: no artifact names a pool, and the store does not hold exactly one.
    """
    if given is not None:
        return given
    pools = [artifact for artifact in store.artifacts() if artifact.stage in POOLS]
    makers_by_pool = {maker.inputs["pool"]: maker for maker in makers if "pool" in maker.inputs}
    if len(makers_by_pool) > 1:
        names = " and ".join(maker.name for maker in makers_by_pool.values())
        raise DataError(f"The runs {names} are over different pools: name runs over one pool.")
    if makers_by_pool:
        ((fingerprint, maker),) = makers_by_pool.items()
        if found := [pool for pool in pools if pool.fingerprint == fingerprint]:
            return found[0]
        raise DataError(
            f"The pool of '{maker.name}' is no longer in the store: ingest it, then make '{maker.name}' again."
        )
    labels = store.display_names()
    pools = [pool for pool in pools if labels[pool.fingerprint] == pool.name]
    if len(pools) == 1:
        return pools[0]
    if pools:
        names = ", ".join(sorted(pool.name for pool in pools))
        raise ArtifactNotFound(f"The store {store.root} has several pools ({names}): give --pool.")
    raise ArtifactNotFound(f"The pool of these samples is not in the store {store.root}: ingest it, or give --pool.")


def tell_older_weights(store: Store, pool: Artifact) -> None:
    """Warn if an older curate made a pool and left the weights of its rows in their metadata."""
    from ..store.artifacts.parquet import metadata_of

    if not pool.shards() or "weight" in metadata_of(pool.shards()[0]).schema.to_arrow_schema().names:
        return
    found = store.query(
        "SELECT count(*) AS rows FROM samples WHERE pool = $pool AND TRY_CAST(metadata->>'weight' AS DOUBLE) <> 1",
        {"pool": store.display_names()[pool.fingerprint]},
    )
    if rows := found["rows"].to_pylist()[0]:
        LOGGER.warning(
            f"{rows} rows of '{pool.name}' have a column weight, and the curate that made this pool did not read it: "
            "each counts once. To train with the weights, ingest again with --weight-column weight."
        )


def pool_samples(artifact: Artifact) -> Iterator[tuple[int, Sample]]:
    """Yield every row of a pool as `(position, sample)`, in order; a repeated conversation comes with every row."""
    for table in artifact.tables():
        for batch in table.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                yield row["position"], from_row(row)


def weight_column_of(pool: Artifact) -> str | None:
    """Return the column that the weights of a pool's rows were read from, if it was named."""
    found = pool.config.get("weight_column") or pool.summary.get("weight_column")
    return None if found is None else str(found)


CONVERSATION = ("sample_id", "position", "source", "format", "messages", "tools")
"""Columns of a pool that a sample is built from. The original row, which is the larger part, is not among them."""


def samples_between(rows: PoolRows, start: int, stop: int, *, originals: bool = False) -> Iterator[tuple[int, Sample]]:
    """Yield rows [start, stop) of a pool as `(position, sample)`; with `originals`, also with their original rows."""
    for table in rows.read(start, stop, [*CONVERSATION, "original"] if originals else CONVERSATION):
        for batch in table.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                yield row["position"], from_row(row)


def samples_of(artifact: Artifact, sample_ids: Collection[str]) -> dict[str, Sample]:
    """Return the samples of these ids: the first row of each id. Ids that the pool does not have are skipped."""
    ids = pa.array(list(sample_ids), pa.string())
    found: dict[str, Sample] = {}
    for table in artifact.tables():
        rows = table.filter(pc.is_in(table["sample_id"], value_set=ids))
        for row in rows.to_pylist():
            found.setdefault(row["sample_id"], from_row(row))
    return found
