"""Quote names and values in SQL."""

from __future__ import annotations


def quote(text: str) -> str:
    """Text as a SQL literal."""
    return "'" + text.replace("'", "''") + "'"
