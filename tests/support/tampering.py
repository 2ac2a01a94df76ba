"""Ways to tamper with a store that is then given to somebody: fields, files, links, and objects in the catalogue."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from curate.runtime.checksums import sha256
from curate.store.artifacts.manifest import MANIFEST_FILE, _digest

VALUES: tuple[Any, ...] = (None, True, -1, 1.5, 10**30, "", "x\x1b[31m; echo y", "../../../x", "\ud800", [], {}, [[1]])
"""Values that a field is given; each is of a wrong type for some fields."""


@dataclass(frozen=True)
class Tampering:
    """A change of one file of a store.

    Attributes:
        name: what is done, for messages.
        path: the file that is changed, relative to the store.
        apply: makes the change; it is given the store's folder.
    """

    name: str
    path: str
    apply: Callable[[Path], None]


def sign(folder: Path) -> None:
    """Write checksums of an artifact's files that fit their content, as whoever tampers with it can."""
    record = folder / MANIFEST_FILE
    if not record.exists():
        return
    files = json.loads(record.read_text(encoding="utf-8"))["files"]
    for name in files:
        path = folder / name
        if not path.exists():
            path = folder / name.replace("facts/", "merged/", 1)
        if path.is_file() and not path.is_symlink():
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    record.write_text(json.dumps({"files": files, "sha256": _digest(files)}), encoding="utf-8")


def of_json(root: Path) -> Iterator[Tampering]:
    """Yield changes of every field of every JSON file of a store."""
    for path in sorted(root.rglob("*.json")):
        if "files" in path.relative_to(root).parts[:-1]:  # files of a model or data set: their checksums tell
            continue
        name = path.relative_to(root).as_posix()
        for field in json.loads(path.read_text(encoding="utf-8")):
            for value in VALUES:
                yield Tampering(f"{name}: {field} = {value!r}", name, _set(name, field, value))
            yield Tampering(f"{name}: without {field}", name, _drop(name, field))
        yield Tampering(f"{name}: a field more", name, _set(name, "__class__", 1))
        for what, content in TEXTS.items():
            yield Tampering(f"{name}: {what}", name, lambda root, name=name, c=content: _write(root, name, c))


