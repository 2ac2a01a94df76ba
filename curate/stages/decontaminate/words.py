"""Read the words of a question or an answer so that a reformatted text has the words of its origin.

Case, punctuation, Unicode form, and the way in which numbers and labels of options are written, are blurred: "(A)",
"a." and "1)" are labels, and options are in no order. Numbers and signs of arithmetic are words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from ...samples import Sample, split_last_answer
from ..dedup.sets import Hashes, shingles_of
from ..dedup.texts import normalize

Words = tuple[str, ...]

LABEL = re.compile(
    r"(?:^|(?<=\s)|(?=（))(?:(?:answer|option|choice)\s?)?"
    r"(?:[(\[（](\d{1,2}|[a-z])[)\]）]|(\d{1,2}|[a-z])(?:[)\].:](?=\s)|[）．：、]))",
    re.IGNORECASE | re.MULTILINE,
)
"""Label of an option: a letter or a number with a bracket, a dot or a colon, at the beginning of a line or word."""

BULLET = re.compile(r"^[ \t]*[-*•–][ \t]+", re.MULTILINE)

WORD = re.compile(
    r"\d+(?:[.,]\d+)*|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\W\d_][^\W_]*"
    r"|[-−–+*/=<>^%×÷±≤≥≠√]|[()\[\]{}]"
)
"""A number, one character of Chinese, Japanese or Korean, a word, a sign of arithmetic, or a bracket."""

THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
SIGNS = frozenset("-+*/=<>^%±≤≥≠√")
SPELLED = {"−": "-", "–": "-", "×": "*", "÷": "/", "percent": "%"}
BETWEEN_WORDS = frozenset("-*/")
"""Signs that are punctuation between two words: in "and/or" and "well - known"."""

UNITS = tuple(
    re.findall(
        r"\w+",
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen",
    )
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMERALS = {word: str(n) for n, word in enumerate(UNITS) if word != "one"}
NUMERALS |= {word: str(10 * n) for n, word in enumerate(TENS, 2)}
"""Number words. "One" is more often a pronoun than a number."""

COMPOUND = re.compile(rf"\b({'|'.join(TENS)})[- ]({'|'.join(UNITS[1:10])})\b")


@dataclass(frozen=True)
class Text:
    """The words of a text.

    Attributes:
        body: words of the text before its options, between them, and behind them.
        options: words of each option.
    """

    body: tuple[Words, ...]
    options: tuple[Words, ...]

    @classmethod
    def of(cls, text: str) -> Text:
        """Read a text."""
        body, options = split_options(text)
        return cls(_words_of(body), _words_of(options))

    @cached_property
    def parts(self) -> tuple[Words, ...]:
        """The words of the body and of each option."""
        return self.body + self.options

    @cached_property
    def key(self) -> tuple[Words, tuple[Words, ...]]:
        """Equal for texts with the same words, whose options may be in another order."""
        return tuple(word for part in self.body for word in part), tuple(sorted(self.options))

    def shingles(self, length: int) -> Hashes:
        """Return the hashes of all sequences of `length` words within a part, ascending, each once.

        A shorter part is one sequence.
        """
        return shingles_of(self.parts, length)

    @cached_property
    def numbers(self) -> tuple[tuple[Words, ...], ...]:
        """For each part, its runs of numbers and signs: "is 8 - 3 or 4" has the runs (8, -, 3) and (4)."""
        return tuple(tuple(_runs(part)) for part in self.parts)


def _words_of(texts: Sequence[str]) -> tuple[Words, ...]:
    return tuple(words for text in texts if (words := words_of(text)))


def words_of(text: str) -> Words:
    """Return the words of a text, with numbers and signs in one form; punctuation only if there is nothing else."""
    plain = normalize(text)
    found = [_spelled(word) for word in WORD.findall(COMPOUND.sub(_sum, plain))]
    if not any(word[0].isalnum() for word in found):
        return tuple(plain.replace(" ", ""))
    return tuple(_without_dashes(found))


def _sum(match: re.Match[str]) -> str:
    return str(int(NUMERALS[match[1]]) + UNITS.index(match[2]))


def _spelled(word: str) -> str:
    """Return a sign or a number in its one form; a number has no commas between thousands and no zeros at its end."""
    if word in NUMERALS or word in SPELLED:
        return NUMERALS.get(word) or SPELLED[word]
    if not word[0].isdigit():
        return word
    if THOUSANDS.fullmatch(word):
        word = word.replace(",", "")
    whole, dot, fraction = word.partition(".")
    if dot and fraction.isdigit():
        fraction = fraction.rstrip("0")
        return f"{whole}.{fraction}" if fraction else whole
    return word


def _without_dashes(words: Sequence[str]) -> list[str]:
    """Return the words without signs that are punctuation between two words."""
    if BETWEEN_WORDS.isdisjoint(words):
        return list(words)
    before = _neighbours(words)
    after = reversed(list(_neighbours(words[::-1])))
    return [
        word
        for word, left, right in zip(words, before, after, strict=True)
        if not (word in BETWEEN_WORDS and _is_word(left) and _is_word(right))
    ]


def _neighbours(words: Sequence[str]) -> Iterator[str]:
    """Yield for each word the last one before it that is no sign or bracket; an empty text if there is none."""
    last = ""
    for word in words:
        yield last
        last = word if word[0].isalnum() else last


def _is_word(word: str) -> bool:
    return not word or (word.isalpha() and len(word) > 1)


def _runs(words: Sequence[str]) -> Iterator[Words]:
    """Yield the longest sequences of numbers and signs."""
    run: list[str] = []
    for word in words:
        if word[0].isdigit() or word in SIGNS:
            run.append(word)
        elif run:
            yield tuple(run)
            run = []
    if run:
        yield tuple(run)


def split_options(text: str) -> tuple[list[str], list[str]]:
    """Split a text into its body and its options.

    Options follow each other, each behind a label, from A or 1 on, or each at a bullet at the beginning of a line. The
    last one ends with its line.

    Returns:
        The texts before, between and behind the lists of options, and the texts of all options.
    """
    body, options, end = [], [], 0
    for chain in _chains(text):
        body.append(text[end : chain[0].start()])
        options += [text[one.end() : two.start()] for one, two in pairwise(chain)]
        line = text.find("\n", chain[-1].end())
        end = len(text) if line < 0 else line
        options.append(text[chain[-1].end() : end])
    return [*body, text[end:]], options


def _chains(text: str) -> list[list[re.Match[str]]]:
    """Return the lists of labels that count up from A or 1; without one, the bullets."""
    chains: list[list[re.Match[str]]] = []
    kinds: list[str] = []
    for match in LABEL.finditer(text):
        label = (match[1] or match[2]).lower()
        kind, place = ("number", int(label) - 1) if label.isdecimal() else ("letter", ord(label) - ord("a"))
        if place == 0:
            chains.append([match])
            kinds.append(kind)
        elif chains and place == len(chains[-1]) and kind == kinds[-1]:
            chains[-1].append(match)
    chains = [chain for chain in chains if len(chain) > 1]
    bullets = list(BULLET.finditer(text))
    return chains or ([bullets] if len(bullets) > 1 else [])


def question_and_answer(sample: Sample) -> tuple[str, str]:
    """Return what is before the last answer of a sample, without system texts and tools, and that answer."""
    before, answer = split_last_answer(sample)
    question = "\n".join(content for role, content in before if role not in ("system", "tools") and content)
    return question, "\n".join(content for _, content in answer if content)
