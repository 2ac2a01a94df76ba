"""Find the answer of a row, and recognise preference and KTO data, whose answers are not all meant to be imitated.

Such rows are refused unless the user says which of them to train on: `--take chosen` reads the preferred answer of each
row, `--take label=true` the answers with this label. The prompt of a preferred answer is never trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..samples import to_json
from .detect import Layout
from .parts.calls import calling, from_json
from .parts.flags import Message
from .reading import ReadOptions, Unusable, is_missing, shortened
from .turns import ROLE_KEYS, turn

CHOSEN = ("chosen", "")
"""`ReadOptions.take` of `--take chosen`."""
PREFERENCE = "preference data (a chosen and a rejected answer): --take chosen trains on the chosen one"
LABELLED = "KTO data (label says whether the answer is good): --take label=true trains on the good ones"
NUMBERED = "; --metadata-columns label, if it says something else"
WORDS = (frozenset({"true"}), frozenset({"false"}))
NUMBERS = (frozenset({"1", "1.0"}), frozenset({"0", "0.0"}))
"""Texts of the labels of good and of bad answers, as words and as numbers."""


def parse_take(text: str) -> tuple[str, str]:
    """Return the value of `--take`: `chosen`, or column and value of `COLUMN=VALUE`.

    Raises:
        ValueError: the text has another form.
    """
    column, equals, value = (part.strip() for part in text.partition("="))
    if column == "chosen" and not equals:
        return CHOSEN
    if not column or not equals or not value:
        raise ValueError(f"take is chosen, or COLUMN=VALUE such as label=true, not '{text}'")
    return column, value


def check_label(row: Mapping[str, Any], layout: Layout, reading: ReadOptions) -> None:
    """Check the label of a row, and the value that `--take COLUMN=VALUE` asks for.

    Args:
        row: the row.
        layout: its layout, with the column of a KTO label, if it has one.
        reading: how rows are read.

    Raises:
        Unusable: the row is KTO data and the user did not say which to read, or has another value.
    """
    label = layout.label
    if reading.take not in (None, CHOSEN):
        assert reading.take is not None
        column, value = reading.take
        if not is_missing(row.get(column)) and not _same(_label(row[column]), value.lower()):
            raise Unusable(f"not taken: {column} is not {value}")
        if column == label:
            return
    if label is None:
        return
    text = _label(row.get(label))
    reason = LABELLED if any(text in words for words in WORDS) else ""
    if not reason and layout.judged and any(text in numbers for numbers in NUMBERS):
        reason = LABELLED + NUMBERED
    if reason:
        raise Unusable(reason.replace("label", shortened(label)[1:-1]))


def _label(value: Any) -> str:
    return str(value).strip().lower()


def _same(found: str, asked: str) -> bool:
    """Return whether a label is the one that is asked for; 1 is true, and 0 is false."""
    return found == asked or any(
        {found, asked} <= words | numbers for words, numbers in zip(WORDS, NUMBERS, strict=True)
    )


def is_number_label(value: Any) -> bool:
    """Return whether a label is 0 or 1, as a number or as its text."""
    return any(_label(value) in numbers for numbers in NUMBERS)


def numbers_judge(labelled: Iterable[tuple[Any, Any, Any]]) -> bool:
    """Return whether labels of 0 and 1 say which answers are good, as in KTO data, and do not repeat the answer.

    They do if no other label occurs, and if either answers with one label differ or one question has both labels. A
    label that says which class the answer names has one answer each.

    Args:
        labelled: label, question and answer of each row.
    """
    answers: dict[str, set[str]] = {}
    labels: dict[str, set[str]] = {}
    for label, question, answer in labelled:
        if not is_number_label(label):
            return False
        name = _label(label)[0]
        answers.setdefault(name, set()).add(to_json(answer))
        labels.setdefault(to_json(question), set()).add(name)
    if len(answers) < 2:
        return False
    return any(len(texts) > 1 for texts in answers.values()) or any(len(names) > 1 for names in labels.values())


def only_answer(value: Any, column: str, *, tools: bool) -> Any:
    """Return the answer in a column: the one of a list, or calls of tools that are written as JSON text.

    Args:
        value: value of the column.
        column: name of the column, for reasons.
        tools: the row has definitions of tools.

    Raises:
        Unusable: the column holds no answer, or several that differ.
    """
    if isinstance(value, str):
        return calling(from_json(value)) if tools and value.lstrip().startswith('[{"name"') else value
    if isinstance(value, Mapping) and set(ROLE_KEYS).isdisjoint(value):
        if not isinstance(value.get("text"), list):
            raise Unusable(f"wrong type in column {shortened(column)[1:-1]}")
        value = value["text"]  # as in SQuAD, with the places of the answers
    if not isinstance(value, list):
        return value
    if any(isinstance(item, Mapping) and not set(ROLE_KEYS).isdisjoint(item) for item in value):
        return value
    distinct = list({to_json(item): item for item in value}.values())
    if len(distinct) != 1:
        number = f"{len(distinct)} different answers" if distinct else "no answer"
        raise Unusable(f"{number} in column {shortened(column)[1:-1]}: write one")
    return distinct[0]


TRANSCRIPT = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):(?: |(?=\n|\Z))")
"""Beginning of a turn in the texts of Anthropic's helpful and harmless data."""


def transcript(text: Any) -> list[Message] | None:
    """Return the turns of a text that is a dialogue of Human and Assistant; None if it is another text."""
    if not isinstance(text, str):
        return None
    marks = list(TRANSCRIPT.finditer(text))
    if not marks or marks[0].start() or marks[0][1] != "Human":
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    roles = {"Human": "user", "Assistant": "assistant"}
    made = [turn(roles[mark[1]], text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)]
    return made[:-1] if not made[-1]["content"].strip() and len(made) > 1 else made


def preferred(prompt: list[Message], chosen: list[Message], rejected: list[Message]) -> list[Message]:
    """Return the conversation that ends with the chosen answer; of its assistant turns, only the answer is trained on.

    Args:
        prompt: turns of the prompt; empty if `chosen` and `rejected` begin with it.
        chosen: turns of the chosen answer, or of the whole conversation with it.
        rejected: the same of the rejected answer.

    Raises:
        Unusable: the chosen answer does not continue the prompt.
    """
    spoken = [message for message in prompt if message["role"] != "system"]
    whole = [message for message in chosen if message["role"] != "system"]
    if spoken and whole[: len(spoken)] == spoken:
        start = next(n for n, message in enumerate(chosen) if message["role"] != "system") + len(spoken)
        prompt, chosen = (prompt if len(prompt) > len(spoken) else chosen[:start]), chosen[start:]
    elif not prompt:
        same = 0
        while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
            same += 1
        if not rejected:
            same = max(0, len(chosen) - 1)
        prompt, chosen = chosen[:same], chosen[same:]
    if not chosen or (prompt and chosen[0]["role"] == "user" and prompt[-1]["role"] == "user"):
        raise Unusable("the chosen answer does not continue the prompt")
    return [*untrained(prompt), *chosen]


def untrained(prompt: list[Message]) -> list[Message]:
    """Return the turns of a prompt; those of the assistant are not trained on."""
    return [
        without_detail(message) | {"train": False} if message["role"] == "assistant" else message for message in prompt
    ]


def without_detail(message: Message) -> Message:
    """Return a message without the ranges of characters that are not trained on."""
    return {key: value for key, value in message.items() if key != "train_detail"}
