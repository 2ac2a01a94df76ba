"""The pool on a plane: the two directions that its sketches vary most in, or UMAP of them where that was asked for."""

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
"""Samples that the directions are found on; the others are put where these say."""
BEFORE_UMAP = 50
"""Directions that UMAP is given."""

Matrix = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Places = npt.NDArray[np.int64]


def embedding_map(scope: ReportContext, ids: Sequence[str]) -> dict[str, Any] | None:
    """Where each sample is on the plane; None, and why, where there are no vectors.

    Raises:
        ConfigError: UMAP was asked for and is not installed, or features without vectors were.
    """
    umap = scope.wish.method == "umap"
    if umap and find_spec("umap") is None:
        raise ConfigError("--map umap wants the package umap-learn: pip install umap-learn. Or take --map pca.")
    column = vectors_of(scope.features) if scope.features else None
    if scope.features is None or column is None:
        if scope.wish.features is not None:
            raise ConfigError(
                f"The features '{scope.wish.features}' hold neither sketches nor embeddings to draw a map by."
            )
        scope.missing["map"] = f"No sketches of this pool: {embedding(scope)}"
        return None
    places, vectors = _vectors(scope.features, column, ids)
    if len(vectors) < 3:
        scope.missing["map"] = f"Fewer than three of the samples shown have vectors: {embedding(scope)}"
        return None
    at, fitted, explained = _umap(vectors) if umap else _pca(vectors)
    if fitted < len(vectors):
        scope.notes.append(f"The map's directions were found on {fitted:,} of the samples shown, drawn by chance.")
    return {
        "method": "UMAP" if umap else "PCA",
        "of": f"{column} of {scope.features.name}",
        "fitted": fitted,
        "explained": explained,
        **{axis: _spread(at[:, number], places, len(ids)) for number, axis in enumerate("xy")},
    }


def _vectors(features: Artifact, column: str, ids: Sequence[str]) -> tuple[Places, Halves]:
    """(m,) which of the ids have a vector, and (m, d) these, of unit length. A shard is in memory beside them."""
    wanted = pa.array(list(ids), pa.large_string())
    places, found = [], []
    for part in VectorShards(features.shards(), column):
        at = pc.index_in(part.ids, value_set=wanted)
        rows = np.flatnonzero(at.is_valid().to_numpy(zero_copy_only=False))
        places.append(at.drop_null().to_numpy().astype(np.int64))
        found.append(part.matrix[rows].astype(np.float16))
    return np.concatenate(places), np.concatenate(found)


def _pca(vectors: Halves, directions: int = 2) -> tuple[Matrix, int, list[float]]:
    """(m, directions) coordinates, what they were fitted on, and the share of the variance that each explains."""
    from sklearn.decomposition import PCA

    drawn = np.random.default_rng(0).choice(len(vectors), min(FITTED, len(vectors)), replace=False)
    fit = PCA(directions, svd_solver="randomized", random_state=0).fit(vectors[np.sort(drawn)].astype(np.float32))
    parts = np.array_split(vectors, -(-len(vectors) // FITTED))
    at = np.concatenate([fit.transform(part.astype(np.float32)) for part in parts])
    return at, len(drawn), [float(share) for share in fit.explained_variance_ratio_]


def _umap(vectors: Halves) -> tuple[Matrix, int, None]:
    from umap import UMAP

    near, _, _ = _pca(vectors, min(BEFORE_UMAP, *vectors.shape))
    at: Matrix = UMAP(n_components=2, random_state=0).fit_transform(near)
    return at, len(vectors), None


def _spread(values: Matrix, places: Places, count: int) -> list[float | None]:
    found: list[float | None] = [None] * count
    for place, value in zip(places.tolist(), values.tolist(), strict=True):
        found[place] = value
    return found
