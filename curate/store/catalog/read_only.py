"""Check that SQL from a user only reads.

The check uses DuckDB's parse tree, not the first word of the text. DuckDB reports a `WITH` that writes a file or
changes a table as a SELECT, and some functions run SQL that they receive as text. Statements, nodes and functions that
are not on the lists below are rejected, so a new kind must be added here before users can run it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import duckdb

from ...errors import QueryError

READING_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
"""Nodes of a parsed query that only read. Others, such as COPY_QUERY_NODE and INSERT_QUERY_NODE, write."""

READING_FUNCTIONS = frozenset(
    ("range", "generate_series", "unnest", "repeat", "repeat_row", "glob", "json_each", "json_tree", "query_table")
)
READING_PREFIXES = ("read_", "parquet_", "duckdb_", "pragma_", "sniff_", "summary")
"""Prefixes of table functions that only read. Not allowed are `query` and `json_execute_serialized_sql`, which run the
SQL they receive, and functions that follow a pointer."""


def single_statement(sql: str) -> str:
    """Return the only statement in `sql`; raise `QueryError` if there is none or several, or if it is no SELECT."""
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(str(error)) from None
    except TypeError:  # a lone surrogate
        raise QueryError("The SQL is not valid Unicode.") from None
    if len(statements) != 1:
        raise QueryError(f"Give one statement at a time; this text holds {len(statements)}.")
    if statements[0].type != duckdb.StatementType.SELECT:  # EXPLAIN is rejected: EXPLAIN ANALYZE runs its statement
        raise QueryError(_writes(statements[0].type.name))
    return str(statements[0].query)


def check_read_only(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    """Raise `QueryError` unless every part of a statement only reads. ~1 ms."""
    text = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [statement]).fetchall()[0][0]
    try:
        tree = json.loads(text)
    except (RecursionError, ValueError):
        raise QueryError("The SQL is nested too deeply.") from None
    if tree["error"]:
        raise QueryError(f"curate cannot check that this SQL only reads: {tree['error_message']}.")
    for node in syntax_nodes(tree["statements"]):
        kind = node.get("type")
        if isinstance(kind, str) and kind.endswith("_NODE") and kind not in READING_NODES:
            raise QueryError(_writes(kind.removesuffix("_NODE").removesuffix("_QUERY")))
        if kind == "TABLE_FUNCTION":
            name = str(node["function"].get("function_name", "")).lower()
            if name not in READING_FUNCTIONS and not name.startswith(READING_PREFIXES):
                raise QueryError(f"curate query reads tables and files, and does not call {name}().")


def syntax_nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping in a tree of JSON values."""
    pending = [tree]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield value
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _writes(what: str) -> str:
    return (
        f"curate query reads only, and this is {what}. To write the result to a file, use --format csv|json|parquet "
        "and redirect."
    )
