"""The command `curate query`: run read-only SQL on the store and print the rows.

The SQL comes from the command line, from a file, from stdin or from a saved question.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import typer

from ..config import scalar
from ..errors import ConfigError, QueryError, did_you_mean
from ..log import LOGGER
from ..runtime import bundled
from ..runtime.spreadsheet import as_csv
from ..runtime.terminal import cell, say, table
from . import completion
from .flags import StoreFlag

if TYPE_CHECKING:
    import pyarrow as pa

    from ..store import Store

LONGEST = 200
"""Default for the largest number of rows in a printed table."""
MOST_SQL = 1_000_000
"""Largest size of a SQL text, in bytes."""
LONGEST_PATH = 4096
"""Length in characters from which an argument is not looked up as a file."""
EXAMPLES = """
curate query --list
curate query most_kept --param run=uds
curate query "SELECT run, step, avg(score) FROM ledger GROUP BY ALL ORDER BY ALL"
curate query question.sql --format csv > answer.csv
"""


def query(
    sql: Annotated[
        str | None,
        typer.Argument(
            metavar="SQL",
            help="SQL to run: a statement, a .sql file, the name of a saved question, or - for stdin.",
            autocompletion=completion.questions,
        ),
    ] = None,
    params: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="Set the value of $NAME in the SQL. [repeatable]"),
    ] = None,
    output_format: Annotated[
        Literal["table", "csv", "json", "parquet"], typer.Option("--format", help="Format of the rows on stdout.")
    ] = "table",
    catalogue: Annotated[
        bool, typer.Option("--list", help="List the saved questions, and the tables with their columns.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write CSV cells unchanged, also those that a spreadsheet runs as formulas.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=0.001, metavar="SECONDS", help="Stop the query after this many seconds."),
    ] = 600.0,
    memory: Annotated[
        str,
        typer.Option("--memory", metavar="SIZE", help="Limit the memory of the query and its answer."),
    ] = "2GB",
    allow_files: Annotated[
        bool, typer.Option("--allow-files", help="Allow the SQL to read files outside the store.")
    ] = False,
    store: StoreFlag = Path("store"),
) -> None:
    """Run `curate query`: print the rows that a read-only statement returns."""
    from ..store import Store
    from ..store.catalog.limits import Limits, bytes_of

    if catalogue:
        say(*describe(Store(store)))
    elif sql is None:
        raise ConfigError(
            "The query is missing: give a SQL statement, a .sql file, or a saved question (curate query --list)."
        )
    else:
        limits = Limits(timeout, bytes_of(memory), allow_files)
        write(Store(store).query(find(sql, store), parameters(params or ()), limits), output_format, guard=not raw)


def find(text: str, root: Path) -> str:
    """Return the SQL for an argument: the content of stdin (`-`), a file or a saved question, else the text itself.

    Raises:
        QueryError: the text is a single name, but there is no such file and no such saved question.
    """
    if text == "-":
        return _decoded(sys.stdin.buffer, "The SQL on stdin")
    if not re.fullmatch(r"[\w./\\~-]+", text):
        return text
    path = Path(text).expanduser()
    known = saved(root)
    if len(text) >= LONGEST_PATH or not path.is_file():
        if path.name.removesuffix(".sql") not in known:
            raise QueryError(f"There is no file and no saved question '{text}'.{did_you_mean(text, known)}")
        path = known[path.name.removesuffix(".sql")]
    with path.open("rb") as file:
        return _decoded(file, str(path))


def _decoded(file: BinaryIO, name: str) -> str:
    content = file.read(MOST_SQL + 1)
    if len(content) > MOST_SQL:
        raise QueryError(
            f"{name} is longer than {MOST_SQL // 10**6} MB, which is the limit for SQL. Give a shorter query."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise QueryError(f"{name} is not UTF-8. Save it as UTF-8.") from None


def saved(root: Path) -> dict[str, Path]:
    """Return the files of the saved questions by name. The store comes before ./store, and that before curate's own."""
    folders = [folder for folder in (bundled.folder("queries"), Path("store/queries"), root / "queries") if folder]
    paths = [path for folder in folders for path in folder.glob("*.sql")]
    return {path.stem: path for path in sorted(paths, key=lambda path: path.stem)}


def about(sql: str) -> str:
    """Return the comment in the first line of a SQL text, or an empty text."""
    first = sql.lstrip().split("\n", 1)[0]
    return first.lstrip("- ").strip() if first.startswith("--") else ""


