"""`curate cluster`: group the samples of a pool, and find representatives of each group and near duplicates.

Samples are clustered by cosine similarity of their sketches (similar effect on training) or embeddings (similar hidden
states). The nearest other sample of every sample is found too; a similarity near 1 means a near duplicate. A pool may
be larger than memory: centroids are learnt from `sample` vectors, and the other vectors are read one shard at a time,
with about 100 bytes per sample in memory.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from ..config import NOT_HASHED, NamedConfig, Ref
from ..errors import CatalogueBusy
from ..log import LOGGER, bar
from ..store import Artifact, Draft, Store
from .inputs import Inputs
from .stage import Stage

if TYPE_CHECKING:
    from ..store.vectors.kmeans import Clustering
    from ..store.vectors.vectors import Matrix, Positions, Vectors, VectorShards

SHOWN_CLUSTERS = 10
SHOWN_CHARACTERS = 60
SHOWN_REJECTED = 5

EXAMPLES = """
curate cluster --features feats --k 50 --name clusters
curate cluster --features feats --on embedding --k 100 --redo 3 --name topics
curate query "SELECT sample_id, nearest_id FROM clusters WHERE nearest_similarity > 0.99"
"""


class ClusterConfig(NamedConfig):
    """Configuration of `curate cluster`."""

    features: Ref = Field(description="Features of the pool, made by curate embed.")
    on: Literal["sketch", "embedding"] = Field("sketch", description="Vectors to cluster: sketch or embedding.")
    k: int = Field(ge=2, description="Number of clusters.")
    seed: int = Field(0, ge=0, description="Seed of the initial centroids, and of the samples drawn with --sample.")
    iterations: int = Field(
        20, ge=1, description="Maximum number of iterations; k-means stops earlier if no sample changes its cluster."
    )
    redo: int = Field(1, ge=1, description="Number of initializations to try; the best result is kept.")
    representatives: int = Field(3, ge=1, description="Number of representatives: the samples closest to a centroid.")
    sample: int = Field(
        100_000,
        ge=2,
        description="Maximum number of samples to learn the centroids from, drawn at random; all samples are assigned.",
    )
    nearest: bool = Field(
        True, description="Find the nearest other sample of each; the cost grows with the square of the pool's size."
    )
    index: Literal["auto", "flat", "ivf", "ivfpq"] = Field(
        "auto",
        description="Index for that search: flat is exact; auto is flat up to 262144 samples and 1 GiB, else "
        "approximate.",
    )
    silhouette_sample: int = Field(2000, ge=0, description="Number of samples for the silhouette score; 0 skips it.")
    backend: Annotated[Literal["auto", "faiss", "numpy"], NOT_HASHED] = Field(
        "auto", description="Search library: auto is faiss if it is installed, else numpy, which is always exact."
    )

    def obvious_name(self) -> str:
        """Return a name made of that of the features."""
        return f"{self.features.removesuffix('-features')}-clusters"

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.sample < self.k:
            raise ValueError(f"k is {self.k}, so sample must be at least {self.k}, but it is {self.sample}")
        return self


@dataclass(frozen=True)
class Assigned:
    """Cluster of every sample, with the cluster numbers of k-means.

    Attributes:
        ids: (n,) sample ids.
        labels: (n,) number of the most similar centroid.
        similarity: (n,) cosine similarity to this centroid.
        counts: number of the n samples in each shard.
        rejected: ids of samples without a usable vector.
    """

    ids: pa.Array
    labels: Positions
    similarity: Matrix
    counts: tuple[int, ...]
    rejected: tuple[str, ...]


@dataclass(frozen=True)
class Ranked:
    """Clusters numbered by size, and samples ranked within their cluster.

    Attributes:
        labels: (n,) cluster of each sample; cluster 0 is the largest.
        ranks: (n,) rank of each sample in its cluster, from 1, by similarity to the centroid.
        sizes: (k,) number of samples of each cluster, in descending order.
        order: (k,) number that k-means gave to each cluster.
    """

    labels: Positions
    ranks: Positions
    sizes: Positions
    order: Positions


def run(config: ClusterConfig, inputs: Inputs, draft: Draft) -> None:
    """Write the centroids as the artifact's data, and the clusters of samples as records."""
    from ..store.vectors.index import choose_backend
    from ..store.vectors.kmeans import spherical_kmeans
    from ..store.vectors.vectors import VectorShards

    started = time.perf_counter()
    backend = choose_backend(config.backend)
    features = inputs.artifacts["features"]
    vectors = VectorShards(features.shards(), config.on)
    learnt = vectors.sample(config.sample, config.seed)
    found = spherical_kmeans(
        learnt.matrix, config.k, seed=config.seed, iterations=config.iterations, redo=config.redo, backend=backend
    )
    assigned = _assign(config, vectors, learnt, found)
    _reject(assigned, config, draft)
    ranked = _rank(assigned, config.k)
    draft.write(0, _centroids(found, ranked))
    draft.summary = {
        "samples": len(assigned.ids),
        "k": config.k,
        "iterations": found.iterations,
        "mean_similarity": round(float(assigned.similarity.mean()), 4),
        "silhouette": _silhouette(config, learnt, np.argsort(ranked.order)[found.labels]),
        "sizes": f"{ranked.sizes.min()} / {int(np.median(ranked.sizes))} / {ranked.sizes.max()} (min / median / max)",
        "rejected": len(assigned.rejected),
        "backend": backend,
        "largest": _largest(config, inputs.store, features, assigned, ranked),
    }
    if len(learnt.ids) < len(assigned.ids):
        draft.summary["learnt_from"] = f"{len(learnt.ids)} samples"
    if assigned.rejected:
        draft.summary["rejected_first"] = list(assigned.rejected[:SHOWN_REJECTED])
    del learnt  # the search needs the memory
    _write_records(config, features, vectors, assigned, ranked, draft)
    draft.rows = len(assigned.ids)
    draft.summary["seconds"] = round(time.perf_counter() - started, 1)


