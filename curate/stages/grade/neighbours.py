"""Compare each answer with the answers of the samples with the nearest vectors.

An answer that shares few words with those to similar samples may be one to another question (cf. Xu et al. 2023, and
the search for wrong labels by neighbours: Zhu et al. 2022). Differences: similarity is that of words, so that no
second model is needed, and it is a number, not a vote.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...errors import DataError
from ...store import Artifact
from .signals.measures import words_of

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class Answers:
    """The sets of words of answers, by sample id. About 8 bytes of memory per word of an answer."""

    def __init__(self) -> None:
        self.row_of: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._columns, self._ends = array("i"), array("q", [0])

    def add(self, sample_id: str, answer: str) -> None:
        """Add the answer of a sample."""
        self.row_of[sample_id] = len(self.row_of)
        words = dict.fromkeys(word.lower() for word in words_of(answer))
        self._columns.extend(self._numbers.setdefault(word, len(self._numbers)) for word in words)
        self._ends.append(len(self._columns))

    def matrix(self) -> csr_matrix:
        """Return (n, words) 1 for each word that the answer in this row has."""
        from scipy.sparse import csr_matrix

        ones = np.ones(len(self._columns), np.float32)
        shape = (len(self.row_of), max(1, len(self._numbers)))
        return csr_matrix((ones, np.array(self._columns), np.array(self._ends)), shape=shape)


def agreement(features: Artifact, on: str, k: int, answers: Answers) -> Mapping[str, float]:
    """Return the mean similarity of each answer to those of the k samples with the most similar vectors.

    Similarity is Jaccard's: the share of the words of both answers, each once and in small letters, that both have, 0
    to 1. The sample itself does not count. Samples without a vector, without words in their answer, or without
    neighbours that have an answer, are not in the result. Search is exact up to 2¹⁸ samples; see `choose_kind`.

    Args:
        features: features of the pool with the vectors.
        on: their column.
        k: number of neighbours.
        answers: the answers of the pool.

    Raises:
        DataError: a sample of the features is none of the pool.
    """
    from ...store.vectors.index import index_of
    from ...store.vectors.vectors import VectorShards

    shards = VectorShards(features.shards(), on)
    index = index_of(features.path, shards)
    ids = [sample_id for part in shards for sample_id in part.ids.to_pylist()]
    rows = _rows(ids, answers, features.name)
    words = answers.matrix()
    sizes = np.diff(words.indptr)
    found: dict[str, float] = {}
    start = 0
    for queries in shards.blocks(min(index.block, 2048)):
        _, near = index.nearest(queries, min(k + 1, len(ids)))
        own = np.arange(start, start + len(queries))
        start += len(queries)
        for place, value in zip(own.tolist(), _means(rows, near, own, k, words, sizes).tolist(), strict=True):
            if not np.isnan(value):
                found[ids[place]] = value
    return found


def _rows(ids: Sequence[str], answers: Answers, name: str) -> np.ndarray:
    unknown = [sample_id for sample_id in ids if sample_id not in answers.row_of]
    if unknown:
        raise DataError(
            f"The features '{name}' have {len(unknown)} samples that are no rows of the pool, such as answers of their "
            "own: embed the pool with --turns whole."
        )
    return np.array([answers.row_of[sample_id] for sample_id in ids], np.int64)


def _means(
    rows: np.ndarray, near: np.ndarray, own: np.ndarray, k: int, words: csr_matrix, sizes: np.ndarray
) -> np.ndarray:
    """Return (q,) the mean similarity of the answers of `own` to those of the first k others in `near`, or NaN."""
    other = (near >= 0) & (near != own[:, None])
    other &= np.cumsum(other, axis=1) <= k
    query, place = np.nonzero(other)
    one, two = rows[own[query]], rows[near[query, place]]
    shared = np.asarray(words[one].multiply(words[two]).sum(axis=1)).ravel()
    usable = (sizes[one] > 0) & (sizes[two] > 0)
    union = sizes[one] + sizes[two] - shared
    values = np.divide(shared, union, out=np.zeros(len(shared)), where=union > 0)
    count = np.bincount(query[usable], minlength=len(own))
    total = np.bincount(query[usable], weights=values[usable], minlength=len(own))
    means: np.ndarray = np.divide(total, count, out=np.full(len(own), np.nan), where=count > 0)
    return means