TEXTS = {
    "not JSON": b"{",
    "empty": b"",
    "a list": b"[1]",
    "deep": b'{"stage": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "rather deep": b'{"config": ' + b"[" * 300 + b"]" * 300 + b"}",
    "not UTF-8": b'{"name": "\xff"}',
    "a long number": b'{"rows": ' + b"9" * 5000 + b"}",
}


def of_files(root: Path) -> Iterator[Tampering]:
    """Yield the replacement of each file by a link, a pipe and a folder, and of folders by links."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.name == "draft.lock":
            yield Tampering(f"{name}: a folder", name, lambda root, name=name: _replace(root, name, Path.mkdir))
        if name.endswith((".lock", ".txt")) or "/files/" in name:
            continue
        if path.is_dir():
            yield Tampering(f"{name}: a link to a folder", name, lambda root, name=name: _link(root, name))
            continue
        yield Tampering(f"{name}: a link", name, lambda root, name=name: _link(root, name))
        yield Tampering(f"{name}: a pipe", name, lambda root, name=name: _replace(root, name, os.mkfifo))
        yield Tampering(f"{name}: a folder", name, lambda root, name=name: _replace(root, name, Path.mkdir))


def of_tables(root: Path) -> Iterator[Tampering]:
    """Yield changes of the Parquet files, whose checksums are made to fit."""
    for path in sorted(root.rglob("*.parquet")):
        name = path.relative_to(root).as_posix()
        yield Tampering(f"{name}: no Parquet", name, lambda root, name=name: _write(root, name, b"PAR1 nothing PAR1"))
        if "merged" in path.parts or "facts" in path.parts:
            for what, column in COLUMNS.items():
                yield Tampering(f"{name}: {what}", name, lambda root, name=name, c=column: _column(root, name, *c))
            other = f"{path.parent.parent.relative_to(root).as_posix()}/x (y); --/{path.name}"
            yield Tampering(f"{name}: of another table", other, lambda root, a=name, b=other: _move(root, a, b))
            odd = f"{path.parent.relative_to(root).as_posix()}/a b'.parquet"
            yield Tampering(f"{name}: another name", odd, lambda root, a=name, b=odd: _move(root, a, b))


COLUMNS: dict[str, tuple[str, Any]] = {
    "a column more": ("more", 1),
    "text for a number": ("position", "one"),
    "a list for a number": ("position", [1]),
    "no JSON": ("metadata", "{"),
    "an artifact": ("artifact", "c1:x"),
}

OBJECTS = {
    "view in place of layout": "DROP TABLE layout; CREATE VIEW layout AS {read}",
    "view in place of merged": "DROP TABLE merged; CREATE VIEW merged AS {read}",
    "view in place of samples": "DROP TABLE samples; CREATE VIEW samples AS {read}",
    "another view": "CREATE VIEW extra AS {read}",
    "sequence": "CREATE SEQUENCE numbers",
    "index": "CREATE INDEX own ON samples (sample_id)",
    "trigger": "CREATE TABLE extra (a INTEGER); "
    "CREATE TRIGGER own AFTER INSERT ON samples FOR EACH STATEMENT INSERT INTO extra VALUES (1)",
    "table": "CREATE TABLE extra (a INTEGER)",
    "column": "ALTER TABLE samples ADD COLUMN extra INTEGER",
    "type of a column": "ALTER TABLE samples ALTER COLUMN turns TYPE VARCHAR",
    "no column": "ALTER TABLE samples DROP COLUMN turns",
    "no table": "DROP TABLE draws",
    "default": "ALTER TABLE samples ALTER COLUMN turns SET DEFAULT 5",
    "default with a call": "ALTER TABLE samples ALTER COLUMN turns SET DEFAULT random()",
    "computed column": "DROP TABLE draws; CREATE TABLE draws (artifact VARCHAR, arm INTEGER AS (1 + 1))",
    "condition": "DROP TABLE draws; CREATE TABLE draws (artifact VARCHAR, arm INTEGER CHECK (arm > 0))",
    "obligation": "ALTER TABLE samples ALTER COLUMN position SET NOT NULL",
    "collation": "ALTER TABLE samples ALTER COLUMN sample_id TYPE VARCHAR COLLATE NOCASE",
    "table in another schema": "CREATE SCHEMA extra; CREATE TABLE extra.samples (a INTEGER)",
    "quoted name": 'CREATE TABLE "samples(artifact VARCHAR); --" (a INTEGER)',
}
"""Objects in a catalogue that curate never makes: description -> SQL. `{read}` reads a file outside the store."""
NAMED_ONLY = {
    "macro": "CREATE MACRO list_contains(a, b) AS true",
    "table macro": "CREATE MACRO range(a) AS TABLE {read}",
    "type": "CREATE TYPE kind AS ENUM ('a')",
    "schema": "CREATE SCHEMA extra",
}
"""Objects that matter only to a statement that names them."""


def of_catalogue(secret: Path) -> Iterator[Tampering]:
    """Yield changes of the catalogue; `secret` is a file outside the store, which the objects read."""
    for what, sql in (OBJECTS | NAMED_ONLY).items():
        statement = sql.format(read=f"SELECT a AS artifact, a AS fragment, a AS digest FROM read_csv('{secret}')")
        yield Tampering(f"catalogue: {what}", "catalog.duckdb", lambda root, sql=statement: _execute(root, sql))


def _execute(root: Path, sql: str) -> None:
    with duckdb.connect(str(root / "catalog.duckdb")) as connection:
        connection.execute(sql)


def _set(name: str, field: str, value: Any) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        content = json.loads((root / name).read_text(encoding="utf-8"))
        _write(root, name, json.dumps(content | {field: value}).encode())

    return apply


def _drop(name: str, field: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        content = json.loads((root / name).read_text(encoding="utf-8"))
        del content[field]
        _write(root, name, json.dumps(content).encode())

    return apply


def _write(root: Path, name: str, content: bytes) -> None:
    (root / name).write_bytes(content)
    if not name.endswith(MANIFEST_FILE):
        sign(_artifact(root, name))


def _artifact(root: Path, name: str) -> Path:
    return root.joinpath(*Path(name).parts[:3])


def _link(root: Path, name: str) -> None:
    """Move a file or folder out of the store, and leave a link to it."""
    outside = root.parent / "outside" / name
    outside.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(root / name, outside)
    (root / name).symlink_to(outside)


def _replace(root: Path, name: str, make: Callable[[Path], object]) -> None:
    (root / name).unlink()
    make(root / name)


def _move(root: Path, name: str, to: str) -> None:
    (root / to).parent.mkdir(exist_ok=True)
    (root / name).rename(root / to)
    folder = _artifact(root, name)
    record = folder / MANIFEST_FILE
    if record.exists():
        was, now = (each.split("/", 3)[3].replace("merged/", "facts/", 1) for each in (name, to))
        files = json.loads(record.read_text(encoding="utf-8"))["files"]
        files[now] = files.pop(was)
        record.write_text(json.dumps({"files": files, "sha256": _digest(files)}), encoding="utf-8")


def _column(root: Path, name: str, column: str, value: Any) -> None:
    table = pq.read_table(root / name)
    values = pa.array([value] * len(table))
    if column in table.column_names:
        table = table.set_column(table.column_names.index(column), column, values)
    else:
        table = table.append_column(column, values)
    pq.write_table(table, root / name)
    sign(_artifact(root, name))
