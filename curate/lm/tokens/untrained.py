"""Find the parts of a rendered conversation that the flags of its messages exclude from the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Span = tuple[int, int]

FLAG_KEYS = ("train", "train_detail")
"""Keys of a message that say what of it is trained on; chat templates do not get them."""


def has_flags(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a message, or a part of one, is not trained on."""
    return any(message.get(key) is not None for message in messages for key in FLAG_KEYS)


def is_trained(message: Mapping[str, Any]) -> bool:
    """Return whether the loss may train on a message, or on a part of it."""
    return message.get("train") is not False


def untrained_spans(messages: Sequence[Mapping[str, Any]], spans: Mapping[int, Span], text: str) -> list[Span] | None:
    """Return the spans of a text that the loss does not train on; None if a range cannot be found in it.

    Args:
        messages: messages of the conversation; `train` is false for one that is not trained on, `train_detail` lists
            ranges of its content, whose `end_offset` is their last character.
        spans: (start, end) of answers in the text, by the index of their message.
        text: the rendered conversation.
    """
    found: list[Span] = []
    for turn, (start, end) in spans.items():
        message = messages[turn]
        if not is_trained(message):
            found.append((start, end))
            continue
        if not (details := message.get("train_detail")):
            continue
        content = str(message.get("content") or "")
        shown = content.strip()  # many templates strip
        at = text.rfind(shown, start, end) - (len(content) - len(content.lstrip()))
        if not shown or text.find(shown, start, end) < 0:
            return None
        for detail in details:
            first, last = at + int(detail["begin_offset"]), at + int(detail["end_offset"]) + 1
            found.append((max(first, start), min(last, end)))
    return found
