"""Read the texts that are compared: normalized, split into words, and with their numbers and signs in order.

Case, white space and Unicode form (NFKC) are blurred. Numbers and signs are not: superscripts, subscripts and fractions
stay apart from plain digits, which NFKC would make of them.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from ...samples import Sample, from_row, split_last_answer, to_json
from ...store import Artifact
from ..pools import CONVERSATION

WORD = re.compile(r"\d+(?:[.,]\d+)*|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\W\d]+|[^\w\s]|_")
"""A number, one character of Chinese, Japanese or Korean, a word, or one sign."""

NUMBER = re.compile(r"\d+(?:[.,]\d+)*|[+*/=<>^%×÷±≤≥≠√]|(?<![^\W\d])[-−–]|[-−–](?![^\W\d])")
"""A number, or a sign of arithmetic; a hyphen between letters is none."""

APART = {"<super>": "^", "<sub>": "_", "<fraction>": " "}
"""Kind of a compatible character -> what stands before its plain form."""


@dataclass(frozen=True, slots=True)
class Part:
    """The prompt or the answer of a sample.

    Attributes:
        key: hash of the normalized messages (128 bits); equal for copies only. Empty if there is no text.
        text: normalized text.
    """

    key: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a pool: its sample, and the parts that are compared."""

    sample_id: str
    prompt: Part
    answer: Part


def rows_of(pool: Artifact) -> Iterator[Row]:
    """Yield the rows of a pool in order."""
    for table in pool.tables(CONVERSATION):
        for batch in table.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                prompt, answer = split(from_row(row))
                yield Row(row["sample_id"], prompt, answer)


def split(sample: Sample) -> tuple[Part, Part]:
    """Return what comes before the last answer of a sample, and that answer; a plain text is a prompt."""
    before, answer = ([(role, normalize(content)) for role, content in part] for part in split_last_answer(sample))
    return _part(before), _part(answer)


def _part(messages: list[tuple[str, str]]) -> Part:
    text = "\n".join(content for _, content in messages if content)
    if not text:
        return Part(b"", "")
    return Part(hashlib.blake2b(to_json(messages).encode("utf-8", "surrogatepass"), digest_size=16).digest(), text)


def normalize(text: str) -> str:
    """Return text in Unicode form NFKC, in small letters, with single spaces between its words."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", "".join(_plain(each) if each > "\x7f" else each for each in text))
    return " ".join(text.casefold().split())


@cache
def _plain(character: str) -> str:
    """Return a character with a sign before it if NFKC would make it part of a plain number."""
    kind = unicodedata.decomposition(character).partition(" ")[0]
    return APART.get(kind, "") + character


def numbers(text: str) -> str:
    """Return the numbers and signs of arithmetic of a normalized text, in order."""
    return " ".join(NUMBER.findall(text))
