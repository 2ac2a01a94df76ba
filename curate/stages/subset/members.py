"""Read the members of a subset from a query, from a file of ids, or from other subsets, and check them.

Members are a table with the columns of `MEMBERS`, one row per sample, in order. The weight is null in all rows or in
none. What cannot be used is an error; no row is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import DataError
from ...formats.locations import File, printable
from ...formats.read import READERS, read_file
from ...log import LOGGER
from ...runtime.terminal import cell
from ...store import Artifact, Store
from ...store.rows.out_of_core import first_of_each
from ..subsets import records_of, subset_of

MEMBERS = pa.schema({"sample_id": pa.string(), "score": pa.float64(), "weight": pa.float64()})


def from_rows(rows: pa.Table, origin: str) -> pa.Table:
    """Return the members that rows of a query or file name.

    Args:
        rows: columns sample_id, and maybe score and weight; other columns are named in the log and not read.
        origin: subject of the sentences in errors, such as `The query`.

    Raises:
        DataError: there is no column sample_id or no row; an id is missing or repeated; a weight cannot be used.
    """
    names = rows.column_names
    if names.count("sample_id") != 1:
        raise DataError(
            f"{origin} must have one column sample_id, but the columns are {', '.join(map(cell, names))}: name the "
            "column of the ids sample_id."
        )
    if twice := [name for name in ("score", "weight") if names.count(name) > 1]:
        raise DataError(f"{origin} has the column {twice[0]} {names.count(twice[0])} times: leave one of them.")
    if others := [name for name in names if name not in MEMBERS.names]:
        LOGGER.info(f"{origin} also has the columns {', '.join(map(cell, others))}, which a subset does not keep.")
    columns = {"sample_id": _ids(rows["sample_id"], origin)}
    for name in ("score", "weight"):
        columns[name] = _numbers(rows, name, origin)
    members = pa.table(columns, schema=MEMBERS)
    check(members, origin)
    return members


def _ids(values: pa.ChunkedArray, origin: str) -> pa.ChunkedArray:
    if pa.types.is_null(values.type):
        return values.cast(pa.string())
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise DataError(f"{origin} has ids that are not text ({values.type}): sample_id must be the pool's sample ids.")
    return values.cast(pa.string())


def _numbers(rows: pa.Table, name: str, origin: str) -> pa.ChunkedArray:
    """Return a column as float64; null in all rows if there is no such column."""
    if name not in rows.column_names:
        return pa.chunked_array([pa.nulls(len(rows), pa.float64())])
    kind = rows[name].type
    types = pa.types
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind)):
        raise DataError(f"{origin} has a column {name} that is not of numbers ({kind}): cast it, or leave it out.")
    return rows[name].cast(pa.float64(), safe=False)


def check(members: pa.Table, origin: str) -> None:
    """Raise `DataError` if there is no member, if an id is missing or repeated, or if a weight cannot be used."""
    ids = members["sample_id"]
    if not len(ids):
        raise DataError(f"{origin} names no sample: there is nothing to keep.")
    if ids.null_count:
        raise DataError(f"{origin} has {ids.null_count} rows without a sample_id: leave them out.")
    first = first_of_each(ids)
    if len(first) < len(ids):
        again = np.setdiff1d(np.arange(len(ids)), first)
        raise DataError(
            f"{origin} names {len(again)} samples again, first {cell(ids[int(again[0])].as_py())}: each sample may "
            "come once. Give a sample a weight to draw it more often."
        )
    check_weights(members["weight"], ids, origin)


def check_weights(weights: pa.ChunkedArray, ids: pa.ChunkedArray, origin: str) -> None:
    """Raise `DataError` unless all weights are null, or all are finite, none is below 0 and not all are 0."""
    if weights.null_count == len(weights):
        return
    values = weights.to_numpy()
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(wrong):
        where = int(wrong[0])
        raise DataError(
            f"{origin} has {len(wrong)} weights that cannot be used, first {weights[where].as_py()} of "
            f"{cell(ids[where].as_py())}: each must be a finite number, and none below 0."
        )
    if not values.any():
        raise DataError(f"{origin} has only weights of 0: no sample could be drawn.")


def from_file(path: Path) -> pa.Table:
    """Return the members that a file names: one id per line, or rows with the column sample_id.

    Raises:
        DataError: the file cannot be read, or a row cannot be used; see `from_rows`.
    """
    name = printable(path)
    if path.is_dir():
        raise DataError(f"{name} is a folder: --ids takes one file.")
    rows = _rows(path, name) if _has_columns(path) else ({"sample_id": line} for line in _lines(path, name))
    columns: dict[str, list[Any]] = {}
    for number, row in enumerate(rows):
        for key in [*columns, *(key for key in row if key not in columns)]:
            columns.setdefault(key, [None] * number).append(row.get(key))
    columns = columns or {"sample_id": []}
    for key in MEMBERS.names[1:]:
        if key in columns:
            columns[key] = [_number(value, key, name) for value in columns[key]]
    if wrong := [value for value in columns.get("sample_id", []) if value is not None and not isinstance(value, str)]:
        raise DataError(f"{name} has {len(wrong)} ids that are not text, first {cell(wrong[0])}.")
    known = {key: pa.array(columns[key], MEMBERS.field(key).type) for key in columns if key in MEMBERS.names}
    others = {key: pa.nulls(len(next(iter(columns.values())))) for key in columns if key not in MEMBERS.names}
    return from_rows(pa.table({**known, **others}), name)


def _has_columns(path: Path) -> bool:
    """Return whether the name of a file says that it has columns; `.jsonl.gz` does, too."""
    return not READERS.keys().isdisjoint(path.suffixes[-2:]) or path.suffix.lower() in READERS


def _rows(path: Path, name: str) -> Iterator[dict[str, Any]]:
    for row in read_file(File(path.name, str(path))):
        if row.values is None:
            raise DataError(f"{name}, row {row.number}, cannot be read: {row.reason}.")
        yield row.values


def _lines(path: Path, name: str) -> Iterator[str]:
    """Yield the lines of a text file that are not empty."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if text := line.strip():
                    yield text
    except UnicodeDecodeError:
        raise DataError(f"{name} is not UTF-8: save it as UTF-8, with one id per line.") from None
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error}.") from None


