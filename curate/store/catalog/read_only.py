"""Whether SQL only reads. Told by what DuckDB parses and not by how the text begins: of a `WITH` that writes a file or
changes a table DuckDB says that it is a SELECT, and some functions run SQL that is handed to them as text.

What is not known to read is refused, so that a new kind of statement has to be let in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import duckdb

from ...errors import QueryError

READING_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
"""Nodes of a parsed query that only read; others are COPY_QUERY_NODE, INSERT_QUERY_NODE and their kin."""

READING_FUNCTIONS = frozenset(
    ("range", "generate_series", "unnest", "repeat", "repeat_row", "glob", "json_each", "json_tree", "query_table")
)
READING_PREFIXES = ("read_", "parquet_", "duckdb_", "pragma_", "sniff_", "summary")
"""Table functions that only read. Not `query` and `json_execute_serialized_sql`, which run what they are given, nor
those that follow a pointer."""


def one_statement(sql: str) -> str:
    """The statement that `sql` holds; `QueryError` where it holds none or several, or says itself that it writes."""
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(str(error)) from None
    except TypeError:  # a lone surrogate
        raise QueryError("The SQL is not valid Unicode.") from None
    if len(statements) != 1:
        raise QueryError(f"Give one statement at a time; this text holds {len(statements)}.")
    if statements[0].type != duckdb.StatementType.SELECT:  # EXPLAIN is none: EXPLAIN ANALYZE runs what it explains
        raise QueryError(_writes(statements[0].type.name))
    return str(statements[0].query)


def must_only_read(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    """Raise `QueryError` unless every part of a statement reads. ~1 ms."""
    text = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [statement]).fetchall()[0][0]
    try:
        tree = json.loads(text)
    except (RecursionError, ValueError):
        raise QueryError("The SQL is nested too deeply.") from None
    if tree["error"]:
        raise QueryError(f"This SQL cannot be checked to only read: {tree['error_message']}.")
    for node in _nodes(tree["statements"]):
        kind = node.get("type")
        if isinstance(kind, str) and kind.endswith("_NODE") and kind not in READING_NODES:
            raise QueryError(_writes(kind.removesuffix("_NODE").removesuffix("_QUERY")))
        if kind == "TABLE_FUNCTION":
            name = str(node["function"].get("function_name", "")).lower()
            if name not in READING_FUNCTIONS and not name.startswith(READING_PREFIXES):
                raise QueryError(f"curate query reads tables and files, and does not call {name}().")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a tree of JSON."""
    left = [tree]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield value
            left += value.values()
        elif isinstance(value, list):
            left += value


def _writes(what: str) -> str:
    return (
        f"curate query reads only, and this is {what}. To write the result to a file, use --format csv|json|parquet "
        "and redirect."
    )
