"""Split a text into the words that can be keywords: letters and digits, beginning with a letter.

Chinese and Japanese are written without spaces. Of Chinese characters all pairs that follow each other are taken, and
`joined` puts the pairs of a longer word together again. Of Japanese the Chinese characters and Katakana are read, and
Hiragana, which has the endings and particles, is not. Names in code are split at underscores. Thai, Lao, Khmer and
Burmese are read from space to space.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from .stop_words import HAN_CHARACTERS, HAN_PAIRS

READ_CHARACTERS = 1000
"""Characters of a text that are read, from its beginning."""
LONGEST = 30
"""Longest word: hashes and encoded data are longer."""
JOINED = 0.8
"""Pairs of characters are parts of one word if this share of the texts with one has the other, too."""
LEAST_JOINED = 3
"""Least number of texts from which on they are joined."""
LONGEST_JOINED = 6
NO_TOPICS = frozenset(HAN_PAIRS.split())

HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
MARKS = (
    r"\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0971-\u0dff\u0e00-\u0eff\u0f00-\u109f\u1780-\u17d3"
)
"""Combining marks, with the letters of the scripts that use them most."""

WORD = re.compile(
    rf"([{HAN}]+)|([\u30a1-\u30fa\u30fc\u31f0-\u31ff]{{2,}})|[a-z](?:\+\+|\#)"
    rf"|(?![{HAN}\u3041-\u30ff])[^\W\d_](?:(?![{HAN}\u3041-\u30ff])[^\W_]|[{MARKS}])*"
)
"""A run of Chinese characters, one of Katakana, the name of a programming language, or a word that may have digits."""


def words_of(text: str) -> list[str]:
    """Return the words of the beginning of a text, in small letters, in order."""
    found = []
    for match in WORD.finditer(unicodedata.normalize("NFKC", text[:READ_CHARACTERS]).lower()):
        word = match[0]
        if match[1]:
            pairs = (word[place : place + 2] for place in range(len(word) - 1))
            found += [pair for pair in pairs if pair not in NO_TOPICS and HAN_CHARACTERS.isdisjoint(pair)]
        elif 2 <= len(word) <= LONGEST:
            found.append(word)
    return found


def is_pair(word: str) -> bool:
    """Return whether a word is a pair of Chinese characters."""
    return len(word) == 2 and re.fullmatch(f"[{HAN}]+", word) is not None


def joined(pair: str, texts: Mapping[str, float]) -> str:
    """Return the word that a pair of Chinese characters is part of: itself, or a longer one.

    Args:
        pair: the pair.
        texts: pair -> number of texts of the group that have it.
    """
    word, least = pair, texts[pair]
    if least < LEAST_JOINED:
        return word
    while len(word) < LONGEST_JOINED:
        behind = [(count, each) for each, count in texts.items() if each[0] == word[-1]]
        before = [(count, each) for each, count in texts.items() if each[1] == word[0]]
        count, longer = max(
            [(count, word + each[1]) for count, each in behind] + [(count, each[0] + word) for count, each in before],
            default=(0.0, word),
        )
        if not JOINED * least <= count <= least / JOINED:
            break
        word, least = longer, min(least, count)
    return word
