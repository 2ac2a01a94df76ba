"""The map of the pool: the sketches or embeddings of its samples, reduced to two dimensions by PCA or UMAP."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ConfigError
from ..store import Artifact
from ..store.vectors.vectors import VectorShards
from .runs import ReportContext, embedding, vectors_of

FITTED = 10_000
"""Number of samples on which PCA is fitted. The other samples are only projected."""
BEFORE_UMAP = 50
"""Number of PCA directions that UMAP gets as input."""

Matrix = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Positions = npt.NDArray[np.int64]


def embedding_map(context: ReportContext, ids: Sequence[str]) -> dict[str, Any] | None:
    """Return the coordinates of each sample, or None if there are no vectors. `context.missing` then has the reason.

    Args:
        context: the runs, their pool and its features.
        ids: the ids of the samples that the page shows.

    Raises:
        ConfigError: the user requested UMAP, which is not installed, or features without vectors.
    """
    umap = context.request.method == "umap"
    if umap and find_spec("umap") is None:
        raise ConfigError("--map umap needs the package umap-learn: pip install umap-learn. Or use --map pca.")
    column = vectors_of(context.features) if context.features else None
    if context.features is None or column is None:
        if context.request.features is not None:
            raise ConfigError(
                f"The features '{context.request.features}' hold neither sketches nor embeddings for a map."
            )
        context.missing["map"] = f"There are no sketches of this pool: {embedding(context)}"
        return None
    positions, vectors = _vectors(context.features, column, ids)
    if len(vectors) < 3:
        context.missing["map"] = f"Fewer than three of the shown samples have vectors: {embedding(context)}"
        return None
    coordinates, fitted, explained = _umap(vectors) if umap else _pca(vectors)
    if fitted < len(vectors):
        context.notes.append(
            f"The directions of the map were fitted on {fitted:,} of the shown samples, drawn at random."
        )
    return {
        "method": "UMAP" if umap else "PCA",
        "of": f"{column} of {context.features.name}",
        "fitted": fitted,
        "explained": explained,
        **{axis: _spread(coordinates[:, number], positions, len(ids)) for number, axis in enumerate("xy")},
    }


def _vectors(features: Artifact, column: str, ids: Sequence[str]) -> tuple[Positions, Halves]:
    """Return (m,) the positions in `ids` of the samples that have a vector, and (m, d) the vectors, of unit length.

    One shard at a time is in memory in addition to the result.
    """
    wanted = pa.array(list(ids), pa.large_string())
    positions, found = [], []
    for part in VectorShards(features.shards(), column):
        within = pc.index_in(part.ids, value_set=wanted)
        rows = np.flatnonzero(within.is_valid().to_numpy(zero_copy_only=False))
        positions.append(within.drop_null().to_numpy().astype(np.int64))
        found.append(part.matrix[rows].astype(np.float16))
    return np.concatenate(positions), np.concatenate(found)


def _pca(vectors: Halves, directions: int = 2) -> tuple[Matrix, int, list[float]]:
    """Return (m, directions) coordinates, the number of fitted samples, and each direction's share of the variance."""
    from sklearn.decomposition import PCA

    drawn = np.random.default_rng(0).choice(len(vectors), min(FITTED, len(vectors)), replace=False)
    fit = PCA(directions, svd_solver="randomized", random_state=0).fit(vectors[np.sort(drawn)].astype(np.float32))
    parts = np.array_split(vectors, -(-len(vectors) // FITTED))
    coordinates = np.concatenate([fit.transform(part.astype(np.float32)) for part in parts])
    return coordinates, len(drawn), [float(share) for share in fit.explained_variance_ratio_]


def _umap(vectors: Halves) -> tuple[Matrix, int, None]:
    from umap import UMAP

    reduced, _, _ = _pca(vectors, min(BEFORE_UMAP, *vectors.shape))
    coordinates: Matrix = UMAP(n_components=2, random_state=0).fit_transform(reduced)
    return coordinates, len(vectors), None


def _spread(values: Matrix, positions: Positions, count: int) -> list[float | None]:
    """Return a list of `count` values, with each value at its position and None elsewhere."""
    found: list[float | None] = [None] * count
    for position, value in zip(positions.tolist(), values.tolist(), strict=True):
        found[position] = value
    return found
