"""Fragments: Parquet files with an artifact's records, in `facts/TABLE` until they are merged, then in `merged/TABLE`.

The name of a folder becomes the name of a table in SQL, and a received store may have folders with any name. So only
known names are taken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import StoreError, of_system
from ...runtime.checksums import sha256
from ..artifacts.files import REMEDY
from ..artifacts.manifest import MERGED, RECORDS
from ..artifacts.path_checks import kind_of, refusal, require_no_links
from ..artifacts.safe_files import make_folder, remove, rename

if TYPE_CHECKING:
    import duckdb

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Pattern of a fragment's name without its suffix."""


def record_tables() -> frozenset[str]:
    """Return the names of the tables of records."""
    from .objects import schema_columns

    return frozenset(table for table, _, _ in schema_columns()) - {"merged", "layout"}


def fragments(folder: Path, table: str = "*", which: str = RECORDS) -> list[Path]:
    """Return an artifact's fragments that wait to be merged, or with `MERGED` those that are merged, sorted by name.

    Raises:
        StoreError: a fragment belongs to no table, or a link or no regular file lies among the fragments.
    """
    require_no_links(folder / which)
    found = sorted(path for path in folder.glob(f"{which}/{table}/*.parquet") if not path.name.startswith("."))
    for parent in dict.fromkeys(path.parent for path in found):
        if parent.name not in record_tables():
            raise StoreError(f"{parent} holds records of a table that this version of curate does not know. {REMEDY}")
    for path in found:
        if kind_of(path) != "a file":
            raise refusal(path)
        if not KEY.fullmatch(path.stem):
            raise StoreError(f"{path} has a name that curate gives to no file of records. {REMEDY}")
    return found


def move_to_merged(path: Path) -> None:
    """Move a merged fragment to the folder `merged`. The catalogue can be built again from the fragments there.

    Raises:
        StoreError: another fragment of this name lies there. It is kept.
    """
    if is_merged(path):
        remove(path)
        return
    folder = path.parents[2] / MERGED / path.parent.name
    make_folder(folder)
    with suppress(FileNotFoundError):  # another process merged and moved it
        rename(path, folder / path.name)


def is_merged(path: Path) -> bool:
    """Return whether a fragment in `facts` also lies in `merged`, byte for byte.

    Curate moves fragments, so only a store that was changed by other means has one twice.

    Raises:
        StoreError: another fragment of this name lies in `merged`.
    """
    twin = path.parents[2] / MERGED / path.parent.name / path.name
    if kind_of(path) != "a file" or kind_of(twin) != "a file":
        return False
    if sha256(path) != sha256(twin):
        raise StoreError(f"{path} has the name of {twin}, and other records. Delete the one that is wrong.")
    return True


def fragment_key(path: Path) -> str:
    """Return `table/key`: the name of a fragment in the table `merged`."""
    return f"{path.parent.name}/{path.stem}"


def is_fragment_key(text: str) -> bool:
    """Return whether a text from the table `merged` can be a `fragment_key`, so that it may become a path."""
    table, _, key = text.partition("/")
    return table in record_tables() and bool(KEY.fullmatch(key))


def insert_fragments(
    connection: duckdb.DuckDBPyConnection, artifact: str, table: str, paths: Sequence[Path], catalogue: Path
) -> None:
    """Insert fragments of one artifact and one table into the catalogue at the path `catalogue`.

    Raises:
        StoreError: a fragment is damaged, or its columns do not fit the table.
    """
    import duckdb

    try:
        connection.execute(
            f'INSERT INTO "{table}" BY NAME SELECT ? AS artifact, * FROM read_parquet(?, union_by_name = true)',
            [artifact, [str(path.absolute()) for path in paths]],
        )
    except duckdb.Error as error:
        if of_system(error) or str(catalogue) in str(error):
            raise
        what = paths[0] if len(paths) == 1 else f"A file in {paths[0].parent}"
        raise StoreError(f"{what} cannot be merged into the catalogue ({_first_line(error)}). {REMEDY}") from None
    connection.execute("INSERT INTO merged SELECT ?, unnest(?)", [artifact, [fragment_key(path) for path in paths]])


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
