"""Recognise preference and KTO data, whose answers are not all meant to be imitated.

Such rows are refused unless the user says which of them to train on: `--take chosen` reads the preferred answer of each
row, `--take label=true` the answers with this label. The prompt of a preferred answer is never trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .flags import Message
from .reading import ReadOptions, Unusable, is_missing

CHOSEN = ("chosen", "")
"""`ReadOptions.take` of `--take chosen`."""
PREFERENCE = "preference data (a chosen and a rejected answer): --take chosen trains on the chosen one"
LABELLED = "KTO data (label says whether the answer is good): --take label=true trains on the good ones"
TRUTHS = ("true", "false")


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


def check_label(row: Mapping[str, Any], label: str | None, reading: ReadOptions) -> None:
    """Check the label of a row, and the value that `--take COLUMN=VALUE` asks for.

    Args:
        row: the row.
        label: its column with a KTO label, if it has one.
        reading: how rows are read.

    Raises:
        Unusable: the row is KTO data and the user did not say which to read, or has another value.
    """
    if reading.take not in (None, CHOSEN):
        assert reading.take is not None
        column, value = reading.take
        if not is_missing(row.get(column)) and _label(row[column]) != value.lower():
            raise Unusable(f"not taken: {column} is not {value}")
        if column == label:
            return
    if label is not None and _label(row.get(label)) in TRUTHS:
        raise Unusable(LABELLED if label == "label" else LABELLED.replace("label", label))


def _label(value: Any) -> str:
    return str(value).strip().lower()


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
