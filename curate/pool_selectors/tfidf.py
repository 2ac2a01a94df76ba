"""TF-IDF: which samples use the target's words. A baseline that needs no model: what beats it knows more than words."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..errors import DataError
from .base import PoolSelector, averages, given, take_best
from .budget import RemainingBudget
from .candidates import Candidates, Ranking, Target
from .oracle import Oracle


class Tfidf(PoolSelector):
    """max over subtasks of the mean cosine to the subtask's texts, as LESS sums up gradients.

    How rare a term is, the pool says.

    Args:
        seed: unused: nothing is left to chance.
        ngrams: the longest sequence of words (or characters) that counts as a term.
        analyzer: terms are words, or characters within words.
        min_df: in how many samples of the pool a term must be found.
    """

    needs = frozenset({"texts", "target_texts"})

    def __init__(
        self, *, seed: int = 0, ngrams: int = 1, analyzer: Literal["word", "char_wb"] = "word", min_df: int = 1
    ) -> None:
        super().__init__(seed=seed)
        if analyzer not in ("word", "char_wb"):
            raise ValueError(f"analyzer is word or char_wb, not {analyzer!r}")
        if ngrams < 1 or min_df < 1:
            raise ValueError("ngrams and min_df are whole numbers from 1")
        self.ngrams, self.analyzer, self.min_df = ngrams, analyzer, min_df

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Most like the target first."""
        pool, wanted = self._terms(
            given(candidates.texts, "texts of the pool"), given(target.texts, "texts of the target")
        )
        if not wanted.nnz:
            raise DataError("The target and the pool have no word in common: tfidf cannot rank by words.")
        means = averages(target.subtasks) @ wanted
        return take_best(candidates, np.asarray(pool @ means.T, np.float64).max(1), remaining)

    def _terms(self, pool: Any, target: Any) -> tuple[Any, Any]:
        """Sparse (n, v) and (m, v), rows of unit length."""
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
            raise DataError(f"tfidf finds no terms in the pool: {error}.") from None
