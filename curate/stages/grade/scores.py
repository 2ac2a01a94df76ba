"""Read a user's file of scores: numbers by sample id, each column of which becomes a column of the features."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...formats.locations import File, printable
from ...formats.read import read_file
from ...runtime.terminal import cell
from ...store.catalog.scores import MOST, SCORE_NAME, taken_names

ID = "sample_id"


@dataclass(frozen=True)
class Scores:
    """The numbers of a file.

    Attributes:
        names: names of the columns, in order.
        values: sample id -> its number in each column, None where it has none.
    """

    names: tuple[str, ...] = ()
    values: dict[str, dict[str, float | None]] | None = None

    def of(self, sample_id: str) -> list[tuple[str, float]] | None:
        """Return the numbers of a sample by name; None if it has none."""
        found = (self.values or {}).get(sample_id, {})
        return [(name, value) for name, value in found.items() if value is not None] or None


def read_scores(path: Path, ids: Collection[str]) -> Scores:
    """Return the scores of a file.

    Args:
        path: a Parquet, CSV or JSONL file with the column sample_id and columns of numbers.
        ids: sample ids of the pool.

    Raises:
        DataError: the file cannot be read, or a name, an id or a value cannot be used; file and row are named.
    """
    name = printable(path)
    if path.is_dir():
        raise DataError(f"{name} is a folder: --scores takes one file.")
    names: dict[str, None] = {}
    values: dict[str, dict[str, float | None]] = {}
    for number, row in _rows(path, name):
        where = f"{name}, row {number},"
        for key in row:
            if key != ID and key not in names and _is_free(key, names, where):
                names[key] = None
        sample_id = _id(row.get(ID), values, ids, where)
        values[sample_id] = {key: _number(value, key, where) for key, value in row.items() if key != ID}
    if not values:
        raise DataError(f"{name} has no row: there is no score to join.")
    empty = [key for key in names if all(row.get(key) is None for row in values.values())]
    if empty or not names:
        what = f"no number in the column {empty[0]}" if empty else "no column besides sample_id"
        raise DataError(f"{name} has {what}: there is nothing to join.")
    return Scores(tuple(names), values)


def _rows(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for row in read_file(File(path.name, str(path))):
        if row.values is None:
            raise DataError(f"{name}, row {row.number}, cannot be read: {row.reason}.")
        yield row.number, dict(row.values)


def _is_free(key: str, names: Collection[str], where: str) -> bool:
    """Return True; raise `DataError` if a name cannot be the name of a column."""
    if key.lower() in taken_names():
        raise DataError(f"{where} has a column {cell(key)}, a name that the table features has already: rename it.")
    if key.lower() in {other.lower() for other in names}:
        raise DataError(f"{where} has a column {cell(key)}, whose name differs from another only in case: rename it.")
    if not SCORE_NAME.fullmatch(key):
        raise DataError(
            f"{where} has a column {cell(key)[:80]}: a name has up to 60 letters from a to z, digits and '_', and "
            "begins with no digit. Rename it."
        )
    if len(names) >= MOST:
        raise DataError(f"{where} has more than {MOST} columns of scores: leave some out.")
    return True


def _id(value: Any, seen: Collection[str], ids: Collection[str], where: str) -> str:
    if not isinstance(value, str) or not value:
        raise DataError(f"{where} has no sample_id that is text: give each row the id of a sample.")
    if value in seen:
        raise DataError(f"{where} has the sample_id {cell(value)} again: give each sample one row.")
    if value not in ids:
        raise DataError(f"{where} has the sample_id {cell(value)}, which the pool does not have: leave the row out.")
    return value


def _number(value: Any, key: str, where: str) -> float | None:
    """Return a value as a number; an empty one is None. CSV has all values as text."""
    if value is None or value == "":
        return None
    try:
        number = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None:
        raise DataError(
            f"{where} has a {key} that is no number: {cell(value)[:80]}. Leave the column out, or correct it."
        )
    if not math.isfinite(number):
        raise DataError(f"{where} has a {key} that is not finite ({number}): leave it empty.")
    return number