def _assign(config: ClusterConfig, vectors: VectorShards, learnt: Vectors, found: Clustering) -> Assigned:
    """Return the cluster of every sample: the clusters of `learnt` if it is the whole pool, else shard by shard."""
    from ..store.vectors.index import build_index

    if config.sample >= vectors.rows:
        return Assigned(learnt.ids, found.labels, found.similarity, learnt.counts, learnt.rejected)
    LOGGER.info("The centroids were learnt from %d samples, drawn from %d.", len(learnt.ids), vectors.rows)
    centroids = build_index(found.centroids, config.backend)
    ids, labels, similarity = [], [], []
    rejected: list[str] = []
    with bar(total=vectors.rows, label="assign", unit="sample") as progress:
        for part in vectors:
            best, nearest = centroids.nearest(part.matrix, 1)
            ids.append(part.ids)
            rejected += part.rejected
            labels.append(nearest[:, 0])
            similarity.append(best[:, 0])
            progress.update(len(part.ids))
    names = pa.chunked_array(ids, pa.large_string()).combine_chunks()
    counts = tuple(map(len, labels))
    return Assigned(names, np.concatenate(labels), np.concatenate(similarity), counts, tuple(rejected))


def _reject(found: Assigned, config: ClusterConfig, draft: Draft) -> None:
    """Record and report the samples without a usable vector."""
    if not found.rejected:
        return
    reason = f"{config.on} is not finite or zero"
    draft.reject(dict.fromkeys(found.rejected, reason))
    LOGGER.warning(
        "%d of %d samples are rejected, because %s. They are in the table rejects (%s%s).",
        len(found.rejected),
        len(found.ids) + len(found.rejected),
        reason,
        ", ".join(found.rejected[:SHOWN_REJECTED]),
        ", ..." if len(found.rejected) > SHOWN_REJECTED else "",
    )


def _rank(found: Assigned, k: int) -> Ranked:
    """Number clusters by descending size, and rank the samples of each by descending similarity."""
    counts = np.bincount(found.labels, minlength=k)
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


