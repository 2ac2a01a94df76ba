"""The command `curate query`: run read-only SQL on the store and print the rows.

The SQL comes from the command line, from a file, from stdin or from a saved question.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import typer

from ..errors import ConfigError, QueryError, did_you_mean
from ..runtime import bundled
from ..runtime.terminal import cell, say, table
from ..store.catalog.limits import Limits, bytes_of
from . import completion
from .answers.printing import print_answer
from .flags import StoreFlag

if TYPE_CHECKING:
    from ..store import Store

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
    if catalogue:
        from ..store import Store

        say(*describe(Store(store)))
    elif sql is None:
        raise ConfigError(
            "The query is missing: give a SQL statement, a .sql file, or a saved question (curate query --list)."
        )
    else:
        limits = Limits(timeout, bytes_of(memory), allow_files)
        print_answer(store, find(sql, store), parameters(params or ()), limits, output_format, guard=not raw)


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
    return _decoded(io.BytesIO(_content(path)), str(path))


def _content(file: Path) -> bytes:
    """Return the first bytes of a saved question, which may lie in a received store."""
    from ..store.artifacts.safe_files import open_to_read

    with open_to_read(file) as opened:
        return opened.read(MOST_SQL + 1)


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
    """Return the files of the saved questions by name. The store comes before ./store, and that before curate's own.

    Raises:
        StoreError: the folder of a store's questions is a link.
    """
    from ..store.artifacts.path_checks import require_folder

    folders = [folder for folder in (bundled.folder("queries"), Path("store/queries"), root / "queries") if folder]
    paths = [path for folder in folders for path in require_folder(folder).glob("*.sql")]
    return {path.stem: path for path in sorted(paths, key=lambda path: path.stem)}


def about(sql: str) -> str:
    """Return the comment in the first line of a SQL text, or an empty text."""
    first = sql.lstrip().split("\n", 1)[0]
    return first.lstrip("- ").strip() if first.startswith("--") else ""


def parameters(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse `name=value` pairs. A value that is not valid YAML, such as the one of `runs=*`, stays a text."""
    from ..config import scalar

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
        f"  {cell(name):<{width}}  {cell(about(_content(path).decode('utf-8', 'replace')))}"
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
