"""Tell whether an answer ends without an end: in the middle of a word, a sentence, a bracket or a block of code.

Many right answers end without a full stop: a number, a name, a title, a list, code. So only prose is judged by its last
sentence, and only where the text before it shows that its sentences end with a sign.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from .measures import words_of

FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)
END = re.compile(r"[.!?…。！？]['\"”’»)\]}*_`]*\s*$|[:;]\s*[)(D]\s*$")
"""A text that ends with a sign that ends a sentence, or with a face."""
SENTENCE = re.compile(r"[^\W\d_]{2,}[)\"”’']*[.!?。！？]['\"”’)]*(?:\s+|(?<=[。！？]))(?=[\"“‘'(]?[^\W_])")
"""The end of a sentence with another one behind it."""
LEFT_OPEN = re.compile(r"(?:[,，、(\[{“‘«]|(?<=\s)[-–—&/+=])\s*$")
"""A sign at the end of a text that something must follow."""
LEADING = frozenset(
    """
    a an the and or but nor because although though while whereas if unless until than that which whose
    whom who of to for from with without within into onto upon by at as is are was were be been being
    has have had can could will would shall should may might must very such not his her its their our
    your my these those this including between among through during about against toward towards via per
    """.split()  # noqa: SIM905
)
"""Words that no English sentence ends with, or almost none."""
CODE = re.compile(
    r"[{};]\s*$|^\s*(?:def|class|import|from|return|for|while|if|else|print|SELECT|INSERT|UPDATE|CREATE|var|let|const"
    r"|function|public|#include|<\w+[^>]*>)\b|=>|==|</\w+>|\w+\(.*\)\s*$",
    re.MULTILINE,
)
ITEM = re.compile(r"^\s*(?:[-*•·–]|\(?\d{1,3}[.):]|\(?[A-Za-z][.)])\s")
TAG = re.compile(r"(?:#[^\s#]+|https?://\S+|www\.\S+|@\w+)[)\]]?\s*$|[\"”]\s*[-–—~]\s*[A-Z].{0,60}$")
"""A hashtag, an address, or the author behind a quotation at the end of a text: nothing must follow it."""
LEAST_LETTERS = 40
"""Letters of the shortest answer that is judged by the sentences before its end."""
LEAST_LINE = 4
"""Words of the shortest last line that is judged as a sentence."""
PAIRS = {"(": ")", "[": "]", "{": "}", "（": "）", "「": "」", "“": "”"}
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


def unfinished(answer: str, vocabulary: Vocabulary) -> bool:
    """Return whether an answer ends without an end.

    It does if a block of code, or a bracket in code, is not closed. It also does if its last line is no code, has at
    least three words, and ends with a comma, an opening bracket or quote, a word that something must follow
    (`LEADING`), or what seems a part of a word (`Vocabulary.is_cut`). A longer answer, of at least 40 letters, also
    does if its last line has at least four words, is no item of a list, and ends without a sign where an earlier
    sentence of that paragraph, or most paragraphs, have one; or inside a bracket that the line opens.
    """
    text = answer.rstrip()
    if len(FENCE.findall(text)) % 2:
        return True
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or text.endswith(("```", "~~~")):
        return False
    *before, last = lines
    words = words_of(last)
    if END.search(last) or TAG.search(last):
        return False
    if CODE.search(text):
        return any(text.count(opened) > text.count(closed) for opened, closed in (("{", "}"), ("(", ")")))
    if len(words) >= LEAST_LINE - 1 and _left_open(last, words, vocabulary):
        return True
    if len(words) < LEAST_LINE or sum(map(str.isalpha, text)) < LEAST_LETTERS:
        return False
    if ITEM.match(last) or not last.rstrip()[-1].isalnum():
        return False
    return bool(SENTENCE.search(last)) or _is_prose(before) or _in_bracket(last)


def _left_open(last: str, words: list[str], vocabulary: Vocabulary) -> bool:
    """Return whether a line ends with a sign or word that something must follow, or within a word."""
    if LEFT_OPEN.search(last):
        return True
    return last.rstrip().endswith(words[-1]) and (words[-1] in LEADING or vocabulary.is_cut(words[-1]))


def _is_prose(lines: list[str]) -> bool:
    """Return whether most of the lines before the last end with the sign of a sentence."""
    long = [line for line in lines if len(words_of(line)) >= LEAST_LINE]
    return len(long) > 0 and sum(bool(END.search(line)) for line in long) > 0.6 * len(long)


def _in_bracket(last: str) -> bool:
    """Return whether a line opens a bracket or quote that it does not close."""
    return any(last.count(opened) > last.count(closed) for opened, closed in PAIRS.items())