def _write_records(
    config: ClusterConfig, features: Artifact, vectors: VectorShards, found: Assigned, ranked: Ranked, draft: Draft
) -> None:
    """Write the records of the table `clusters`, one per sample, in one fragment per shard."""
    n = len(found.ids)
    nearest_id, nearest_similarity = pa.nulls(n, pa.large_string()), pa.nulls(n, pa.float64())
    if config.nearest:
        from ..store.vectors.index import index_of, nearest_other

        index = index_of(features.path, vectors, config.backend, config.index)
        similarity, positions = nearest_other(index, vectors)
        none = positions < 0
        nearest_id = found.ids.take(pa.array(positions, mask=none))
        nearest_similarity = _cosines(similarity, none)
        draft.summary["neighbours"] = str(index.kind)
    start = 0
    for shard, count in enumerate(found.counts):
        rows = slice(start, start + count)
        ranks = ranked.ranks[rows]
        columns = {
            "sample_id": found.ids[rows].cast(pa.string()),
            "cluster": pa.array(ranked.labels[rows], pa.int32()),
            "similarity": _cosines(found.similarity[rows]),
            "representative": pa.array(ranks, pa.int32(), mask=ranks > config.representatives),
            "nearest_id": nearest_id[rows].cast(pa.string()),
            "nearest_similarity": nearest_similarity[rows],
        }
        draft.add("clusters", pa.table(columns), key=f"{shard:05d}")
        start += count


def _cosines(values: Any, unknown: Any = None) -> pa.Array:
    """Convert cosines to an Arrow array, clipped to [-1, 1]: rounding in float32 may give values just above 1."""
    return pa.array(np.clip(values, -1, 1).astype(np.float64), mask=unknown)


def _silhouette(config: ClusterConfig, vectors: Vectors, clusters: Positions) -> float | None:
    """Return the mean silhouette (cosine) of seeded samples; None if all share a cluster, or no two of them do."""
    from sklearn.metrics import silhouette_score

    chosen = np.random.default_rng(config.seed).permutation(len(clusters))[: config.silhouette_sample]
    labels = clusters[chosen]
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    return round(float(silhouette_score(vectors.matrix[chosen], labels, metric="cosine")), 4)


def _largest(
    config: ClusterConfig, store: Store, features: Artifact, found: Assigned, ranked: Ranked
) -> list[dict[str, Any]]:
    """Describe the largest clusters: size, and the first words of the representatives."""
    rows = np.flatnonzero((ranked.labels < SHOWN_CLUSTERS) & (ranked.ranks <= config.representatives))
    rows = rows[np.lexsort((ranked.ranks[rows], ranked.labels[rows]))]
    ids = found.ids.take(pa.array(rows)).to_pylist()
    texts = _beginnings(store, features, ids)
    shown: list[dict[str, Any]] = [
        {"cluster": cluster, "size": int(size), "representatives": []}
        for cluster, size in enumerate(ranked.sizes[:SHOWN_CLUSTERS])
    ]
    for label, sample_id in zip(ranked.labels[rows], ids, strict=True):
        shown[label]["representatives"].append(texts.get(sample_id, sample_id))
    return [{**row, "representatives": " | ".join(row["representatives"])} for row in shown]


def _beginnings(store: Store, features: Artifact, ids: Sequence[str]) -> Mapping[str, str]:
    """Return the first words of each sample, by its id; empty if the pool is gone or the catalogue is busy."""
    pool = store.display_names().get(features.inputs.get("pool", ""))
    sql = """
        WITH wanted AS (
            SELECT i.sample_id, coalesce(any_value(t.conversation_id), i.sample_id) AS id, any_value(t.turn) AS turn
            FROM (SELECT unnest($ids) AS sample_id) i LEFT JOIN turn_samples t USING (sample_id) GROUP BY i.sample_id
        )
        SELECT w.sample_id, any_value(coalesce(
            list_filter(messages, lambda message: turn IS NULL AND message.role = 'user')[1].content,
            list_filter(messages[:turn], lambda message: message.role = 'user')[-1].content,
            messages[1].content, '')) AS text
        FROM conversations c JOIN wanted w ON w.id = c.sample_id WHERE pool = $pool GROUP BY w.sample_id"""
    try:
        found = store.query(sql, {"pool": pool, "ids": list(ids)}).to_pylist() if pool else []
    except CatalogueBusy as error:
        LOGGER.info("The summary shows sample ids instead of texts: %s", error)
        return {}
    texts = {row["sample_id"]: " ".join(row["text"].split()) for row in found}
    return {
        key: text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…" for key, text in texts.items()
    }


STAGE = Stage(ClusterConfig, run, EXAMPLES)
