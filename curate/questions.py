"""`curate query`: SQL over the store, from the command line, a file, a pipe or the saved questions."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .config import scalar
from .errors import ConfigError, QueryError, did_you_mean
from .flags import StoreFlag
from .log import LOGGER
from .render import table

if TYPE_CHECKING:
    import pyarrow as pa

    from .store import Store

LONGEST = 200
"""Rows that a printed table shows at most, unless told otherwise."""

EXAMPLES = """
curate query --list
curate query most_kept --param run=uds
curate query "SELECT run, step, avg(score) FROM ledger GROUP BY ALL ORDER BY ALL"
curate query question.sql --format csv > answer.csv
"""


def query(
    sql: Annotated[
        str | None, typer.Argument(metavar="SQL", help="A statement, a .sql file, the name of a saved question, or -.")
    ] = None,
    params: Annotated[
        list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="Value of $name. [repeatable]")
    ] = None,
    how: Annotated[
        Literal["table", "csv", "json", "parquet"], typer.Option("--format", help="How rows are written to stdout.")
    ] = "table",
    catalogue: Annotated[bool, typer.Option("--list", help="Show saved questions, tables and columns.")] = False,
    store: StoreFlag = Path("store"),
) -> None:
    """`curate query`: print what a read-only statement finds in the store."""
    from .store import Store

    if catalogue:
        print("\n".join(describe(Store(store))))
    elif sql is None:
        raise ConfigError("Say what to ask: a SQL statement, a file, or a saved question (curate query --list).")
    else:
        write(Store(store).query(find(sql, store), parameters(params or ())), how)


def find(text: str, root: Path) -> str:
    """The SQL that `text` stands for: itself, or what `-`, a file or a saved question holds."""
    if text == "-":
        return sys.stdin.read()
    if not re.fullmatch(r"[\w./\\~-]+", text):
        return text
    path = Path(text).expanduser()
    if path.is_file():
        return path.read_text(encoding="utf-8")
    known = saved(root)
    if path.name.removesuffix(".sql") in known:
        return known[path.name.removesuffix(".sql")].read_text(encoding="utf-8")
    raise QueryError(f"There is no file and no saved question '{text}'.{did_you_mean(text, known)}")


def saved(root: Path) -> dict[str, Path]:
    """Saved questions by name: of the store, then of ./store."""
    paths = [*Path("store/queries").glob("*.sql"), *(root / "queries").glob("*.sql")]
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
    from .store.query import dictionary

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


def write(result: pa.Table, how: str, *, longest: int = LONGEST) -> None:
    """Rows to stdout; `table` is for people and stops at `longest` rows, the others are whole."""
    if how == "parquet":
        from .store.query import parquet_bytes

        sys.stdout.buffer.write(parquet_bytes(result))
        return
    shown = result.slice(0, longest) if how == "table" else result
    rows = shown.to_pylist(maps_as_pydicts="lossy")
    if how == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(result.column_names)
        writer.writerows([_flat(value) for value in row.values()] for row in rows)
    elif how == "json":
        print("[" + ",\n ".join(_json(row) for row in rows) + "]")
    else:
        print("\n".join(table(rows, columns=result.column_names)))
        if len(result) > longest:
            LOGGER.info(f"... and {len(result) - longest} more rows: curate query with --format csv shows all of them.")


def _flat(value: Any) -> Any:
    return _json(value) if isinstance(value, (dict, list)) else value


def _json(value: Any) -> str:
    """JSON, with decimals as numbers and times as text."""
    return json.dumps(value, ensure_ascii=False, default=lambda v: float(v) if isinstance(v, Decimal) else str(v))
