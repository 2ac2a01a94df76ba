"""What a pool selector is told: candidates and target, put together by sample id from the artifacts that hold them.

Whatever does not belong together (features of another pool, a target that another model has read) is refused here: by
fingerprint, so names may move.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ..config import EXTERNAL, INERT, REF
from ..errors import DataError
from ..log import LOGGER
from ..pool import Candidates, Target
from ..pool.base import Ints, Matrix
from ..samples import Sample
from ..store import Artifact, Store
from .embed import EmbedConfig
from .inputs import Inputs
from .pools import pool_samples

SKETCHING = {"d1", "d2", "seed"}


def read_candidates(inputs: Inputs, needs: Collection[str], on: str) -> tuple[Candidates, Ints]:
    """The distinct samples of the pool that may be taken, and the row of the pool, (n,), where each comes first.

    Args:
        inputs: a pool, and what else the method was given of features and clusters. With features, samples that they
            have not got (no model can be trained on them) are no candidates.
        needs: what the method reads; see `PoolSelector.needs`.
        on: the vector column of the features.
    """
    pool, features, store = inputs.artifacts["pool"], inputs.artifacts.get("features"), inputs.store
    tokens = None
    if features is not None:
        _check_pool(features, pool, "features")
        tokens = _facts(store, features, "features", "tokens")
    ids, sources, positions, texts = _walk(pool, tokens, with_texts="texts" in needs)
    clusters = inputs.artifacts.get("clusters")
    candidates = Candidates(
        ids,
        sources,
        tokens=None if tokens is None else np.array([tokens[sample_id] for sample_id in ids], np.int64),
        vectors=_vectors(features, on, ids) if features is not None and "vectors" in needs else None,
        clusters=None if clusters is None else clusters_of(store, clusters, pool, ids),
        texts=texts,
    )
    return candidates, np.array(positions, np.int64)


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


def _walk(
    pool: Artifact, among: Collection[str] | None, *, with_texts: bool
) -> tuple[list[str], list[str], list[int], list[str] | None]:
    """Ids, sources, positions and texts of the distinct samples, those in `among` only."""
    columns = ["sample_id", "position", "source", *(["messages"] if with_texts else [])]
    found: dict[str, dict[str, Any]] = {}
    for table in pool.tables(columns):
        for batch in table.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                if among is None or row["sample_id"] in among:
                    found.setdefault(row["sample_id"], row)
    rows = found.values()
    texts = ["\n".join(part["content"] or "" for part in row["messages"]) for row in rows] if with_texts else None
    return list(found), [row["source"] for row in rows], [row["position"] for row in rows], texts


def _facts(store: Store, artifact: Artifact, table: str, column: str) -> dict[str, int]:
    """Sample id -> a column of the facts that came with an artifact; the view calls it as the table is called."""
    rows = store.query(
        f'SELECT sample_id, {column} FROM {table} WHERE "{table}" = $name',
        {"name": store.labels()[artifact.fingerprint]},
    )
    return dict(zip(rows["sample_id"].to_pylist(), rows[column].to_pylist(), strict=True))


def _vectors(features: Artifact, on: str, ids: Sequence[str]) -> Matrix:
    """(n, d) in the order of `ids`; NaN for those without."""
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
    from ..store.vectors import load_vectors

    vectors = load_vectors(features.shards(), on)
    if vectors.excluded:
        LOGGER.warning(
            "%d samples of '%s' have no %s that is finite and not zero: they are left out (%s%s).",
            len(vectors.excluded),
            features.name,
            on,
            ", ".join(vectors.excluded[:3]),
            ", ..." if len(vectors.excluded) > 3 else "",
        )
    return vectors


def clusters_of(store: Store, clusters: Artifact, pool: Artifact, ids: Sequence[str]) -> Ints:
    """(n,) cluster of each sample of the pool; -1 for one that was left out. Clusters of another pool are refused."""
    made_from = clusters.inputs.get("features")
    features = next((artifact for artifact in store.artifacts() if artifact.fingerprint == made_from), None)
    if features is None:
        raise DataError(f"What the clusters '{clusters.name}' were made from is no longer in the store: cluster again.")
    _check_pool(features, pool, "clusters", clusters.name)
    cluster: Mapping[str, int] = _facts(store, clusters, "clusters", "cluster")
    return np.array([cluster.get(sample_id, -1) for sample_id in ids], np.int64)


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
    marked = {name for mark in (REF, EXTERNAL, INERT) for name in EmbedConfig.marked(mark)}
    free = {"name", "shard_rows", "signals", "trust_remote_code", *marked, *(SKETCHING if on != "sketch" else ())}
    for key in sorted({*features.config, *target.config} - free):
        one, other = features.config.get(key), target.config.get(key)
        if one != other:
            raise DataError(f"{said}: {key} is {one} in one and {other} in the other. Embed both with the same.")
