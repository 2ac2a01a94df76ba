"""Grade one row of a pool: its columns of the table `features`, and what is wrong with it.

Each flag has a severity, by which the worst examples are chosen, and a place in the answer that shows it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from .copies import Copies
from .signals import language, measures, personal, rules
from .signals.endings import unfinished
from .signals.vocabulary import Vocabulary
from .texts import Row

COLUMNS = pa.schema(
    [
        ("sample_id", pa.string()),
        *((name, pa.int32()) for name in ("answer_words", "prompt_words")),
        *((name, pa.float64()) for name in ("length_ratio", "repetition", "compression")),
        *(("prompt_language", pa.string()), ("prompt_language_score", pa.float64())),
        *(("answer_language", pa.string()), ("answer_language_score", pa.float64())),
        *((name, pa.bool_()) for name in ("refusal", "placeholder", "unfinished", "in_prompt")),
        *((name, pa.float64()) for name in ("rare_words", "prompt_overlap")),
        *((name, pa.int32()) for name in ("copies", "other_answers", "pii")),
        *(("pii_kinds", pa.string()), ("neighbour_agreement", pa.float64())),
        *(("flags", pa.string()), ("bad", pa.int32())),
        ("scores", pa.map_(pa.string(), pa.float64())),
    ]
)
"""Columns of the records; tables.sql says what they hold. A column of a group that is not measured is null."""

FLAGS = {
    "empty": "the last answer has nothing to be seen",
    "echo": "the answer is the prompt again",
    "refusal": "the answer refuses",
    "placeholder": "[Your Name], N/A and the like, never filled in",
    "unfinished": "the answer ends without an end",
    "garbled": "the answer has many words that no other text has",
    "repeating": "the answer says the same again and again",
    "language": "the answer is of another language than the prompt",
    "copy": "a sample before it has the same text",
    "contradiction": "the same prompt has another answer",
    "pii": "personal data, or a secret",
}
"""Flag -> what it says, in the order of the column `flags`."""

SNIPPET = 160
"""Characters of an example that are kept."""
ENDING = 50
"""Characters of the end of an answer that an example shows."""
Grades = dict[str, Any]


@dataclass
class Grader:
    """The means to grade the rows of a pool.

    Attributes:
        groups: groups of columns that are measured; see `GradeConfig`.
        vocabulary: words of the pool.
        copies: what its rows have in common.
    """

    groups: Collection[str]
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    copies: Copies = field(default_factory=Copies)

    def __post_init__(self) -> None:
        self.languages = language.Languages() if "language" in self.groups else None

    def learn(self, row: Row) -> None:
        """Read a row of the pool, before any is graded."""
        if "rules" in self.groups:
            self.vocabulary.add((row.prompt, row.answer))
        if "copies" in self.groups:
            self.copies.add(row)

    def grade(self, row: Row) -> tuple[Grades, dict[str, float]]:
        """Return the columns of a row that are measured, and flag -> severity."""
        grades: Grades = {"sample_id": row.sample_id}
        flags: dict[str, float] = {}
        words, prompt_words = measures.words_of(row.answer), measures.words_of(row.prompt)
        if "lengths" in self.groups:
            self._lengths(row, len(prompt_words), words, grades, flags)
        if "rules" in self.groups:
            self._rules(row, prompt_words, words, grades, flags)
        if self.languages is not None:
            self._language(row, self.languages, grades, flags)
        if "copies" in self.groups:
            grades |= {"copies": self.copies.copies(row), "other_answers": self.copies.other_answers(row)}
            if self.copies.is_later(row):
                flags["copy"] = grades["copies"]
            if grades["other_answers"]:
                flags["contradiction"] = grades["other_answers"]
        if "pii" in self.groups:
            found = [each.kind for text in (row.prompt, row.answer) for each in personal.findings(text)]
            grades |= {"pii": len(found), "pii_kinds": ",".join(dict.fromkeys(found))}
            if found:
                flags["pii"] = len(found) + 100 * ("secret" in found)
        flags = {name: float(flags[name]) for name in FLAGS if name in flags}
        return grades | {"flags": ",".join(flags), "bad": len(flags)}, flags

    def _lengths(self, row: Row, prompt_words: int, words: list[str], grades: Grades, flags: dict[str, float]) -> None:
        share, size = measures.repetition(words), measures.compression(row.answer)
        grades |= {"answer_words": len(words), "prompt_words": prompt_words, "repetition": share, "compression": size}
        grades["length_ratio"] = measures.length_ratio(len(words), prompt_words)
        if measures.repeats(share, size) and share is not None:
            flags["repeating"] = share

    def _rules(
        self, row: Row, prompt_words: list[str], words: list[str], grades: Grades, flags: dict[str, float]
    ) -> None:
        prompt, answer = (part.text for part in row.parts)
        grades |= {
            "refusal": rules.found(row.answer, rules.REFUSALS) is not None,
            "placeholder": rules.found(row.answer, rules.PLACEHOLDERS) is not None,
            "unfinished": unfinished(row.answer, self.vocabulary),
            "in_prompt": answer in prompt if answer and prompt else None,
            "rare_words": self.vocabulary.rare_words(words),
            "prompt_overlap": None if row.sample.is_text else self.vocabulary.overlap(prompt_words, words),
        }
        if self.vocabulary.is_garbled(grades["rare_words"]):
            flags["garbled"] = grades["rare_words"]
        for name in ("refusal", "placeholder", "unfinished"):
            if grades[name]:
                flags[name] = len(words)
        if not row.calls and not any(unicodedata.category(each)[0] not in "CZ" for each in row.answer):
            flags["empty"] = len(row.prompt)
        if answer and answer in (prompt, " ".join(row.question.casefold().split())):
            flags["echo"] = len(words)

    def _language(self, row: Row, languages: language.Languages, grades: Grades, flags: dict[str, float]) -> None:
        prompt, answer = languages.of(row.question or row.prompt), languages.of(row.answer)
        grades |= {"prompt_language": prompt[0], "prompt_language_score": prompt[1]}
        grades |= {"answer_language": answer[0], "answer_language_score": answer[1]}
        if language.is_other(row.prompt, row.answer, prompt, answer):
            flags["language"] = min(prompt[1] or 0, answer[1] or 0)


def snippet(row: Row, flag: str) -> str:
    """Return the part of a row that shows a flag, with values of persons masked; at most 160 characters."""
    text = row.answer
    if flag == "pii":
        found = personal.findings(row.answer)
        text, place = (row.answer, found[0].start) if found else (row.prompt, personal.findings(row.prompt)[0].start)
        start = max(0, place - 20)
    elif flag in ("refusal", "placeholder"):
        span = rules.found(text, rules.REFUSALS if flag == "refusal" else rules.PLACEHOLDERS)
        start = max(0, span[0] - 20) if span else 0
    elif flag == "unfinished":
        start = max(0, len(text.rstrip()) - ENDING)
    else:
        text, start = (row.prompt, 0) if flag == "empty" else (text, 0)
    return _cut(text, start)


def _cut(text: str, start: int) -> str:
    """Return 160 characters from `start` on with values masked, which are searched for in the whole text."""
    found = [each for each in personal.findings(text) if each.stop > start and each.start < start + SNIPPET]
    parts, at = [], start
    for each in found:
        parts += [text[at : each.start], f"{text[max(at, each.start)]}***"]
        at = each.stop
    return ("…" * (start > 0) + "".join(parts) + text[at:])[:SNIPPET]
