"""Check the Parquet files of an artifact: its shards can be opened, and its records fit the catalogue's tables.

A checksum shows that a file is as it was written. In a store from another user the checksum may be of a file that no
stage can use. So footers are read, and values that are not of a column's type are cast as a merge would cast them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from ...errors import StoreError
from ..artifacts.manifest import MERGED, RECORDS
from ..artifacts.parquet import metadata_of
from ..artifacts.path_checks import is_special, kind_of
from ..catalog.fragments import KEY, is_merged, record_tables
from ..catalog.objects import schema_columns
from ..catalog.sql import quote

EXACT = {
    "string": "VARCHAR",
    "large_string": "VARCHAR",
    "list<element: float>": "FLOAT[]",
    "map<string, double>": "MAP(VARCHAR, DOUBLE)",
    "map<string, string>": "MAP(VARCHAR, VARCHAR)",
    "int64": "BIGINT",
    "int32": "INTEGER",
    "double": "DOUBLE",
    "bool": "BOOLEAN",
}
"""Type of a column in Parquet -> type of the catalogue that takes all of its values."""


@dataclass(frozen=True)
class Defect:
    """A file that differs from what was written, or that curate did not write.

    Attributes:
        path: the file, or the catalogue.
        wrong: the problem, as the end of a sentence that begins with the file's name.
        remedy: what the user should do.
    """

    path: Path
    wrong: str
    remedy: str


def defects_of_tables(folder: Path, remedy: str, connection: duckdb.DuckDBPyConnection) -> Iterator[Defect]:
    """Yield the defects of an artifact's shards and fragments that a checksum does not show.

    The connection must be able to read the folder.
    """
    for path in sorted(folder.glob("part-*.parquet")):
        if not is_special(path):
            try:
                metadata_of(path)
            except StoreError:
                yield Defect(path, "is no Parquet file", remedy)
    for path in _real_fragments(folder):
        try:
            inexact = _inexact_columns(path)
        except StoreError as error:
            yield Defect(path, str(error), remedy)
            continue
        if path.parents[1].name == RECORDS:
            yield from _merged_twice(path)
        if inexact and (wrong := _not_castable(connection, path, inexact)) is not None:
            yield Defect(path, wrong, remedy)


def _merged_twice(path: Path) -> Iterator[Defect]:
    """Yield a defect if a fragment that waits to be merged also lies among those that are merged."""
    try:
        if is_merged(path):
            yield Defect(path, f"also lies in {MERGED}", "curate repair removes it.")
    except StoreError as error:
        what, _, remedy = str(error).removeprefix(f"{path} ").partition(". ")
        yield Defect(path, what, remedy)


def _real_fragments(folder: Path) -> Iterator[Path]:
    """Yield the fragments of an artifact, without those that are links or lie behind one."""
    for parent in (folder / RECORDS, folder / MERGED):
        for table in sorted(parent.iterdir()) if kind_of(parent) == "a folder" else ():
            for path in sorted(table.glob("*.parquet")) if kind_of(table) == "a folder" else ():
                if not path.name.startswith(".") and not is_special(path):
                    yield path


def _inexact_columns(path: Path) -> dict[str, str]:
    """Return the columns of a fragment whose values must be cast for their table, and the types of the table.

    Raises:
        StoreError: the fragment cannot be merged; the message is the end of a sentence about it.
    """
    if path.parent.name not in record_tables() or not KEY.fullmatch(path.stem):
        raise StoreError("holds records of no table that this version of curate knows")
    types = {column: kind for table, column, kind in schema_columns() if table == path.parent.name}
    del types["artifact"]
    try:
        schema = metadata_of(path).schema.to_arrow_schema()
    except (StoreError, pa.ArrowException, ValueError):
        raise StoreError("is no Parquet file, or its columns cannot be read") from None
    if len(set(schema.names)) < len(schema.names):
        raise StoreError("has two columns of the same name")
    if unknown := [name for name in schema.names if name not in types]:
        raise StoreError(f"has the column {unknown[0][:80]!a}, which the table {path.parent.name} does not have")
    types_in_file = {field.name: re.sub(r" \('\w+'\)", "", str(field.type)) for field in schema}
    return {name: types[name] for name, kind in types_in_file.items() if EXACT.get(kind) != types[name]}


def _not_castable(connection: duckdb.DuckDBPyConnection, path: Path, types: dict[str, str]) -> str | None:
    """Return which column of a fragment has values that its type in the table cannot hold; None if none has."""
    lost = ", ".join(f'count("{name}") - count(TRY_CAST("{name}" AS {kind}))' for name, kind in types.items())
    try:
        ((*counts,),) = connection.execute(f"SELECT {lost} FROM read_parquet({quote(str(path.absolute()))})").fetchall()
    except duckdb.Error as error:
        return f"cannot be read ({str(error).strip().splitlines()[0]})"
    for (name, kind), count in zip(types.items(), counts, strict=True):
        if count:
            return f"has {count} values in the column {name} that are no {kind}"
    return None
