"""Write values that JSON has no type for (bytes, decimals, dates and times) as JSON, and read them back.

Such a value becomes an object with its type under the key `TAG`, and its text under `value`. `readable` writes the text
alone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from importlib import import_module
from typing import Any

TAG = "$curate.type"
"""Key of the type of a value."""


def readable(value: Any) -> str:
    """Return a value as text: bytes in base64, everything else as its `str`."""
    return base64.b64encode(value).decode() if isinstance(value, (bytes, bytearray)) else str(value)


def typed(value: Any) -> Any:
    """Return a value as an object with its type; its `str` if the type is unknown."""
    if isinstance(value, (bytes, bytearray)):
        return {TAG: "bytes", "value": readable(value)}
    if isinstance(value, timedelta):  # the Timedelta of pandas, too
        microseconds = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
        return {TAG: "duration", "value": str(microseconds)}
    if isinstance(value, datetime) and getattr(value, "nanosecond", False):
        return {TAG: "nanoseconds", "value": str(value)}
    if isinstance(value, Decimal):
        return {TAG: "decimal", "value": str(value)}
    if isinstance(value, (date, time)):  # a datetime is a date
        name = "time" if isinstance(value, time) else "datetime" if isinstance(value, datetime) else "date"
        return {TAG: name, "value": value.isoformat()}
    return str(value)


def _nanoseconds(text: str) -> Any:
    return import_module("pandas").Timestamp(text)


DECODERS: dict[str, Callable[[str], Any]] = {
    "bytes": lambda text: base64.b64decode(text, validate=True),
    "decimal": Decimal,
    "datetime": datetime.fromisoformat,
    "nanoseconds": _nanoseconds,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "duration": lambda text: timedelta(microseconds=int(text)),
}


def _decoded(found: dict[str, Any]) -> Any:
    kind, text = found.get(TAG), found.get("value")
    if len(found) != 2 or not isinstance(kind, str) or not isinstance(text, str) or kind not in DECODERS:
        return found
    try:
        return DECODERS[kind](text)
    except (ValueError, ArithmeticError):
        return found


def loads(text: str) -> Any:
    """Return the value of JSON text, with the values that `typed` wrote in their own types."""
    return json.loads(text, object_hook=_decoded if TAG in text else None)
