"""Check answers: the rules by which an answer counts as correct.

The rules are few, and all of them are in this module: an accuracy means nothing without them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

NUMBER = re.compile(r"(?:(?<![\w.)])[-−])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
"""Pattern of a decimal number, with or without commas between thousands. A minus is part of the number unless a word,
a number or a closing bracket is directly before it: the last number of `10-5` is 5."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class NotScorable(Exception):
    """A sample whose answer cannot be checked; the message is the reason in a few words."""


def normalised(text: str) -> str:
    """Return text without surrounding white space, with single spaces inside, and case-folded."""
    return " ".join(text.split()).casefold()


def last_number(text: str) -> Decimal | None:
    """Return the last number of a text, or None: 1234 for `= 1,234.00.`, 5 for `$5`, 4 for `3/4`."""
    found = NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "").replace("−", "-")) if found else None


def exact_match(prediction: str, reference: str) -> bool:
    """Return whether the whole answer equals the reference, ignoring differences in white space and case."""
    return normalised(prediction) == normalised(reference)


def same_last_number(prediction: str, reference: str) -> bool:
    """Return whether the last number of the answer equals that of the reference, as numbers: 1,234.00 equals 1234.

    Raises:
        NotScorable: the reference has no number.
    """
    expected = last_number(reference)
    if expected is None:
        raise NotScorable("no number in the reference answer")
    return last_number(prediction) == expected


RULES: Mapping[str, Callable[[str, str], bool]] = {"exact_match": exact_match, "last_number": same_last_number}
"""Metric -> function of a generated answer and the reference that returns whether the answer is correct."""


@dataclass(frozen=True)
class Choices:
    """The possible answers to a multiple-choice question.

    Attributes:
        answers: texts that the assistant may answer with.
        right: index of the correct one, from 0.
    """

    answers: tuple[str, ...]
    right: int

    @classmethod
    def of(cls, row: Mapping[str, Any], assistant_text: str, *, choices: str, answer: str) -> Choices:
        """Read the choices of a row.

        The possible answers have the form that the row's own assistant uses: the texts of the choices if its answer is
        the text of the correct choice, and letters if its answer is a letter.

        Args:
            row: the row as it was ingested, column -> value.
            assistant_text: the last message of the row's assistant.
            choices: name of the column of the choices: a list, or JSON of a list.
            answer: name of the column of the correct choice: its letter, its index from 0, or its text.

        Raises:
            NotScorable: a column does not have that form, or the assistant's answer is not the correct choice.
        """
        texts = _texts(row.get(choices), choices)
        right = _index(row.get(answer), texts, answer)
        letters = tuple(LETTERS[: len(texts)])
        for answers in (texts, letters):
            if normalised(assistant_text) == normalised(answers[right]):
                return cls(answers, right)
        raise NotScorable("the assistant says neither the right choice nor its letter")


def _texts(value: Any, column: str) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise NotScorable(f"no list in column {column}") from None
    if isinstance(value, Mapping):  # {"text": [...], "label": [...]}: the form of some data sets
        value = value.get("text")
    if not isinstance(value, (list, tuple)) or not 2 <= len(value) <= len(LETTERS):
        raise NotScorable(f"no list of 2 to {len(LETTERS)} choices in column {column}")
    return tuple(str(text) for text in value)


def _index(value: Any, texts: tuple[str, ...], column: str) -> int:
    if isinstance(value, str):
        letter = value.strip().upper()
        if len(letter) == 1 and letter in LETTERS[: len(texts)]:
            return LETTERS.index(letter)
        if value in texts:
            return texts.index(value)
        value = int(value) if value.strip().isdecimal() else None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(texts):
        return value
    raise NotScorable(f"no letter, number or text of a choice in column {column}")
