"""Read the flags of a message, or of a part of it, that say whether the loss trains on it.

Trainers and services name the same flag in many ways. In a sample there are two: `train`, which is false for a message
that is not trained on, and `train_detail`, a list of the ranges of characters that are not (in Axolotl's form:
`end_offset` is the last character of a range). A message whose flags say that all of it is trained on has neither key,
so its id is that of the same message without flags.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..reading import Notes, Unusable, is_missing

Message = dict[str, Any]

FLAGS = ("weight", "train", "loss", "loss_mask", "trainable", "training", "loss_weight", "loss_scale", "train_on_turn")
"""Keys that are true, or 1, if the message is trained on."""
NEGATED = ("masked", "no_loss", "ignore_loss")
"""Keys that are true, or 1, if the message is not trained on."""
DETAIL = "train_detail"
AMBIGUOUS = "mask"
FLAG_KEYS = frozenset((*FLAGS, *NEGATED, DETAIL, AMBIGUOUS))
WORDS = {"true": True, "1": True, "false": False, "0": False}

Range = tuple[int, int]
"""Start and end of characters of a text."""


def flag_of(item: Mapping[str, Any]) -> bool | None:
    """Return what the flags of a message, or of a part of its content, say; None if it has no flag.

    Raises:
        Unusable: the flags contradict each other, or have a value that is neither yes nor no.
    """
    found = {key: _truth(key, item[key]) for key in (*FLAGS, *NEGATED) if not is_missing(item.get(key))}
    if not is_missing(item.get(AMBIGUOUS)):
        raise Unusable("the flag 'mask' of a message says neither train nor omit: rename it to train or masked")
    answers = {value is (key in FLAGS) for key, value in found.items()}
    if len(answers) > 1:
        raise Unusable(f"the flags {' and '.join(found)} of a message contradict each other")
    return answers.pop() if answers else None


def _truth(key: str, value: Any) -> bool:
    if isinstance(value, str):
        value = WORDS.get(value.strip().lower(), value)
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    raise Unusable(f"the flag '{key}' of a message must be 0 or 1: only a row has a weight (column weight)")


def detail_of(item: Mapping[str, Any], length: int) -> list[Range]:
    """Return the ranges of characters that the `train_detail` of a message leaves out; later entries go first.

    Raises:
        Unusable: the details have another form, or lie outside the text of `length` characters.
    """
    details = item.get(DETAIL)
    if is_missing(details):
        return []
    wrong = Unusable("train_detail of a message must list begin_offset, end_offset and train within its text")
    if not isinstance(details, Sequence) or isinstance(details, str):
        raise wrong
    ranges = []
    for detail in details:
        if not isinstance(detail, Mapping):
            raise wrong
        start, last = detail.get("begin_offset"), detail.get("end_offset")
        if not isinstance(start, int) or not isinstance(last, int) or not 0 <= start <= last < length:
            raise wrong
        if not _truth("train", detail.get("train", True)):
            ranges.append((start, last + 1))
    return ranges


def with_flags(message: Message, trained: bool | None, omitted: Iterable[Range], notes: Notes) -> Message:
    """Return a message with its flags in the form of a sample.

    Args:
        message: the message without flags.
        trained: flag of the whole message, or None.
        omitted: ranges of its content that are not trained on.
        notes: receives a note about flags that have no effect.
    """
    ranges = merged(omitted)
    content = message["content"] or ""
    if message["role"] != "assistant":
        if trained:
            notes.lose(f"flags that ask to train on turns of the {message['role']}: only --loss-on all trains on these")
        return message
    if trained is False or (ranges == [(0, len(content))] and not message.get("tool_calls")):
        return message | {"train": False}
    if ranges:
        details = [{"begin_offset": start, "end_offset": end - 1, "train": False} for start, end in ranges]
        return message | {DETAIL: details}
    return message


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Return ranges in order; those that touch or overlap become one, and empty ones go."""
    joined: list[Range] = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
