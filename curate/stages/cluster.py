"""Cluster a pool: what it is made of, what stands for each part, and which samples say nearly the same.

Clusters are found by cosine, on sketches (samples that would train the model alike) or on embeddings (samples that the
model reads alike). Every sample's nearest other sample is found too: near 1 it is a near duplicate.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from ..config import INERT, Config, Ref
from ..errors import CatalogueBusy
from ..log import LOGGER
from ..store import Artifact, Draft, Store
from .inputs import Inputs

if TYPE_CHECKING:
    from ..store.kmeans import Clustering
    from ..store.vectors import Positions, Vectors

SHOWN_CLUSTERS = 10
SHOWN_CHARACTERS = 60
SHOWN_EXCLUDED = 5

EXAMPLES = """
curate cluster --features feats --k 50 --name clusters
curate cluster --features feats --on embedding --k 100 --redo 3 --name topics
curate query "SELECT sample_id, nearest_id FROM clusters WHERE nearest_similarity > 0.99"
"""


class ClusterConfig(Config):
    """Cluster the samples of a pool by their sketches or embeddings."""

    features: Ref = Field(description="What `curate embed` made.")
    on: Literal["sketch", "embedding"] = Field("sketch", description="Which vectors to cluster.")
    k: int = Field(ge=2, description="How many clusters.")
    seed: int = Field(0, ge=0, description="Of the seeding, and of the sample for the silhouette.")
    iterations: int = Field(20, ge=1, description="At most; it stops when no sample changes its cluster.")
    redo: int = Field(1, ge=1, description="How many seedings to try; the best result is kept.")
    representatives: int = Field(
        3, ge=1, description="Samples that stand for each cluster: the closest to its centroid."
    )
    nearest: bool = Field(
        True, description="Find every sample's nearest other sample; the cost grows with the square of the pool."
    )
    silhouette_sample: int = Field(2000, ge=0, description="Samples to compute the silhouette on; 0 leaves it out.")
    backend: Annotated[Literal["auto", "faiss", "numpy"], INERT] = Field(
        "auto", description="What searches: faiss where it is installed, else numpy; the result is the same."
    )


CONFIG = ClusterConfig


@dataclass(frozen=True)
class Ranked:
    """A clustering whose numbers say something.

    Attributes:
        labels: (n,) cluster of each sample; 0 is the largest.
        ranks: (n,) place of each sample in its cluster, from 1, by similarity to the centroid.
        sizes: (k,) falling.
        order: (k,) the number that k-means gave each cluster.
    """

    labels: Positions
    ranks: Positions
    sizes: Positions
    order: Positions


def run(config: ClusterConfig, inputs: Inputs, draft: Draft) -> None:
    """Write centroids as the artifact's data and the samples' clusters as facts."""
    from ..store.kmeans import spherical_kmeans
    from ..store.vectors import choose_backend, load_vectors

    started = time.perf_counter()
    backend = choose_backend(config.backend)
    features = inputs.artifacts["features"]
    vectors = load_vectors(features.shards(), config.on)
    _report_excluded(vectors, config, draft)
    found = spherical_kmeans(
        vectors.matrix, config.k, seed=config.seed, iterations=config.iterations, redo=config.redo, backend=backend
    )
    ranked = _rank(found)
    draft.write(0, _centroids(found, ranked))
    draft.add("clusters", _facts(config, features, vectors, found, ranked))
    draft.rows = len(vectors.ids)
    draft.summary = {
        "samples": len(vectors.ids),
        "k": config.k,
        "iterations": found.iterations,
        "mean_similarity": round(float(found.similarity.mean()), 4),
        "silhouette": _silhouette(config, vectors, ranked),
        "sizes": f"{ranked.sizes.min()} / {int(np.median(ranked.sizes))} / {ranked.sizes.max()} (min / median / max)",
        "excluded": len(vectors.excluded),
        "backend": backend,
        "seconds": round(time.perf_counter() - started, 1),
        "largest": _largest(config, inputs.store, features, vectors, ranked),
    }
    if vectors.excluded:
        draft.summary["excluded_first"] = list(vectors.excluded[:SHOWN_EXCLUDED])


def _report_excluded(vectors: Vectors, config: ClusterConfig, draft: Draft) -> None:
    if not vectors.excluded:
        return
    reason = f"{config.on} is not finite or zero"
    draft.add("rejects", pa.table({"sample_id": list(vectors.excluded), "reason": [reason] * len(vectors.excluded)}))
    first = ", ".join(vectors.excluded[:SHOWN_EXCLUDED])
    LOGGER.warning(
        "Left out, because %s: %d of %d samples, named in the table rejects (%s%s).",
        reason,
        len(vectors.excluded),
        len(vectors.ids) + len(vectors.excluded),
        first,
        ", ..." if len(vectors.excluded) > SHOWN_EXCLUDED else "",
    )


def _rank(found: Clustering) -> Ranked:
    """Number clusters by falling size, and samples within each by falling similarity."""
    counts = np.bincount(found.labels, minlength=len(found.centroids))
    order = np.argsort(-counts, kind="stable")
    labels, sizes = np.argsort(order)[found.labels], counts[order]
    by_cluster = np.lexsort((-found.similarity, labels))
    ranks = np.empty(len(labels), np.int64)
    ranks[by_cluster] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
    return Ranked(labels, ranks, sizes, order)


def _centroids(found: Clustering, ranked: Ranked) -> pa.Table:
    k, width = found.centroids.shape
    centroids = pa.array(found.centroids[ranked.order].ravel(), pa.float32())
    return pa.table(
        {
            "cluster": pa.array(np.arange(k), pa.int32()),
            "size": pa.array(ranked.sizes, pa.int64()),
            "centroid": pa.FixedSizeListArray.from_arrays(centroids, width),
        }
    )


def _facts(config: ClusterConfig, features: Artifact, vectors: Vectors, found: Clustering, ranked: Ranked) -> pa.Table:
    """The rows of `clusters`, a sample each."""
    n = len(vectors.ids)
    nearest_id, nearest_similarity = pa.nulls(n, pa.string()), pa.nulls(n, pa.float64())
    if config.nearest:
        from ..store.vectors import index_of, nearest_other

        index = index_of(features.path, config.on, vectors, config.backend)
        similarity, positions = nearest_other(index, vectors.matrix)
        nearest_id, nearest_similarity = vectors.ids.take(pa.array(positions)), _cosines(similarity)
    return pa.table(
        {
            "sample_id": vectors.ids,
            "cluster": pa.array(ranked.labels, pa.int32()),
            "similarity": _cosines(found.similarity),
            "representative": pa.array(ranked.ranks, pa.int32(), mask=ranked.ranks > config.representatives),
            "nearest_id": nearest_id,
            "nearest_similarity": nearest_similarity,
        }
    )


def _cosines(values: Any) -> pa.Array:
    """Float32 sums of products may exceed 1 by a rounding."""
    return pa.array(np.clip(values, -1, 1).astype(np.float64))


def _silhouette(config: ClusterConfig, vectors: Vectors, ranked: Ranked) -> float | None:
    """The mean silhouette of a seeded sample by cosine; None where the sample has one cluster, or no two of one."""
    from sklearn.metrics import silhouette_score

    n = len(ranked.labels)
    chosen = np.random.default_rng(config.seed).permutation(n)[: config.silhouette_sample]
    labels = ranked.labels[chosen]
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    return round(float(silhouette_score(vectors.matrix[chosen], labels, metric="cosine")), 4)


def _largest(
    config: ClusterConfig, store: Store, features: Artifact, vectors: Vectors, ranked: Ranked
) -> list[dict[str, Any]]:
    """The largest clusters, each with how its representatives begin."""
    rows = np.flatnonzero((ranked.labels < SHOWN_CLUSTERS) & (ranked.ranks <= config.representatives))
    rows = rows[np.lexsort((ranked.ranks[rows], ranked.labels[rows]))]
    ids = vectors.ids.take(pa.array(rows)).to_pylist()
    texts = _beginnings(store, features, ids)
    shown: list[dict[str, Any]] = [
        {"cluster": cluster, "size": int(size), "representatives": []}
        for cluster, size in enumerate(ranked.sizes[:SHOWN_CLUSTERS])
    ]
    for label, sample_id in zip(ranked.labels[rows], ids, strict=True):
        shown[label]["representatives"].append(texts.get(sample_id, sample_id))
    return [{**row, "representatives": " | ".join(row["representatives"])} for row in shown]


def _beginnings(store: Store, features: Artifact, ids: Sequence[str]) -> Mapping[str, str]:
    """Sample id -> how its first user message begins; empty where the pool is gone or the catalogue is busy."""
    pool = store.labels().get(features.inputs.get("pool", ""))
    sql = """
        SELECT sample_id, any_value(coalesce(
            list_filter(messages, lambda message: message.role = 'user')[1].content, messages[1].content, '')) AS text
        FROM conversations WHERE pool = $pool AND list_contains($ids, sample_id) GROUP BY sample_id"""
    try:
        found = store.query(sql, {"pool": pool, "ids": list(ids)}).to_pylist() if pool else []
    except CatalogueBusy as error:
        LOGGER.info("The summary shows ids instead of texts: %s", error)
        return {}
    texts = {row["sample_id"]: " ".join(row["text"].split()) for row in found}
    return {
        key: text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…" for key, text in texts.items()
    }
