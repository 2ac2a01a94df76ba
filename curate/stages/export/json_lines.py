"""Find what `datasets` would misread in rows of JSON Lines.

`load_dataset` reads JSON Lines in blocks of 10 MiB. The first block fixes the columns, keys and types: a later row with
a new key, or with a value of another type, stops it. A column whose texts are all ISO dates becomes a column of time
stamps. Parquet and `save_to_disk` store the types, so they are not concerned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Row = dict[str, Any]

BLOCK = 10 << 20
"""Bytes of a block."""
DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:?\d\d(:?\d\d(\.\d+)?)?)?(Z|[+-]\d\d(:?\d\d)?)?)?")
"""Texts that Arrow reads as dates or time stamps, and a few more."""


class WatchedRows:
    """Batches of rows that can be iterated several times; each iteration finds what `datasets` would misread.

    Attributes:
        dates: columns and keys whose texts are all dates.
        late: columns and keys that first appear after the first block, or have another type there.
        nested: True if messages hold mappings or lists of their own, such as tool calls.

    Args:
        rows: batches of rows.
        block: bytes of a block.
    """

    def __init__(self, rows: Iterable[Sequence[Row]], block: int = BLOCK) -> None:
        self.rows, self.block = rows, block
        self.dates: list[str] = []
        self.late: list[str] = []
        self.nested = False

    def __iter__(self) -> Iterator[Sequence[Row]]:
        size, first_at, dates = 0, dict[tuple[str, str], int](), dict[str, bool]()
        for batch in self.rows:
            for row in batch:
                for path, value in _values(row, ""):
                    first_at.setdefault((path, type(value).__name__), size)
                    if isinstance(value, str) and size < self.block and dates.get(path, True):
                        dates[path] = DATE.fullmatch(value) is not None
                if size < self.block:
                    size += len(json.dumps(row, ensure_ascii=False, default=str).encode()) + 1
            yield batch
        self.dates = [path for path, are_dates in dates.items() if are_dates]
        self.late = _outermost(path for (path, _), position in first_at.items() if position >= self.block)
        self.nested = any("[]." in path and kind in ("dict", "list") for path, kind in first_at)


def _values(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of everything inside a value, except nulls: `messages[].content`."""
    items: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        items = ((f"{path}.{key}" if path else str(key), item) for key, item in value.items())
    elif isinstance(value, list):
        items = ((f"{path}[]", item) for item in value)
    for inner, item in items:
        if item is not None:
            yield inner, item
            yield from _values(item, inner)


def _outermost(paths: Iterable[str]) -> list[str]:
    """Return the paths that are not inside another one of them."""
    found = list(dict.fromkeys(paths))
    return [path for path in found if not any(path.startswith((f"{other}.", f"{other}[")) for other in found)]
