"""Read the weight of a row in the loss: a number from 0, where 2 means the same as the row twice."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from .detect import Layout
from .reading import ReadOptions, Unusable, shortened

WEIGHT = "weight"
"""Column that has the weight, if the user names no other."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def weight_column(row: Mapping[str, Any], layout: Layout, reading: ReadOptions) -> str | None:
    """Return the column with the weight of a row, or None if it has none.

    Raises:
        Unusable: the column that the user gave is a part of the conversation.
    """
    column = reading.weight or WEIGHT
    if column not in row or (reading.weight is None and column in reading.metadata):
        return None
    if column not in layout.read:
        return column
    if reading.weight is None:
        return None
    raise Unusable(f"the column {shortened(column)} is a part of the conversation, so it cannot be its weight")


def weight_of(row: Mapping[str, Any], column: str, reading: ReadOptions) -> float:
    """Return the weight of a row; 1 for a null or an empty field.

    Raises:
        Unusable: it is no finite number from 0.
    """
    value = row[column]
    if isinstance(value, str):
        if not value.strip():
            value = None
        elif NUMBER.fullmatch(value.strip()):
            reading.notes.change(f"numbers in the column {shortened(column)} read from text")
            value = float(value)
    weight = 1.0 if value is None else _number(value, column)
    reading.notes.weigh(column, weight)
    return weight


def _number(value: Any, column: str) -> float:
    if not isinstance(value, (int, float, Decimal)) or isinstance(value, bool):
        raise _wrong(column, "text" if isinstance(value, str) else f"of the type {type(value).__name__}")
    try:
        weight = float(value)
    except OverflowError:  # an integer of more than 308 digits
        weight = math.inf
    if not math.isfinite(weight):
        raise _wrong(column, "NaN" if math.isnan(weight) else "infinite")
    if weight < 0:
        raise _wrong(column, "negative")
    return weight


def _wrong(column: str, what: str) -> Unusable:
    return Unusable(
        f"the weight in column {shortened(column)} must be a finite number from 0, and is {what}: fix it, or give "
        f"--metadata-columns {column} to read rows without weights"
    )
