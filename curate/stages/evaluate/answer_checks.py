"""When an answer counts as right. The rules are few and stand here, for an accuracy means nothing without them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

NUMBER = re.compile(r"(?:(?<![\w.)])[-−])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
"""A decimal number, with or without commas between thousands. A minus belongs to it unless it stands behind a word, a
number or a bracket: the last number of `10-5` is 5."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class NotScorable(Exception):
    """Why a sample has no answer to mark, in a few words."""


def normalised(text: str) -> str:
    """Text without surrounding white space, with single spaces inside, and with case folded."""
    return " ".join(text.split()).casefold()


def last_number(text: str) -> Decimal | None:
    """The last number of a text, or None: 1234 for `= 1,234.00.`, 5 for `$5`, 4 for `3/4`."""
    found = NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "").replace("−", "-")) if found else None


def exact_match(prediction: str, reference: str) -> bool:
    """The whole answer is the reference, up to white space and case."""
    return normalised(prediction) == normalised(reference)


def same_last_number(prediction: str, reference: str) -> bool:
    """The last number of the answer equals that of the reference, as a number: 1,234.00 is 1234."""
    wanted = last_number(reference)
    if wanted is None:
        raise NotScorable("no number in the reference answer")
    return last_number(prediction) == wanted


RULES: Mapping[str, Callable[[str, str], bool]] = {"exact_match": exact_match, "last_number": same_last_number}
"""Metric -> whether a generated answer is right, given the reference."""


@dataclass(frozen=True)
class Choices:
    """What a question may be answered with.

    Attributes:
        answers: what the assistant might say.
        right: the number of the right one, from 0.
    """

    answers: tuple[str, ...]
    right: int

    @classmethod
    def of(cls, row: Mapping[str, Any], said: str, *, choices: str, answer: str) -> Choices:
        """The choices of a row.

        They are answered with as the row's own assistant answers: where it says the text of the right choice, with the
        choices' texts; where it says the letter, with letters.

        Args:
            row: as it was read.
            said: what the assistant says in it.
            choices: the column of the choices, a list or JSON of one.
            answer: the column of the right one: its letter, its number from 0, or its text.
        """
        texts = _texts(row.get(choices), choices)
        right = _place(row.get(answer), texts, answer)
        letters = tuple(LETTERS[: len(texts)])
        for answers in (texts, letters):
            if normalised(said) == normalised(answers[right]):
                return cls(answers, right)
        raise NotScorable("the assistant says neither the right choice nor its letter")


def _texts(value: Any, column: str) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise NotScorable(f"no list in column {column}") from None
    if isinstance(value, Mapping):  # {"text": [...], "label": [...]}, as some data sets have it
        value = value.get("text")
    if not isinstance(value, (list, tuple)) or not 2 <= len(value) <= len(LETTERS):
        raise NotScorable(f"no list of 2 to {len(LETTERS)} choices in column {column}")
    return tuple(str(text) for text in value)


def _place(value: Any, texts: tuple[str, ...], column: str) -> int:
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