def _number(value: Any, key: str, name: str) -> float | None:
    """Return a value of a file as a number; CSV has all values as text."""
    if value is None or value == "":
        return None
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise DataError(f"{name} has a {key} that is no number: {cell(value)}.")


def from_subsets(pool: Artifact, subsets: Sequence[Artifact]) -> pa.Table:
    """Return the members of subsets of a pool, one subset after the other; see `join`."""
    return join([_from_subset(pool, subset) for subset in subsets], [f"The subset '{each.name}'" for each in subsets])


def _from_subset(pool: Artifact, subset: Artifact) -> pa.Table:
    subset_of(pool, subset)
    records = records_of(subset)
    if "epoch" in records.column_names and pc.count_distinct(records["epoch"], "only_valid").as_py() > 1:
        LOGGER.warning(f"The rounds of the subset '{subset.name}' are not kept: each sample counts once.")
    records = records.take(pa.array(first_of_each(records["sample_id"])))
    members = records.select(MEMBERS.names).cast(MEMBERS)
    check(members, f"The subset '{subset.name}'")
    return members


def join(parts: Sequence[pa.Table], origins: Sequence[str]) -> pa.Table:
    """Return the members of all parts, each sample once, with the weight and score of the first part that has it.

    Args:
        parts: members, in order.
        origins: what each part is, as in `from_rows`.

    Raises:
        DataError: some parts have weights and others none.
    """
    weighted = [part["weight"].null_count < len(part) for part in parts]
    if any(weighted) and not all(weighted):
        with_weights, without = origins[weighted.index(True)], origins[weighted.index(False)]
        raise DataError(
            f"{with_weights} has weights, but not so {without[0].lower()}{without[1:]}: give weights to both or to "
            "none, with a query."
        )
    joined = pa.concat_tables(parts).combine_chunks()
    return joined.take(pa.array(first_of_each(joined["sample_id"])))


def check_same_answer(store: Store, fingerprint: str, key: str, answer: str) -> None:
    """Raise `DataError` if a query returns something else than when the fingerprint of an artifact was made from it.

    Args:
        store: the store.
        fingerprint: fingerprint of the unfinished artifact.
        key: key of the digest of the query's answer among its inputs.
        answer: digest of what the query returns now.
    """
    recorded = [each.inputs.get(key) for each in store.drafts() if each.fingerprint == fingerprint]
    if recorded and recorded[0] != answer:
        raise DataError(
            "The query returns other samples, or another order, each time that it runs: give it an ORDER BY over "
            "columns that decide the order, and no random()."
        )
