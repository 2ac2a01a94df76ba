"""The nearest neighbours of candidates, from the index of their features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...log import LOGGER, bar
from ...pool_selectors.candidates import Bools, Ints, Matrix
from ...store import Artifact


class FeatureNeighbours:
    """Finds nearest neighbours with the index that is stored with features: FAISS if it is installed, else numpy.

    Search is exact up to the limits of `store/vectors/index_kind.py`; above them a log line names the index.

    Args:
        features: the features.
        on: their vector column.
        ids: sample ids of the n candidates.
    """

    def __init__(self, features: Artifact, on: str, ids: Sequence[str]) -> None:
        self._features, self._on, self._ids = features, on, ids

    def __len__(self) -> int:
        return len(self._ids)

    def nearest(self, k: int) -> tuple[Bools, Matrix, Ints]:
        """Return which candidates have a vector (n,), and similarities and rows of their k nearest others, (n, k) each.

        The row is -1 where there are fewer neighbours, or an approximate index found fewer.
        """
        from ...store.vectors.index import index_of
        from ...store.vectors.vectors import VectorShards

        vectors = VectorShards(self._features.shards(), self._on)
        index = index_of(self._features.path, vectors)
        if not index.kind.exact:
            LOGGER.info("Nearest neighbours are searched with an index of the kind %s.", index.kind)
        row_of = {sample_id: row for row, sample_id in enumerate(self._ids)}
        at = np.array([row_of.get(name, -1) for part in vectors for name in part.ids.to_pylist()], np.int64)
        n, k = len(self), min(k, max(1, len(self) - 1))
        usable = np.zeros(n, bool)
        similarities, rows = np.zeros((n, k), np.float32), np.full((n, k), -1, np.int64)
        start = 0
        with bar(total=len(at), label="neighbours", unit="sample") as progress:
            for queries in vectors.blocks(index.block):
                own = at[start : start + len(queries)]
                found, positions = index.nearest(queries, min(k + 1, len(at)))
                others = np.where(positions >= 0, at[np.maximum(positions, 0)], -1)
                others[others == own[:, None]] = -1
                # the others first, in their order: the sample itself is one of k + 1, or is hidden by copies of it
                order = np.argsort(others < 0, axis=1, kind="stable")[:, :k]
                width, known = order.shape[1], own >= 0
                usable[own[known]] = True
                similarities[own[known], :width] = np.take_along_axis(found, order, 1)[known]
                rows[own[known], :width] = np.take_along_axis(others, order, 1)[known]
                start += len(queries)
                progress.update(len(queries))
        return usable, similarities, rows
