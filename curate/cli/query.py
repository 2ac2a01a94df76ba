"""`curate query`: SQL over the store, from the command line, a file, a pipe or the saved questions."""

from __future__ import annotations

import csv
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
from ..runtime.terminal import table
from . import completion
from .flags import StoreFlag

if TYPE_CHECKING:
    import pyarrow as pa

    from ..store import Store

LONGEST = 200
"""Rows that a printed table shows at most, unless told otherwise."""
MOST_SQL = 1_000_000
"""Bytes of a question."""
LONGEST_PATH = 4096
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that Excel, LibreOffice and Google Sheets run, and that may start programs or send cells away
(OWASP, CSV injection)."""

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
            help="A statement, a .sql file, the name of a saved question, or -.",
            autocompletion=completion.questions,
        ),
    ] = None,
    params: Annotated[
        list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="Value of $name. [repeatable]")
    ] = None,
    how: Annotated[
        Literal["table", "csv", "json", "parquet"], typer.Option("--format", help="How rows are written to stdout.")
    ] = "table",
    catalogue: Annotated[bool, typer.Option("--list", help="Show saved questions, tables and columns.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Cells of csv as they are, also those that spreadsheets run as formulas.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=0.001, metavar="SECONDS", help="Stop a query that takes longer. [default: 600]"),
    ] = 600.0,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="Memory for the query and its answer. [default: 2GB]")
    ] = "2GB",
    allow_files: Annotated[
        bool, typer.Option("--allow-files", help="Let the SQL read files outside the store.")
    ] = False,
    store: StoreFlag = Path("store"),
) -> None:
    """`curate query`: print what a read-only statement finds in the store."""
    from ..store import Store
    from ..store.catalog.limits import Limits, bytes_of

    if catalogue:
        print("\n".join(describe(Store(store))))
    elif sql is None:
        raise ConfigError("Say what to ask: a SQL statement, a file, or a saved question (curate query --list).")
    else:
        limits = Limits(timeout, bytes_of(memory), allow_files)
        write(Store(store).query(find(sql, store), parameters(params or ()), limits), how, guard=not raw)


def find(text: str, root: Path) -> str:
    """The SQL that `text` stands for: itself, or what `-`, a file or a saved question holds."""
    if text == "-":
        return _decoded(sys.stdin.buffer, "The SQL on stdin")
    if not re.fullmatch(r"[\w./\\~-]+", text):
        return text
    path = Path(text).expanduser()
    if len(text) < LONGEST_PATH and path.is_file():
        with path.open("rb") as file:
            return _decoded(file, str(path))
    known = saved(root)
    if path.name.removesuffix(".sql") in known:
        return known[path.name.removesuffix(".sql")].read_text(encoding="utf-8")
    raise QueryError(f"There is no file and no saved question '{text}'.{did_you_mean(text, known)}")


def _decoded(file: BinaryIO, what: str) -> str:
    content = file.read(MOST_SQL + 1)
    if len(content) > MOST_SQL:
        raise QueryError(f"{what} is longer than {MOST_SQL // 10**6} MB, which is no question.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise QueryError(f"{what} is not UTF-8: save it as UTF-8.") from None


def saved(root: Path) -> dict[str, Path]:
    """Saved questions by name: of the store, then of ./store, then those that come with curate."""
    folders = [folder for folder in (bundled.folder("queries"), Path("store/queries"), root / "queries") if folder]
    paths = [path for folder in folders for path in folder.glob("*.sql")]
    return {path.stem: path for path in sorted(paths, key=lambda path: path.stem)}


def about(sql: str) -> str:
    """The comment in the first line of a question."""
    first = sql.lstrip().split("\n", 1)[0]
    return first.lstrip("- ").strip() if first.startswith("--") else ""


def parameters(pairs: Iterable[str]) -> dict[str, Any]:
    """`name=value` pairs, values read as YAML where they are YAML, else as the text they are (`runs=*`)."""
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--param wants name=value, not '{pair}'.")
        try:
            values[name] = scalar(text)
        except ConfigError:
            values[name] = text
    return values


def describe(store: Store) -> list[str]:
    """What can be asked: saved questions, then tables with their columns."""
    from ..store.catalog.query import dictionary

    questions = saved(store.root)
    width = max(map(len, questions), default=0)
    lines = ["Saved questions (curate query NAME):"]
    lines += [f"  {name:<{width}}  {about(path.read_text('utf-8'))}" for name, path in questions.items()] or ["  none"]
    rows = dictionary(store)
    for name in dict.fromkeys(row["table"] for row in rows):
        columns = [row for row in rows if row["table"] == name]
        said = next((row["comment"] for row in columns if not row["column"]), "")
        lines += ["", f"{name}: {said}" if said else name]
        named = table([row for row in columns if row["column"]], columns=["column", "type", "comment"])
        lines += [f"  {line}" for line in named[2:]]
    return lines


def write(result: pa.Table, how: str, *, longest: int = LONGEST, guard: bool = True) -> None:
    """Rows to stdout; `table` is for people and stops at `longest` rows, the others are whole.

    Of csv, which people open in spreadsheets, texts that would be formulas are written behind a ' (`guard`), and a line
    in the log says how many; json and parquet are exact.
    """
    if how == "parquet":
        from ..store.catalog.query import parquet_bytes

        sys.stdout.buffer.write(parquet_bytes(result))
        return
    rows = rows_of(result.slice(0, longest) if how == "table" else result)
    names = list(rows[0]) if rows else result.column_names
    if how == "csv":
        _write_csv(names, rows, guard=guard)
    elif how == "json":
        print("[" + ",\n ".join(_json(row) for row in rows) + "]")
    else:
        print("\n".join(table(rows, columns=names)))
        if len(result) > longest:
            LOGGER.info(f"... and {len(result) - longest} more rows: curate query with --format csv shows all of them.")


def rows_of(result: pa.Table) -> list[dict[str, Any]]:
    """Rows as mappings. Columns of one name are told apart by a number, and times that Python has not got are text."""
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
    except (OverflowError, ValueError):  # the year 200000, infinity
        texts = [column.cast(pa.string()) if pa.types.is_temporal(column.type) else column for column in result.columns]
        try:
            rows = pa.table(texts, names=list(names)).to_pylist(maps_as_pydicts="lossy")
        except (OverflowError, ValueError, pa.ArrowException) as error:
            raise QueryError(f"The answer holds what cannot be written as text: {error}. CAST it to VARCHAR.") from None
    return rows


def _write_csv(names: Sequence[str], rows: Sequence[dict[str, Any]], *, guard: bool) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    guarded = 0

    def cell(value: Any) -> Any:
        nonlocal guarded
        value = _flat(value)
        if guard and isinstance(value, str) and value.startswith(FORMULA):
            guarded += 1
            return "'" + value
        return value

    quoted = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for cells in ([cell(value) for value in values] for values in (names, *(row.values() for row in rows))):
        # a bare carriage return ends a row for readers, and Python's writer does not quote it before 3.13
        (quoted if any("\r" in str(value) for value in cells) else writer).writerow(cells)
    if guarded:
        LOGGER.warning(
            f"{guarded} cells that spreadsheets would run as formulas are written behind a '. Give --raw for them as "
            "they are, or --format json."
        )


def _flat(value: Any) -> Any:
    return _json(value) if isinstance(value, (dict, list)) else value


def _json(value: Any) -> str:
    """JSON, with decimals as numbers, times as text, and null for what is no number in JSON (NaN, infinity)."""
    plain = _finite(value)
    return json.dumps(plain, ensure_ascii=False, default=lambda v: float(v) if isinstance(v, Decimal) else str(v))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
