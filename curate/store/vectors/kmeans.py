"""Spherical k-means (by cosine similarity), with the same result with and without FAISS.

The algorithm uses its backend only to find the nearest centroids. It does not use faiss.Kmeans: that seeds uniformly,
which often merges two clusters into one, and numpy could not reproduce how it treats empty clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DataError
from ...log import bar
from .index import Backend, build_index
from .vectors import Matrix, Positions, to_unit_length

IDENTICAL = 1 - 1e-6
"""A cosine similarity above this cannot be distinguished from 1 in float32."""


@dataclass(frozen=True)
class Clustering:
    """The result of k-means.

    Attributes:
        centroids: (k, d) float32, unit length.
        labels: (n,) index of each vector's most similar centroid.
        similarity: (n,) cosine similarity of each vector to that centroid.
        iterations: number of iterations; fewer than requested if no label changed any more.
    """

    centroids: Matrix
    labels: Positions
    similarity: Matrix
    iterations: int


def spherical_kmeans(
    matrix: Matrix, k: int, *, seed: int, iterations: int = 20, redo: int = 1, backend: Backend = "auto"
) -> Clustering:
    """Cluster unit vectors by cosine similarity. No cluster is empty, and the same seed gives the same result.

    Lloyd's algorithm with centroids of unit length (Dhillon and Modha, 2001) from greedy k-means++ seeds (Arthur and
    Vassilvitskii, 2007). An empty cluster takes the vector that is least like its own centroid.

    Args:
        matrix: (n, d) float32, unit length.
        k: number of clusters.
        seed: seed for the choice of the first centroids.
        iterations: maximum number of iterations; the algorithm stops earlier if no label changes.
        redo: number of seedings to try; the clustering with the highest mean cosine similarity is returned.
        backend: library that finds the nearest centroids.

    Raises:
        DataError: k is larger than the number of distinct vectors.
    """
    if k > len(matrix):
        raise DataError(f"k is {k}, but there are {len(matrix)} vectors to cluster: give a smaller k.")
    best: Clustering | None = None
    with bar(total=iterations * redo, label="k-means", unit="iteration") as progress:
        for generator in np.random.default_rng(seed).spawn(redo):
            found = _lloyd(matrix, _seeds(matrix, k, generator), iterations, backend, progress)
            if best is None or found.similarity.mean() > best.similarity.mean():
                best = found
    assert best is not None
    return best


def _lloyd(matrix: Matrix, centroids: Matrix, iterations: int, backend: Backend, progress: Any) -> Clustering:
    centroids, labels, similarity = _assign(matrix, centroids, backend)
    moved, done = True, 0
    while moved and done < iterations:
        previous = labels
        centroids, labels, similarity = _assign(matrix, _means(matrix, labels, centroids), backend)
        moved, done = not np.array_equal(labels, previous), done + 1
        progress.update(1)
    return Clustering(centroids, labels, similarity, done)


def _assign(matrix: Matrix, centroids: Matrix, backend: Backend) -> tuple[Matrix, Positions, Matrix]:
    """Return centroids, labels and similarities such that no cluster is empty.

    Each round moves one empty cluster to the vector that is least similar to its centroid. It moves only one, since the
    least similar vectors tend to lie together. The move may empty another cluster, but each round raises the sum of
    similarities, so the loop ends.
    """
    while True:
        best, nearest = build_index(centroids, backend).nearest(matrix, 1)
        similarity, labels = best[:, 0], nearest[:, 0]
        empty = np.flatnonzero(np.bincount(labels, minlength=len(centroids)) == 0)
        if not len(empty):
            return centroids, labels, similarity
        worst = int(similarity.argmin())
        if similarity[worst] > IDENTICAL:
            distinct = len(centroids) - len(empty)
            raise DataError(
                f"k is {len(centroids)}, but only {distinct} of the {len(matrix)} vectors are distinct: give a "
                "smaller k."
            )
        centroids = centroids.copy()
        centroids[empty[0]] = matrix[worst]


def _means(matrix: Matrix, labels: Positions, centroids: Matrix) -> Matrix:
    """Return the direction of each cluster's sum; the old centroid if the members cancel out."""
    bounds = np.cumsum(np.bincount(labels, minlength=len(centroids)))[:-1]
    members = np.split(np.argsort(labels, kind="stable"), bounds)
    sums = np.stack([matrix[rows].sum(axis=0) for rows in members])
    usable = to_unit_length(sums)
    return np.where(usable[:, None], sums, centroids)


def _seeds(matrix: Matrix, k: int, generator: np.random.Generator) -> Matrix:
    """Return k rows by greedy k-means++.

    Each step draws a few candidates by their distance to the rows so far, and takes the one that reduces the sum of
    distances most.
    """
    trials = 2 + int(math.log(k))
    chosen = [int(generator.integers(len(matrix)))]
    distance = np.maximum(1 - matrix @ matrix[chosen[0]], 0)
    for _ in range(k - 1):
        cumulative = np.cumsum(distance, dtype=np.float64)
        drawn = np.searchsorted(cumulative, generator.random(trials) * cumulative[-1], side="right")
        candidates = np.minimum(drawn, len(matrix) - 1)
        remaining = np.minimum(distance, np.maximum(1 - matrix[candidates] @ matrix.T, 0))
        best = int(remaining.sum(axis=1, dtype=np.float64).argmin())
        chosen.append(int(candidates[best]))
        distance = remaining[best]
    return matrix[chosen]
