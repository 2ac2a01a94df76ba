"""What a pool selector is told: candidates and target, put together by sample id from the artifacts that hold them.

Whatever does not belong together (features of another pool, a target that another model has read) is refused here: by
fingerprint, so names may move.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...config import EXTERNAL, NOT_HASHED, REF
from ...errors import DataError
from ...log import LOGGER
from ...pool_selectors import Candidates, Target
from ...pool_selectors.candidates import Ints, Matrix, VectorBlocks
from ...samples import Sample
from ...store import Artifact, Store
from ...store.rows.out_of_core import first_of_each
from ..embed import EmbedConfig
from ..inputs import Inputs
from ..pools import pool_samples

if TYPE_CHECKING:
    from ...store.vectors.vectors import VectorShards

HELD_BYTES = 1 << 31
"""The most bytes of vectors that are held in memory."""
SKETCHING = {"d1", "d2", "seed"}


def read_candidates(inputs: Inputs, needs: Collection[str], on: str) -> tuple[Candidates, Ints]:
    """The distinct samples of the pool that may be taken, and the row of the pool, (n,), where each comes first.

    Memory: some 250 bytes a candidate for its id and source; vectors up to 2 GiB are held, larger ones read in blocks.

    Args:
        inputs: a pool, and what else the method was given of features and clusters. With features, samples that they
            have not got (no model can be trained on them) are no candidates.
        needs: what the method reads; see `PoolSelector.needs`.
        on: the vector column of the features.
    """
    pool, features, store = inputs.artifacts["pool"], inputs.artifacts.get("features"), inputs.store
    lengths = None
    if features is not None:
        _check_pool(features, pool, "features")
        lengths = _facts(store, features, "features", "tokens")
    rows = _first_rows(pool, None if lengths is None else lengths["sample_id"])
    found: list[str] = rows["sample_id"].to_pylist()
    clusters = inputs.artifacts.get("clusters")
    candidates = Candidates(
        found,
        rows["source"].to_pylist(),
        tokens=None if lengths is None else _aligned(lengths, "tokens", rows["sample_id"]),
        vectors=_vectors(features, on, found) if features is not None and "vectors" in needs else None,
        clusters=None if clusters is None else clusters_of(store, clusters, pool, found),
        texts=_texts(pool, rows["position"]) if "texts" in needs else None,
    )
    return candidates, rows["position"].to_numpy().astype(np.int64)


def read_target(inputs: Inputs, needs: Collection[str], on: str) -> tuple[Target, Ints]:
    """What is known of the target, and the rows of the target's pool: of its distinct samples, in order."""
    pool, features = inputs.artifacts.get("target"), inputs.artifacts.get("target_features")
    if features is None:
        if pool is None:
            return Target(), np.zeros(0, np.int64)
        samples = _distinct(pool)
        texts = [text_of(sample) for sample in samples.values()] if "target_texts" in needs else None
        return Target(subtasks_of(list(samples.values()), pool.name), texts=texts), np.array(list(samples), np.int64)
    if pool is not None:
        _check_pool(features, pool, "target features")
    _check_alike(inputs.artifacts["features"], features, on)
    return Target(vectors=_loaded(features, on).matrix), np.zeros(0, np.int64)


def subtasks_of(samples: Sequence[Sample], pool: str) -> list[str]:
    """The column `subtask` of every sample; all one subtask where no row has such a column."""
    named = [sample.original.get("subtask") for sample in samples]
    missing = sum(name is None for name in named)
    if 0 < missing < len(named):
        raise DataError(
            f"{missing} of {len(named)} samples of the target '{pool}' have no subtask and the others have: give each "
            "row one in the column subtask, or none."
        )
    return ["" if name is None else str(name) for name in named]


def text_of(sample: Sample) -> str:
    """All that a sample says."""
    return "\n".join(str(message.get("content") or "") for message in sample.messages)


def _distinct(pool: Artifact) -> dict[int, Sample]:
    """Position -> sample, each conversation once."""
    found: dict[str, tuple[int, Sample]] = {}
    for position, sample in pool_samples(pool):
        found.setdefault(sample.sample_id, (position, sample))
    return dict(found.values())


def _first_rows(pool: Artifact, among: Any) -> pa.Table:
    """Ids, sources and positions of the distinct samples, those in `among` only, where each comes first."""
    parts = []
    for table in pool.tables(["sample_id", "position", "source"]):
        parts.append(table if among is None else table.filter(pc.is_in(table["sample_id"], value_set=among)))
    rows = pa.concat_tables(parts)
    return rows.take(pa.array(first_of_each(rows["sample_id"])))


def _texts(pool: Artifact, positions: Any) -> list[str]:
    """What the rows at these positions say, in order."""
    texts = []
    for table in pool.tables(["position", "messages"]):
        wanted = table.filter(pc.is_in(table["position"], value_set=positions))
        for batch in wanted.to_batches(max_chunksize=1000):
            texts += ["\n".join(part["content"] or "" for part in row["messages"]) for row in batch.to_pylist()]
    return texts


