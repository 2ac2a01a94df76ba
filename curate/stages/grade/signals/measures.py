"""Measure the length of a text, how much of it repeats, and how well it is compressed for its length."""

from __future__ import annotations

import math
import re
import zlib

import numpy as np

WORD = re.compile(r"\d+(?:[.,]\d+)*|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\W\d_]+(?:['’][^\W\d_]+)*")
"""A number, one character of Chinese, Japanese or Korean, or a word; signs are no words."""

NGRAM = 3
"""Words in a sequence whose repeats are counted."""
LEAST_WORDS = 20
"""Words of the shortest text whose repeats are counted: a short list repeats words without being at fault."""
LEAST_BYTES = 80
"""Bytes of the shortest text that is compressed: below, the size says nothing about repeats."""
REPEATED, COMPRESSED = 0.5, 0.6
"""A text is flagged as repeating itself from this share of repeated sequences on, and at this compression or less."""

USUAL = {
    84: 0.962,
    94: 0.914,
    109: 0.866,
    134: 0.807,
    164: 0.749,
    198: 0.706,
    256: 0.658,
    346: 0.610,
    447: 0.574,
    584: 0.549,
    823: 0.529,
    1218: 0.509,
    1924: 0.503,
    3174: 0.461,
}
"""Bytes of a text -> compressed bytes over bytes (zlib, level 6) of half of the answers of that length: 25,000 English
answers of eight public instruction sets. Between two lengths it is linear in their logarithm, and beyond constant."""


def words_of(text: str) -> list[str]:
    """Return the words of a text in order; see `WORD`."""
    return WORD.findall(text)


def length_ratio(answer: int, prompt: int) -> float | None:
    """Return the words of the answer over those of the prompt, from 0 on; null without a prompt of words."""
    return answer / prompt if prompt else None


def repetition(words: list[str]) -> float | None:
    """Return the share of the sequences of three words that came before in the same text, apart from case.

    The range is 0 (none) to below 1. It is null for a text of fewer than 20 words.
    """
    if len(words) < LEAST_WORDS:
        return None
    lower = [word.lower() for word in words]
    found = list(zip(*(lower[place:] for place in range(NGRAM)), strict=False))
    return 1 - len(set(found)) / len(found)


def compression(text: str) -> float | None:
    """Return how well a text is compressed, compared with usual English answers as long: 1 is usual.

    The bytes that zlib makes of each byte of the text, over the same of usual texts of this length (`USUAL`). A phrase
    that comes again and again is far below 1; Chinese is at about 1.2, code at about 0.95. The range is above 0, and
    rarely above 1.5. It is null for a text of fewer than 80 bytes in UTF-8: 80 characters of English.
    """
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) < LEAST_BYTES:
        return None
    usual = float(np.interp(math.log(len(raw)), LOGARITHMS, list(USUAL.values())))
    return len(zlib.compress(raw, 6)) / len(raw) / usual


LOGARITHMS = [math.log(size) for size in USUAL]


def repeats(share: float | None, size: float | None) -> bool:
    """Return whether a text repeats itself: by its `repetition`, and by its `compression` where both are known."""
    return share is not None and size is not None and share >= REPEATED and size <= COMPRESSED
