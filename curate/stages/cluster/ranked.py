"""The clusters of samples, numbered by size, with the samples of each ranked by similarity to its centroid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from ...store.vectors.vectors import Matrix, Positions


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


def rank(found: Assigned, k: int) -> Ranked:
    """Number clusters by descending size, and rank the samples of each by descending similarity."""
    counts = np.bincount(found.labels, minlength=k)
    order = np.argsort(-counts, kind="stable")
    labels, sizes = np.argsort(order)[found.labels], counts[order]
    by_cluster = np.lexsort((-found.similarity, labels))
    ranks = np.empty(len(labels), np.int64)
    ranks[by_cluster] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
    return Ranked(labels, ranks, sizes, order)
