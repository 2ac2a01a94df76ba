"""The command `curate query`: run read-only SQL on the store and print the rows.

The SQL comes from the command line, from a file, from stdin or from a saved question.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..api.commands.questions import find, questions
from ..errors import ConfigError
from ..runtime.terminal import cell, say, table
from ..store.catalog.limits import Limits, bytes_of
from . import completion
from .answers.printing import print_answer
from .flags import StoreFlag

if TYPE_CHECKING:
    from ..store import Store

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

    asked = questions(store.root)
    width = max((len(question.name) for question in asked), default=0)
    lines = ["Saved questions (curate query NAME):"]
    lines += [f"  {cell(question.name):<{width}}  {cell(question.asks)}" for question in asked] or ["  none"]
    rows = dictionary(store)
    for name in dict.fromkeys(row["table"] for row in rows):
        columns = [row for row in rows if row["table"] == name]
        comment = next((row["comment"] for row in columns if not row["column"]), "")
        lines += ["", f"{name}: {comment}" if comment else name]
        described = table([row for row in columns if row["column"]], columns=["column", "type", "comment"])
        lines += [f"  {line}" for line in described[2:]]
    return lines
