"""Quote values in SQL."""

from __future__ import annotations


def quote(text: str) -> str:
    """Return text as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
