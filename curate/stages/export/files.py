"""Rows as a data set on disk, some rows in memory at a time: they are read twice, for their types and to be written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...errors import DataError
from ...store.artifacts.files import digest_path, read_json, write_json
from ...store.rows.out_of_core import write_batches

Rows = Iterable[Sequence[dict[str, Any]]]
"""Batches of rows, to be gone through as often as one likes."""

FILE_BYTES = 500_000_000
"""Of Arrow data in a file of a `hf` data set."""


def write_rows(rows: Rows, folder: Path, kind: str) -> None:
    """Write rows as `hf` (for `datasets.load_from_disk`), `jsonl` or `parquet`.

    Raises:
        DataError: a column holds values of several types, which only jsonl can.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "jsonl":
        with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
            for batch in rows:
                file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in batch)
        return
    features = _features(rows, kind)
    try:
        tables = (_table(batch, features) for batch in rows)
        if kind == "parquet":
            write_batches(folder / "train.parquet", features.arrow_schema, tables)
        else:
            _save(tables, features, folder)
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(f"These rows cannot be written as {kind}: {error}. Give --as jsonl.") from None


def _table(rows: Sequence[dict[str, Any]], features: Any) -> pa.Table:
    import datasets

    columns = {column: [row.get(column) for row in rows] for column in features}
    return datasets.Dataset.from_dict(columns, features=features).data.table


def _save(tables: Iterator[pa.Table], features: Any, folder: Path) -> None:
    """As `Dataset.save_to_disk`: its own files about an empty data set, which are then told what has been written."""
    import datasets

    datasets.disable_progress_bars()
    try:
        datasets.Dataset.from_dict({column: [] for column in features}, features=features).save_to_disk(str(folder))
    finally:
        datasets.enable_progress_bars()
    parts: list[Path] = []
    table = next(tables, None)
    while table is not None:
        parts.append(folder / f".part-{len(parts)}.arrow")
        with pa.OSFile(str(parts[-1]), "wb") as sink, pa.ipc.new_stream(sink, features.arrow_schema) as writer:
            size = 0
            while table is not None and size < FILE_BYTES:
                writer.write_table(table)
                size += table.nbytes
                table = next(tables, None)
    names = [f"data-{number:05d}-of-{len(parts):05d}.arrow" for number in range(len(parts))]
    for part, name in zip(parts, names, strict=True):
        part.replace(folder / name)
    # datasets caches what it makes of a data set under this fingerprint
    mark = digest_path(folder).rpartition(":")[2][:16]
    state = read_json(folder / "state.json") | {"_data_files": [{"filename": name} for name in names]}
    write_json(folder / "state.json", state | {"_fingerprint": mark})


# Types


class _Type:
    """What type some values are of, seen in parts."""

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind = name, kind
        self.type = pa.null()

    def see(self, values: Sequence[Any]) -> None:
        """Widen the type so that it holds these values, too."""
        try:
            parts = [pa.schema([("", self.type)]), pa.schema([("", pa.array(values).type)])]
            self.type = pa.unify_schemas(parts, promote_options="permissive").field(0).type
        except (pa.ArrowException, OverflowError):
            raise self.mixed() from None

    def mixed(self) -> DataError:
        """The error of values that are of no one type."""
        return DataError(
            f"The column '{self.name}' holds values of more than one type, or too large, which {self.kind} cannot. "
            "Give --as jsonl, which can."
        )

    def feature(self) -> Any:
        """The type as a feature of `datasets`."""
        from datasets import Value
        from datasets.features.features import generate_from_arrow_type

        return Value("string") if pa.types.is_null(self.type) else generate_from_arrow_type(self.type)


class _Column(_Type):
    """The type of a column. In lists of mappings (messages), what differs in shape from one to the next is JSON.

    That is so of a key all of whose values are mappings or lists: tool calls, schemas.
    """

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(name, kind)
        self.keys: dict[str, _Type] = {}
        self.nested: set[str] = set()
        self.plain = self.listed = False

    def see(self, values: Sequence[Any]) -> None:
        """Widen the type so that it holds these values, too."""
        items = [item for value in values if isinstance(value, list) for item in value]
        if items and all(isinstance(item, dict) for item in items):
            self.listed = True
            self.plain |= any(value is not None and not isinstance(value, list) for value in values)
            self._see_items(items)
        elif any(value not in (None, []) for value in values):
            self.plain = True
            super().see(values)
        elif any(value == [] for value in values):
            super().see(values)
        if self.listed and self.plain:
            raise self.mixed()

    def _see_items(self, items: Sequence[dict[str, Any]]) -> None:
        for key in dict.fromkeys(key for item in items for key in item):
            inner = self.keys.setdefault(key, _Type(f"{self.name}.{key}", self.kind))
            found = [item[key] for item in items if item.get(key) is not None]
            nested = [isinstance(value, (dict, list)) for value in found]
            if found and all(nested):
                self.nested.add(key)
            elif found:
                inner.see(found)
            if key in self.nested and not pa.types.is_null(inner.type):
                raise inner.mixed()

    def feature(self) -> Any:
        """The type as a feature of `datasets`."""
        from datasets import Json, List

        if not self.listed:
            return super().feature()
        return List({key: Json() if key in self.nested else inner.feature() for key, inner in self.keys.items()})


def _features(rows: Rows, kind: str) -> Any:
    import datasets

    columns: dict[str, _Column] = {}
    for batch in rows:
        for name in dict.fromkeys(key for row in batch for key in row):
            column = columns.setdefault(name, _Column(name, kind))
            column.see([row.get(name) for row in batch])
    return datasets.Features({name: column.feature() for name, column in columns.items()})
