"""Mutations of Parquet files, of fragments that wait to be merged, of indexes, and of the catalogue."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.files import ODD_COLUMNS, spoil
from tests.support.tampering import NAMED_ONLY, OBJECTS, sign

from .values import HOSTILE, changed, one, resign, written
from .world import OUTSIDE, STORE


def tables(rng: Random, world: Path) -> str:
    """Write a Parquet file again with another schema, other values or other pages; its checksum fits mostly."""
    path = one(rng, world, "*.parquet")
    words = _rewrite(rng, path)
    if rng.random() < 0.85:
        resign(world / STORE, path)
    return f"{path.relative_to(world)}: {words}"


def _rewrite(rng: Random, path: Path) -> str:
    table = pq.read_table(path, partitioning=None)
    how = rng.choice(sorted(REWRITES))
    column = rng.choice(table.column_names or ["none"])
    try:
        changed_table, options = REWRITES[how](rng, table, column)
        pq.write_table(changed_table, path, write_page_checksum=rng.random() < 0.7, **options)
    except (pa.ArrowException, ValueError, KeyError, OverflowError, TypeError) as error:  # a change that cannot be made
        spoil(rng, path)
        return f"{column}: {how} cannot be ({type(error).__name__}), so it is spoilt"
    return f"{column}: {how}"


Rewritten = tuple[pa.Table, dict[str, Any]]


def _replaced(table: pa.Table, column: str, values: pa.Array | pa.ChunkedArray) -> Rewritten:
    return table.set_column(table.column_names.index(column), column, values), {}


def _cast(rng: Random, table: pa.Table, column: str) -> Rewritten:
    kind = rng.choice([pa.string(), pa.int64(), pa.int8(), pa.float32(), pa.bool_(), pa.large_string(), pa.binary()])
    return _replaced(table, column, table[column].cast(kind, safe=False))


def _constant(rng: Random, table: pa.Table, column: str) -> Rewritten:
    value = rng.choice(
        [None, -1, 2**62, 1.5, float("nan"), float("inf"), "", HOSTILE, "x" * 100_000, b"\xff", [1], {"a": 1}]
    )
    return _replaced(table, column, pa.array([value] * len(table)))


def _same_type(rng: Random, table: pa.Table, column: str) -> Rewritten:
    """Other values of the same type: numbers that are far away, texts that are hostile, lists that are short."""
    kind = table.schema.field(column).type
    values = table[column].to_pylist()
    at = rng.randrange(len(values) or 1)
    if values:
        values[at] = _odd(rng, kind, values[at])
    return _replaced(table, column, pa.array(values, kind))


def _odd(rng: Random, kind: pa.DataType, value: Any) -> Any:
    if pa.types.is_integer(kind):
        return rng.choice([-1, 0, 2**31 - 1, 10**6, None])
    if pa.types.is_floating(kind):
        return rng.choice([float("nan"), float("inf"), -1e30, 0.0, None])
    if pa.types.is_string(kind):
        return rng.choice([HOSTILE, "", "{", "x" * 50_000, None, "\ufeff", '{"a": 1, "a": 2}', "[" * 3000])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return rng.choice([[], None, (value or [])[:1], (value or []) * 3])
    return rng.choice([None, value])


def _invalid_text(rng: Random, table: pa.Table, column: str) -> Rewritten:
    raw = pa.array([rng.choice([b"\xff\xfe", b"\xed\xa0\x80", b"ok"]) for _ in range(len(table))], pa.binary())
    return _replaced(table, column, raw.view(pa.string()))


def _odd_column(rng: Random, table: pa.Table, column: str) -> Rewritten:
    kind, value = rng.choice(list(ODD_COLUMNS.values()))
    return _replaced(table, column, pa.array([value(rng) for _ in range(len(table))], kind))


REWRITES: Mapping[str, Callable[[Random, pa.Table, str], Rewritten]] = {
    "gone": lambda rng, table, column: (table.drop_columns([column]), {}),
    "renamed": lambda rng, table, column: (
        table.rename_columns({column: rng.choice(["x", HOSTILE, "", column.upper(), "sample_id"])}),
        {},
    ),
    "twice": lambda rng, table, column: (table.append_column(column, table[column]), {}),
    "more": lambda rng, table, column: (table.append_column(HOSTILE, table[column]), {}),
    "cast": _cast,
    "constant": _constant,
    "value": _same_type,
    "value again": _same_type,
    "not UTF-8": _invalid_text,
    "odd type": _odd_column,
    "no rows": lambda rng, table, column: (table.slice(0, 0), {}),
    "one row": lambda rng, table, column: (table.slice(0, 1), {}),
    "twice the rows": lambda rng, table, column: (pa.concat_tables([table, table]), {}),
    "reversed": lambda rng, table, column: (table.take(list(range(len(table)))[::-1]), {}),
    "no columns": lambda rng, table, column: (table.select([]), {}),
    "metadata": lambda rng, table, column: (
        table.replace_schema_metadata({b"ARROW:schema": b"x", b"pandas": b"{", b"huggingface": HOSTILE.encode()}),
        {},
    ),
    "pages": lambda rng, table, column: (
        table,
        {"compression": rng.choice(["gzip", "brotli", "none"]), "row_group_size": 2, "data_page_version": "2.0"},
    ),
    "dictionary": lambda rng, table, column: _replaced(table, column, table[column].dictionary_encode()),
}


def fragments(rng: Random, world: Path) -> str:
    """Let records wait to be merged again, changed; or add records of another table, or under another name."""
    root = world / STORE
    path = rng.choice(sorted(root.glob("artifacts/*/*/merged/*/*.parquet")))
    artifact = path.parents[2]
    waiting = artifact / "facts" / path.parent.name / path.name
    how = rng.choice(["waits", "waits changed", "waits changed", "twice", "table", "name", "foreign", "no catalogue"])
    waiting.parent.mkdir(parents=True, exist_ok=True)
    if how == "table":
        table = rng.choice(
            ["samples", "ledger", "merged", "layout", "x (y); --", "SAMPLES", "a b", "information_schema"]
        )
        waiting = artifact / "facts" / table / path.name
        waiting.parent.mkdir(parents=True, exist_ok=True)
    elif how == "name":
        waiting = waiting.with_name(
            rng.choice(["x.parquet", "a b'.parquet", "'); DROP TABLE samples; --.parquet", "\n.parquet"])
        )
    elif how == "foreign":
        other = rng.choice(sorted(root.glob("artifacts/*/*/artifact.json"))).parent
        waiting = other / "facts" / path.parent.name / path.name
        waiting.parent.mkdir(parents=True, exist_ok=True)
    (shutil.copy if how in ("twice", "foreign") else shutil.move)(path, waiting)
    words = _rewrite(rng, waiting) if how == "waits changed" else ""
    if how == "no catalogue" or rng.random() < 0.3:
        (root / "catalog.duckdb").unlink()
    sign(artifact)
    return f"{path.relative_to(world)}: {how} {words}"


def indexes(rng: Random, world: Path) -> str:
    """Change an index of vectors or its description; the checksums fit mostly."""
    path = one(rng, world, "*.faiss")
    about = path.with_name(path.name + ".json")
    content = json.loads(about.read_text(encoding="utf-8"))
    if rng.random() < 0.4:
        content, words = changed(rng, content)
        about.write_bytes(written(rng, content))
        return f"{about.relative_to(world)}: {words}"
    data = bytearray(path.read_bytes())
    if rng.random() < 0.6:
        at = rng.randrange(min(len(data), 80))
        data[at : at + 8] = rng.choice([b"\xff" * 8, bytes(8), rng.randbytes(8), b"\x00" * 7 + b"\x7f", b"IxPT"])
        path.write_bytes(data)
    else:
        spoil(rng, path)
    if rng.random() < 0.8:
        from curate.runtime.checksums import checksum_files

        content["files"] = checksum_files({path.name: path})
        about.write_text(json.dumps(content), encoding="utf-8")
    return f"{path.relative_to(world)} is spoilt"


def catalogue(rng: Random, world: Path) -> str:
    """Put foreign objects into the catalogue, change its rows, or replace it."""
    path = world / STORE / "catalog.duckdb"
    how = rng.choice(["object", "object", "rows", "rows", "other", "log", "gone"])
    if how == "object":
        what = rng.choice(sorted(OBJECTS | NAMED_ONLY))
        secret = world / OUTSIDE / "secret.csv"
        read = f"SELECT a AS artifact, a AS fragment, a AS digest FROM read_csv('{secret}')"
        _execute(path, (OBJECTS | NAMED_ONLY)[what].format(read=read))
        return f"the catalogue: {what}"
    if how == "rows":
        return f"the catalogue: {_change_rows(rng, path)}"
    path.unlink()
    if how == "other":
        with duckdb.connect(str(path)) as connection:
            connection.execute(
                rng.choice(["SELECT 1", "CREATE TABLE layout (a INTEGER)", "CREATE TABLE samples (a INTEGER)"])
            )
    elif how == "log":
        path.with_name("catalog.duckdb.wal").write_bytes(rng.randbytes(500))
    return f"the catalogue: {how}"


def _execute(path: Path, sql: str) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute(sql)


def _change_rows(rng: Random, path: Path) -> str:
    with duckdb.connect(str(path)) as connection:
        found = connection.execute(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
        ).fetchall()
        table, column, kind = rng.choice(found)
        value = rng.choice(["NULL", f"CAST('7' AS {kind})", f"CAST('-1' AS {kind})", "DELETE", "TWICE", "HOSTILE"])
        if value == "DELETE":
            sql = f'DELETE FROM "{table}"'
        elif value == "TWICE":
            sql = f'INSERT INTO "{table}" SELECT * FROM "{table}"'
        elif value == "HOSTILE":
            text = HOSTILE.replace("\0", "").replace("'", "''")
            sql = f'UPDATE "{table}" SET "{column}" = \'{text}\''
        else:
            sql = f'UPDATE "{table}" SET "{column}" = {value}'
        try:
            connection.execute(sql)
        except duckdb.Error as error:
            connection.execute(f'DELETE FROM "{table}"')
            sql += f" cannot be ({type(error).__name__}), so its rows are gone"
    return sql[:120]
