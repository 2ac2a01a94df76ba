"""k-means by cosine, the same with FAISS as without.

It is one algorithm that asks a backend for nothing but the nearest centroids. faiss.Kmeans is not used: its seeding is
uniform, which often leaves two clusters in one, and what it does with empty clusters numpy could not repeat.
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

SAME = 1 - 1e-6
"""A cosine above this cannot be told from 1 in float32."""


@dataclass(frozen=True)
class Clustering:
    """The result of k-means.

    Attributes:
        centroids: (k, d) float32, unit length.
        labels: (n,) each vector's most similar centroid.
        similarity: (n,) the cosine to it.
        iterations: how many were made; fewer than asked when nothing moved any more.
    """

    centroids: Matrix
    labels: Positions
    similarity: Matrix
    iterations: int


def spherical_kmeans(
    matrix: Matrix, k: int, *, seed: int, iterations: int = 20, redo: int = 1, backend: Backend = "auto"
) -> Clustering:
    """Clusters of unit vectors by cosine; no cluster is empty, and a seed gives one result.

    Lloyd's algorithm with centroids of unit length (Dhillon and Modha, 2001) from greedy k-means++ seeds (Arthur and
    Vassilvitskii, 2007). An empty cluster takes the vector that is least like its own centroid.

    Args:
        matrix: (n, d) float32, unit length.
        k: clusters; more than there are distinct vectors is a `DataError`.
        seed: of the seeding.
        iterations: at most; it stops when no label changes.
        redo: how many seedings to try; the one with the highest mean cosine is returned.
        backend: what finds the nearest centroids.
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
    """Centroids, labels and similarities with no cluster empty.

    One empty cluster is moved a round, since the worst-served vectors tend to lie together. That may empty another, but
    each round raises the sum of similarities, so it ends.
    """
    while True:
        best, nearest = build_index(centroids, backend).nearest(matrix, 1)
        similarity, labels = best[:, 0], nearest[:, 0]
        empty = np.flatnonzero(np.bincount(labels, minlength=len(centroids)) == 0)
        if not len(empty):
            return centroids, labels, similarity
        worst = int(similarity.argmin())
        if similarity[worst] > SAME:
            distinct = len(centroids) - len(empty)
            raise DataError(
                f"k is {len(centroids)}, but only {distinct} of the {len(matrix)} vectors are distinct: give a "
                "smaller k."
            )
        centroids = centroids.copy()
        centroids[empty[0]] = matrix[worst]


def _means(matrix: Matrix, labels: Positions, centroids: Matrix) -> Matrix:
    """The direction of each cluster's sum; the old centroid where the members cancel out."""
    bounds = np.cumsum(np.bincount(labels, minlength=len(centroids)))[:-1]
    members = np.split(np.argsort(labels, kind="stable"), bounds)
    sums = np.stack([matrix[rows].sum(axis=0) for rows in members])
    usable = to_unit_length(sums)
    return np.where(usable[:, None], sums, centroids)


def _seeds(matrix: Matrix, k: int, generator: np.random.Generator) -> Matrix:
    """k rows by greedy k-means++: of a few drawn by their distance to the rows so far, the one that helps most."""
    trials = 2 + int(math.log(k))
    chosen = [int(generator.integers(len(matrix)))]
    distance = np.maximum(1 - matrix @ matrix[chosen[0]], 0)
    for _ in range(k - 1):
        reach = np.cumsum(distance, dtype=np.float64)
        drawn = np.searchsorted(reach, generator.random(trials) * reach[-1], side="right")
        candidates = np.minimum(drawn, len(matrix) - 1)
        left = np.minimum(distance, np.maximum(1 - matrix[candidates] @ matrix.T, 0))
        best = int(left.sum(axis=1, dtype=np.float64).argmin())
        chosen.append(int(candidates[best]))
        distance = left[best]
    return matrix[chosen]
