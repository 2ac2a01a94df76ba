"""Count the words of a pool, which tell a rare word from a usual one, and a part of a word from a word."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from .measures import words_of

VOCABULARY_ROWS = 100_000
"""Rows at the begin of a pool whose words are its vocabulary."""
LEAST_COUNTED = 5
"""Words of the shortest text whose rare words are counted."""
GARBLED, GARBLED_ROWS = 0.4, 5000
"""Share of rare words from which on a text is garbled, and rows of the smallest pool whose vocabulary says so."""
RARE, USUAL = 1, 5
"""Texts that a beginning of a word may be in, and texts that a word must be in, for the first to be cut from it."""


class Vocabulary:
    """The words of a pool, in small letters, with the number of texts that have them. About 100 bytes per word."""

    def __init__(self) -> None:
        self.texts: Counter[str] = Counter()
        self.rows = 0
        self._usual: list[str] | None = None

    def add(self, texts: Iterable[str]) -> None:
        """Count the words of the texts of a row; rows beyond the first 100,000 are not counted."""
        if self.rows < VOCABULARY_ROWS:
            self.rows += 1
            self.texts.update({word.lower() for text in texts for word in words_of(text)})

    def rare_words(self, words: Iterable[str]) -> float | None:
        """Return the share of the words, each once, that no other text of the pool has: 0 to 1.

        Only words that begin with a small letter and have at least three letters count, because names are rare. It is
        null for fewer than five of them. Words with their letters in another order are near 0.5 (the others are short,
        and stay words), usual prose of a pool of some thousand rows is below 0.2, another language near 1.
        """
        counted = {word for word in words if len(word) >= 3 and word[0].islower() and word.isalpha()}
        if len(counted) < LEAST_COUNTED:
            return None
        return sum(self.texts[word.lower()] <= RARE for word in counted) / len(counted)

    def overlap(self, prompt: Iterable[str], answer: Iterable[str]) -> float:
        """Return how much of their words a prompt and an answer share, weighted by rarity: 0 (none) to 1 (all).

        It is the cosine of the vectors that have log(N / df) for each word of the text and 0 for all others, with df of
        the N texts that have the word. An answer to another question shares fewer rare words with the prompt than its
        own answer does; a short right answer may share none. It is 0 if one of them has no words, or only such that all
        texts have. Sums are exact, so they do not depend on the order of the words.
        """
        one, two = ({word.lower() for word in words} for words in (prompt, answer))
        sizes = [math.sqrt(math.fsum(self._rarity(word) ** 2 for word in words)) for words in (one, two)]
        if not all(sizes):
            return 0.0
        return min(1.0, math.fsum(self._rarity(word) ** 2 for word in one & two) / math.prod(sizes))

    def _rarity(self, word: str) -> float:
        return math.log(max(1, self.rows) / max(1, self.texts[word]))

    def is_garbled(self, share: float | None) -> bool:
        """Return whether so many words are rare that they seem none, in a pool that is large enough to say so."""
        return share is not None and share >= GARBLED and self.rows >= GARBLED_ROWS

    def is_cut(self, word: str) -> bool:
        """Return whether no other text has the word, and at least five have a longer one that begins with it."""
        if self._usual is None:
            self._usual = sorted(word for word, count in self.texts.items() if count >= USUAL)
        word = word.lower()
        if not word.isalpha() or self.texts[word] > RARE:
            return False
        place = bisect_left(self._usual, word)
        return place < len(self._usual) and self._usual[place].startswith(word)
