"""Change rows to the form in which a trainer reads flags, weights and prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Row = dict[str, Any]


class AdaptedRows:
    """Batches of rows in the form that a trainer reads; they can be iterated several times.

    Args:
        rows: batches of rows.
        adapt: the change of one row.
    """

    def __init__(self, rows: Iterable[Sequence[Row]], adapt: Callable[[Row], Row]) -> None:
        self.rows, self.adapt = rows, adapt

    def __iter__(self) -> Iterator[list[Row]]:
        return ([self.adapt(row) for row in batch] for batch in self.rows)


def with_turns(row: Row) -> Row:
    """Return a row of prompt and completion as two lists of messages: TRL renders strings without a chat template."""
    if not isinstance(row["prompt"], str):
        return row
    prompt, completion = ({"role": role, "content": row[column]} for role, column in ROLES.items())
    return row | {"prompt": [prompt], "completion": [completion]}


ROLES: Mapping[str, str] = {"user": "prompt", "assistant": "completion"}


def with_loss(row: Row) -> Row:
    """Return a row of messages with ms-swift's keys: `loss` for the flag `train`, `loss_scale` for `weight`."""
    weight = row.get("weight")
    messages = []
    for message in row["messages"]:
        changed = {key: value for key, value in message.items() if key != "train"}
        if message["role"] == "assistant":
            flag = changed.get("loss", message.get("train"))
            changed |= {"loss": flag} if flag is not None else {}
            if isinstance(weight, (int, float)) and not isinstance(weight, bool):
                changed["loss_scale"] = float(weight)
        messages.append(changed)
    return row | {"messages": messages}


ADAPTATIONS: Mapping[tuple[str, str], Callable[[Row], Row]] = {
    ("trl", "prompt-completion"): with_turns,
    ("ms-swift", "messages"): with_loss,
}
"""Trainer and format of rows -> the change that its rows need."""
