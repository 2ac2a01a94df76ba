"""TF-IDF: choose the samples that use the target's words.

This is a baseline that needs no model. A method that beats it uses more than the words.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..errors import DataError
from .base import PoolSelector, averages, require, take_best
from .budget import RemainingBudget
from .candidates import Candidates, Ranking, Target
from .oracle import Oracle


class Tfidf(PoolSelector):
    """Score a sample by the maximum over subtasks of its mean cosine to the subtask's texts.

    This combines similarities as LESS does for gradients. Inverse document frequencies are those of the pool.

    Args:
        seed: unused, because the method is deterministic.
        ngrams: the maximum length of a term, in words (or characters).
        analyzer: the unit of a term: `word`, or `char_wb` for characters within words.
        min_df: the minimum number of samples of the pool that contain a term.
    """

    needs = frozenset({"texts", "target_texts"})

    def __init__(
        self, *, seed: int = 0, ngrams: int = 1, analyzer: Literal["word", "char_wb"] = "word", min_df: int = 1
    ) -> None:
        super().__init__(seed=seed)
        if analyzer not in ("word", "char_wb"):
            raise ValueError(f"analyzer is word or char_wb, not {analyzer!r}")
        if ngrams < 1 or min_df < 1:
            raise ValueError("ngrams and min_df must be at least 1")
        self.ngrams, self.analyzer, self.min_df = ngrams, analyzer, min_df

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Take candidates by similarity to the target, highest first."""
        pool, targets = self._terms(
            require(candidates.texts, "texts of the pool"), require(target.texts, "texts of the target")
        )
        if not targets.nnz:
            raise DataError("The target and the pool have no word in common: tfidf cannot rank by words.")
        means = averages(target.subtasks) @ targets
        return take_best(candidates, np.asarray(pool @ means.T, np.float64).max(1), remaining)

    def _terms(self, pool: Any, target: Any) -> tuple[Any, Any]:
        """Return the TF-IDF vectors of pool and target, sparse (n, v) and (m, v), with rows of unit length."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(
            analyzer=self.analyzer,
            ngram_range=(1, self.ngrams),
            min_df=self.min_df,
            sublinear_tf=True,
            token_pattern=r"(?u)\b\w+\b" if self.analyzer == "word" else None,
        )
        try:
            return vectorizer.fit_transform(pool), vectorizer.transform(target)
        except ValueError as error:
            raise DataError(f"tfidf finds no terms in the pool's texts: {error}.") from None