def _facts(store: Store, artifact: Artifact, table: str, column: str) -> pa.Table:
    """`sample_id` and a column of the facts that came with an artifact; the view calls it as the table is called."""
    rows = store.query(
        f'SELECT sample_id, {column} FROM {table} WHERE "{table}" = $name',
        {"name": store.display_names()[artifact.fingerprint]},
    )
    return rows.combine_chunks()


def _aligned(facts: pa.Table, column: str, ids: Any, unknown: int = -1) -> Ints:
    """(n,) a column of the facts for each of n ids."""
    values = facts[column].take(pc.index_in(ids, value_set=facts["sample_id"]))
    aligned: Ints = pc.fill_null(values.cast(pa.int64()), unknown).to_numpy()
    return aligned


class _Shards:
    """Vectors of candidates that stay on disk.

    Args:
        vectors: of the features.
        ids: of the candidates.
    """

    def __init__(self, vectors: VectorShards, ids: Sequence[str]) -> None:
        self._vectors, self._ids = vectors, ids
        self.shape = (len(ids), vectors.width)

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self) -> Iterator[tuple[Ints, Matrix]]:
        """Rows of candidates and their vectors, a shard at a time; candidates without a vector do not come."""
        start = 0
        for part in self._vectors:
            names = part.ids.to_pylist()
            if names == self._ids[start : start + len(names)]:  # embedded in the order of the pool, as is the rule
                yield np.arange(start, start + len(names)), part.matrix
                start += len(names)
                continue
            rows = np.array([self._row.get(name, -1) for name in names], np.int64)
            yield rows[rows >= 0], part.matrix[rows >= 0]
            start = int(rows.max(initial=start - 1)) + 1

    @cached_property
    def _row(self) -> dict[str, int]:
        return {sample_id: row for row, sample_id in enumerate(self._ids)}


def _vectors(features: Artifact, on: str, ids: list[str]) -> Matrix | VectorBlocks:
    """(n, d) in the order of `ids`; NaN for those without."""
    from ...store.vectors.vectors import VectorShards

    stored = VectorShards(features.shards(), on)
    if 4 * stored.rows * stored.width > HELD_BYTES:
        return _Shards(stored, ids)
    vectors = _loaded(features, on)
    place = {sample_id: row for row, sample_id in enumerate(vectors.ids.to_pylist())}
    if list(place) == ids:
        matrix: Matrix = vectors.matrix
        return matrix
    aligned = np.full((len(ids), vectors.matrix.shape[1]), np.nan, np.float32)
    known = [row for row, sample_id in enumerate(ids) if sample_id in place]
    aligned[known] = vectors.matrix[[place[ids[row]] for row in known]]
    return aligned


def _loaded(features: Artifact, on: str) -> Any:
    from ...store.vectors.vectors import load_vectors

    vectors = load_vectors(features.shards(), on)
    if vectors.rejected:
        LOGGER.warning(
            "%d samples of '%s' have no %s that is finite and not zero: they are left out (%s%s).",
            len(vectors.rejected),
            features.name,
            on,
            ", ".join(vectors.rejected[:3]),
            ", ..." if len(vectors.rejected) > 3 else "",
        )
    return vectors


def clusters_of(store: Store, clusters: Artifact, pool: Artifact, ids: Sequence[str]) -> Ints:
    """(n,) cluster of each sample of the pool; -1 for one that was left out. Clusters of another pool are refused."""
    made_from = clusters.inputs.get("features")
    features = next((artifact for artifact in store.artifacts() if artifact.fingerprint == made_from), None)
    if features is None:
        raise DataError(f"What the clusters '{clusters.name}' were made from is no longer in the store: cluster again.")
    _check_pool(features, pool, "clusters", clusters.name)
    return _aligned(_facts(store, clusters, "clusters", "cluster"), "cluster", pa.array(ids, pa.string()))


def _check_pool(made: Artifact, pool: Artifact, what: str, name: str | None = None) -> None:
    if made.inputs.get("pool") != pool.fingerprint:
        raise DataError(
            f"The {what} '{name or made.name}' are not of the pool '{pool.name}' as it is now: make them from it."
        )


def _check_alike(features: Artifact, target: Artifact, on: str) -> None:
    """Vectors are comparable only where the same model has read both in the same way."""
    said = f"The features '{features.name}' and the target features '{target.name}' cannot be compared"
    if features.inputs.get("model") != target.inputs.get("model"):
        raise DataError(f"{said}: different models made them. Embed both with one model.")
    marked = {name for mark in (REF, EXTERNAL, NOT_HASHED) for name in EmbedConfig.fields_with(mark)}
    free = {"name", "shard_rows", "signals", "trust_remote_code", *marked, *(SKETCHING if on != "sketch" else ())}
    for key in sorted({*features.config, *target.config} - free):
        one, other = features.config.get(key), target.config.get(key)
        if one != other:
            raise DataError(f"{said}: {key} is {one} in one and {other} in the other. Embed both with the same.")
