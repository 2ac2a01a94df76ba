"""`curate cluster`: group the samples of a pool, name the groups, and find representatives and near duplicates.

Samples are clustered by cosine similarity of their sketches (similar effect on training) or embeddings (similar hidden
states). The nearest other sample of every sample is found too; a similarity near 1 means a near duplicate. A pool may
be larger than memory: centroids are learnt from `sample` vectors, titles from at most 100,000 prompts, and all else is
read one shard at a time, with about 100 bytes per sample in memory.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...log import LOGGER, bar
from ...store import Artifact, Draft
from ..inputs import Inputs
from ..stage import Stage
from .config import ClusterConfig
from .naming import largest, name_clusters, pool_of_features, title_records
from .ranked import Assigned, Ranked, rank

if TYPE_CHECKING:
    from ...store.vectors.kmeans import Clustering
    from ...store.vectors.vectors import Positions, Vectors, VectorShards

SHOWN_REJECTED = 5

EXAMPLES = """
curate cluster --features feats --k 50 --name clusters
curate cluster --features feats --on embedding --k 100 --redo 3 --name topics
curate query "SELECT sample_id, nearest_id FROM clusters WHERE nearest_similarity > 0.99"
"""


def run(config: ClusterConfig, inputs: Inputs, draft: Draft) -> None:
    """Write the centroids as the artifact's data, and the clusters of samples as records."""
    from ...store.vectors.index import choose_backend
    from ...store.vectors.kmeans import spherical_kmeans
    from ...store.vectors.vectors import VectorShards

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
    ranked = rank(assigned, config.k)
    draft.write(0, _centroids(found, ranked))
    named = name_clusters(config, pool_of_features(inputs.store, features), assigned, ranked)
    draft.add("cluster_titles", title_records(assigned, ranked, named.titles))
    draft.summary = {
        "samples": len(assigned.ids),
        "k": config.k,
        "iterations": found.iterations,
        "mean_similarity": round(float(assigned.similarity.mean()), 4),
        "silhouette": _silhouette(config, learnt, np.argsort(ranked.order)[found.labels]),
        "sizes": f"{ranked.sizes.min()} / {int(np.median(ranked.sizes))} / {ranked.sizes.max()} (min / median / max)",
        "rejected": len(assigned.rejected),
        "backend": backend,
        "largest": largest(config, assigned, ranked, named),
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
    from ...store.vectors.index import build_index

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
        from ...store.vectors.index import index_of, nearest_other

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


STAGE = Stage(ClusterConfig, run, EXAMPLES)
