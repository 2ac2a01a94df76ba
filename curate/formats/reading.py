"""Options for reading rows, notes on what readers did in addition to copying texts, and reasons for rejects."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from ..samples import Sample

MOST_NOTES = 200
"""Different notes that are counted, at most: names of keys come from the data, and there may be millions of them."""
MANY = "and further notes of these kinds"


class Row(NamedTuple):
    """One row: `values`, or None and the `reason` why it is rejected. `number` counts lines (JSONL) or rows from 1.

    `types` has the Arrow types of the columns that JSON has no type for (decimals, times), if the file has any. A named
    tuple is made in half the time of a frozen dataclass.
    """

    file: str
    number: int
    values: dict[str, Any] | None
    reason: str = ""
    types: Mapping[str, str] | None = None


class Unusable(Exception):
    """A row that cannot be a sample; the message is the reason, in a few words."""


class Notes:
    """Notes on what readers did with rows in addition to copying their texts, counted, for the end of an ingest.

    Attributes:
        changes: what was written in another way (a number as text), and how often.
        losses: what is neither in a text nor in a mask although it looks as if it should, and how often.
        parts: format -> part -> columns that rows had for it.
        columns: columns that are metadata.
        files: files, splits and folders that were not read, each with the reason.
        preferred: True if rows of preference data became samples.
        weights: column with weights -> how many differ from 1, the lowest and the highest.

    Args:
        strict: True makes a loss the reason to reject its row.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.changes: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.parts: dict[str, dict[str, dict[str, None]]] = {}
        self.columns: dict[str, None] = {}
        self.files: list[str] = []
        self.preferred = False
        self.weights: dict[str, tuple[int, float, float]] = {}
        self._kinds: set[tuple[str, ...]] = set()

    def change(self, text: str) -> None:
        """Count something that was written in another way."""
        self.changes[text if text in self.changes or len(self.changes) < MOST_NOTES else MANY] += 1

    def lose(self, text: str) -> None:
        """Count something that is left out.

        Raises:
            Unusable: losses are errors.
        """
        if self.strict:
            raise Unusable(text)
        self.losses[text if text in self.losses or len(self.losses) < MOST_NOTES else MANY] += 1

    def weigh(self, column: str, weight: float) -> None:
        """Count a weight of a row."""
        count, lowest, highest = self.weights.get(column, (0, weight, weight))
        self.weights[column] = (count + (weight != 1), min(lowest, weight), max(highest, weight))

    def see(self, layout: Any, columns: Iterable[str], metadata: Collection[str]) -> None:
        """Keep which columns of a row that became a sample are parts of the conversation, and which are metadata.

        Args:
            layout: the layout of the row.
            columns: all columns of the row.
            metadata: columns that the user calls metadata. They are not told again.
        """
        kind = (layout.format, *columns)
        if kind in self._kinds:
            return
        if len(self._kinds) < MOST_NOTES:
            self._kinds.add(kind)
        parts = self.parts.setdefault(layout.format, {})
        for part, named in layout.columns.items():
            parts.setdefault(part, {}).update(dict.fromkeys(named))
        others = [name for name in columns if name not in layout.read and name not in metadata]
        if len(self.columns) < MOST_NOTES:
            self.columns |= dict.fromkeys(others)


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading rows.

    Attributes:
        roles: name of a speaker in the data, as `plain` writes it -> role.
        take: which rows of preference and KTO data to read: (`chosen`, ``) or (column, value); None refuses them.
        metadata: columns that are no part of a conversation, under any name.
        weight: column with the weights of rows; None: `weight`, if there is one.
        notes: receives what the readers did.
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    take: tuple[str, str] | None = None
    metadata: frozenset[str] = frozenset()
    weight: str | None = None
    notes: Notes = field(default_factory=Notes)


def plain(name: str) -> str:
    """Return the name of a speaker as it is looked up: without spaces around it, in lower case."""
    return name.strip().lower()


def is_missing(value: Any) -> bool:
    """Return whether a value stands for none: null, or the NaN that pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_text(value: Any, where: str, notes: Notes) -> str | None:
    """Return text, or a number or truth value as its text; None for a value of another type.

    Args:
        value: a value that is not missing.
        where: what the value is, for the note.
        notes: receives a note if the value was no text.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        notes.change(f"true and false in {where} read as text")
        return "true" if value else "false"
    if isinstance(value, (int, Decimal)) or (isinstance(value, float) and math.isfinite(value)):
        notes.change(f"numbers in {where} read as text")
        try:
            return str(value)
        except ValueError:  # an integer of more than 4300 digits
            return None
    return None


def shortened(name: Any, most: int = 40) -> str:
    """Return a name from the data in quotes, in one line, and short enough to be part of a reason."""
    text = str(name)
    text = " ".join((text if len(text) <= most else text[: most - 3] + "...").split())
    return f"'{text.encode('utf-8', 'backslashreplace').decode()}'"


DEEPEST = 64
"""Maximum levels of lists and mappings in a row. All later readers, in Python or SQL, need stack for each level."""
LONGEST = 1 << 28
"""Maximum characters of a row."""


def check_storable(sample: Sample) -> None:
    """Raise `Unusable` for text without UTF-8 (lone surrogates), and for values that not all JSON readers can read."""
    try:
        text = sample.original_json
        text.encode()
        sample.sample_id.encode()
    except UnicodeEncodeError:
        raise Unusable("not valid Unicode") from None
    except RecursionError:
        raise Unusable("nested too deeply") from None
    except (TypeError, ValueError):
        raise Unusable("not JSON") from None
    if len(text) > LONGEST:
        raise Unusable(f"longer than {LONGEST >> 20} MiB")
    if (
        text.count("[") + text.count("{") > DEEPEST
        and _depth([sample.original, sample.messages, sample.tools]) > DEEPEST
    ):
        raise Unusable("nested too deeply")


def _depth(parts: Any) -> int:
    """Return the number of levels below a list of values; counting stops at one more than `DEEPEST`."""
    depth, level = 0, list(parts)
    while level and depth <= DEEPEST:
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                inner += value.values()
            elif isinstance(value, (list, tuple)):
                inner += value
        level = [value for value in inner if isinstance(value, (Mapping, list, tuple))]
        depth += 1
    return depth


def looks_like_content(value: Any) -> bool:
    """Return whether a value holds sentences: four words, or six characters of a script without spaces, somewhere."""
    if isinstance(value, str):
        text = value[:400]
        return (not text.isascii() or len(text.split(None, 3)) > 3) and _has_sentence(text)
    if value is None or isinstance(value, (bool, int, float)):  # most other columns; asking for a Mapping is slow
        return False
    if not isinstance(value, (Mapping, list, tuple)):
        return False
    left, looked = [value], 0
    while left and looked < 50:
        inner, looked = left.pop(), looked + 1
        if isinstance(inner, str):
            if _has_sentence(inner[:400]):
                return True
        elif isinstance(inner, Mapping):
            left += list(inner.values())[:50]
        elif isinstance(inner, (list, tuple)):
            left += inner[:50]
    return False


def _has_sentence(text: str) -> bool:
    words = [word for word in text.split(None, 12)[:12] if any(character.isalpha() for character in word[:20])]
    if len(words) >= 4 or text.isascii():
        return len(words) >= 4
    dense = sum(1 for character in text if "\u3040" <= character <= "\ud7a3" or "\u0e00" <= character <= "\u0eff")
    return dense >= 6