def parameters(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse `name=value` pairs. A value that is not valid YAML, such as the one of `runs=*`, stays a text."""
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError("--param needs name=value: an argument of it has no '='.")
        try:
            values[name] = scalar(text)
        except ConfigError:
            values[name] = text
    return values


def describe(store: Store) -> list[str]:
    """Return the lines of `curate query --list`: the saved questions, then the tables with their columns."""
    from ..store.catalog.query import dictionary

    questions = saved(store.root)
    width = max(map(len, questions), default=0)
    lines = ["Saved questions (curate query NAME):"]
    lines += [
        f"  {cell(name):<{width}}  {cell(about(path.read_text('utf-8', 'replace')))}"
        for name, path in questions.items()
    ] or ["  none"]
    rows = dictionary(store)
    for name in dict.fromkeys(row["table"] for row in rows):
        columns = [row for row in rows if row["table"] == name]
        comment = next((row["comment"] for row in columns if not row["column"]), "")
        lines += ["", f"{name}: {comment}" if comment else name]
        described = table([row for row in columns if row["column"]], columns=["column", "type", "comment"])
        lines += [f"  {line}" for line in described[2:]]
    return lines


def write(result: pa.Table, output_format: str, *, longest: int = LONGEST, guard: bool = True) -> None:
    """Write the rows to stdout.

    Args:
        result: the rows.
        output_format: `table`, `csv`, `json` or `parquet`. JSON and Parquet hold the exact values.
        longest: the largest number of rows of a `table`. The other formats always hold all rows.
        guard: write a ' before CSV cells that a spreadsheet would run as formulas, and log how many there are.
    """
    if output_format == "parquet":
        from ..store.catalog.query import parquet_bytes

        sys.stdout.buffer.write(parquet_bytes(result))
        return
    rows = rows_of(result.slice(0, longest) if output_format == "table" else result)
    names = list(rows[0]) if rows else result.column_names
    if output_format == "csv":
        _write_csv(names, rows, guard=guard)
    elif output_format == "json":
        _write_data("[" + ",\n ".join(_json(row, ascii_only=_is_ascii()) for row in rows) + "]\n")
    else:
        say(*table(rows, columns=names), hide_secrets=False)
        if len(result) > longest:
            LOGGER.info(f"... and {len(result) - longest} more rows. curate query --format csv shows all of them.")


def rows_of(result: pa.Table) -> list[dict[str, Any]]:
    """Return the rows as mappings from column to value.

    Columns of the same name get a number (`name`, `name_2`). If a time does not fit Python's types, such as the year
    200000, all times become text.

    Raises:
        QueryError: a value cannot be written as text.
    """
    import pyarrow as pa

    names: dict[str, None] = {}
    for name in result.column_names:
        number = 1
        while (name if number == 1 else f"{name}_{number}") in names:
            number += 1
        names[name if number == 1 else f"{name}_{number}"] = None
    result = result.rename_columns(list(names))
    try:
        rows: list[dict[str, Any]] = result.to_pylist(maps_as_pydicts="lossy")
    except (OverflowError, ValueError):  # for example the year 200000, or infinity
        texts = [column.cast(pa.string()) if pa.types.is_temporal(column.type) else column for column in result.columns]
        try:
            rows = pa.table(texts, names=list(names)).to_pylist(maps_as_pydicts="lossy")
        except (OverflowError, ValueError, pa.ArrowException) as error:
            raise QueryError(f"The answer has a value that cannot be shown: {error}. CAST it to VARCHAR.") from None
    return rows


def _write_csv(names: Sequence[str], rows: Sequence[dict[str, Any]], *, guard: bool) -> None:
    text, guarded = as_csv(names, ([_flat(value) for value in row.values()] for row in rows), guard=guard)
    _write_data(text)
    if guarded:
        LOGGER.warning(
            f"{guarded} cells start with a ' now, because spreadsheets would run them as formulas. Give --raw or "
            "--format json for the unchanged cells."
        )


def _write_data(text: str) -> None:
    """Write data to stdout unchanged; on a terminal, characters that control it are escaped.

    Raises:
        UnicodeEncodeError: the encoding of stdout lacks a character, and data must not be changed.
    """
    if sys.stdout.isatty():
        say(text.rstrip("\n"), hide_secrets=False)
    else:
        text.encode(sys.stdout.encoding or "utf-8")
        sys.stdout.write(text)


def _flat(value: Any) -> Any:
    return _json(value) if isinstance(value, (dict, list)) else value


def _is_ascii() -> bool:
    """Return whether JSON must be written with escapes only, because stdout may not take all characters."""
    return (sys.stdout.encoding or "utf-8").lower().replace("-", "") not in ("utf8", "utf16", "utf32")


def _json(value: Any, *, ascii_only: bool = False) -> str:
    """Return a value as JSON. Decimals become numbers, times become text, and NaN and infinity become null."""
    plain = _finite(value)
    return json.dumps(plain, ensure_ascii=ascii_only, default=lambda v: float(v) if isinstance(v, Decimal) else str(v))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
