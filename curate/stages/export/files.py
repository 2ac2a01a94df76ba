"""Write rows as a dataset on disk, with one batch of rows in memory at a time.

Arrow and Parquet need the type of every column before the first row, so rows are read twice: once to find the types,
and once to write them. JSON Lines needs no types, so its rows are read once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...errors import DataError
from ...formats.arrow import type_of
from ...runtime.typed_json import readable
from ...store.artifacts.files import digest_path, read_json, write_json
from ...store.artifacts.safe_files import create_file, make_folder, rename
from ...store.rows.out_of_core import write_batches

Rows = Iterable[Sequence[dict[str, Any]]]
"""Batches of rows that can be iterated several times."""

FILE_BYTES = 500_000_000
"""Bytes of Arrow data in each file of a dataset in the format `hf`."""


def write_rows(rows: Rows, folder: Path, file_format: str, types: Mapping[str, str] | None = None) -> None:
    """Write rows to a folder.

    Args:
        rows: batches of rows, column -> value.
        folder: the folder, created if it does not exist.
        file_format: `hf` (for `datasets.load_from_disk`), `jsonl` or `parquet`.
        types: column -> Arrow type that it had where it was read, for bytes, decimals and times.

    Raises:
        DataError: a column holds values of several types, or too large ones; only jsonl can store these.
    """
    make_folder(folder)
    if file_format == "jsonl":
        with create_file(folder / "train.jsonl") as file:
            for batch in rows:
                lines = (json.dumps(row, ensure_ascii=False, default=readable) + "\n" for row in batch)
                file.writelines(line.encode("utf-8") for line in lines)
        return
    features = _features(rows, file_format, types or {})
    try:
        tables = (_table(batch, features) for batch in rows)
        if file_format == "parquet":
            write_batches(folder / "train.parquet", features.arrow_schema, tables)
        else:
            _save_to_disk(tables, features, folder)
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(f"These rows cannot be written as {file_format}: {error}. Give --as jsonl.") from None


def _table(rows: Sequence[dict[str, Any]], features: Any) -> pa.Table:
    import datasets

    columns = {column: [row.get(column) for row in rows] for column in features}
    table = datasets.Dataset.from_dict(columns, features=features).data.table
    for index, field in enumerate(table.schema):
        if field.type == pa.timestamp("ns", getattr(field.type, "tz", None)):  # `datasets` cuts to microseconds
            table = table.set_column(index, field, pa.array(columns[field.name], field.type))
    return table


def _save_to_disk(tables: Iterator[pa.Table], features: Any, folder: Path) -> None:
    """Write the files of `Dataset.save_to_disk` without a whole dataset in memory.

    `datasets` saves an empty dataset; then the Arrow files are written, and their names entered into its `state.json`.
    """
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
        rename(part, folder / name)
    # datasets caches results computed from a dataset under this fingerprint, so it must depend on the content
    fingerprint = digest_path(folder).rpartition(":")[2][:16]
    state = read_json(folder / "state.json") | {"_data_files": [{"filename": name} for name in names]}
    write_json(folder / "state.json", state | {"_fingerprint": fingerprint})


# Types


class _Type:
    """The Arrow type of a column's values, found batch by batch.

    Args:
        name: name of the column, for errors.
        file_format: format of the files, for errors.
    """

    def __init__(self, name: str, file_format: str) -> None:
        self.name, self.file_format = name, file_format
        self.type = pa.null()

    def add(self, values: Sequence[Any]) -> None:
        """Widen the type so that it holds these values, too.

        Raises:
            DataError: there is no such type.
        """
        try:
            parts = [pa.schema([("", self.type)]), pa.schema([("", pa.array(values).type)])]
            self.type = pa.unify_schemas(parts, promote_options="permissive").field(0).type
        except (pa.ArrowException, OverflowError):
            raise self.mixed_types() from None

    def mixed_types(self) -> DataError:
        """Return the error for values that have no common type."""
        return DataError(
            f"The column '{self.name}' holds values of more than one type, or too large ones, which {self.file_format} "
            "cannot store. Give --as jsonl, which can."
        )

    def feature(self) -> Any:
        """Return the type as a feature of `datasets`."""
        from datasets import Value
        from datasets.features.features import generate_from_arrow_type

        return Value("string") if pa.types.is_null(self.type) else generate_from_arrow_type(self.type)


def _alike(one: Any, other: Any) -> bool:
    """Return whether two Arrow types hold values of one kind: bytes, decimals, time stamps, ..."""
    kinds = (pa.types.is_decimal, pa.types.is_timestamp, pa.types.is_date, pa.types.is_time, pa.types.is_duration)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    if any(kind(one) for kind in binary):
        return any(kind(other) for kind in binary)
    return any(kind(one) and kind(other) for kind in kinds)


class _Column(_Type):
    """The type of a column, found batch by batch.

    In a column of lists of mappings (messages), each key has a type of its own. A key whose values are all mappings or
    lists (tool calls, schemas) is stored as JSON, because their shape differs from one to the next.
    """

    def __init__(self, name: str, file_format: str) -> None:
        super().__init__(name, file_format)
        self.keys: dict[str, _Type] = {}
        self.nested: set[str] = set()
        self.has_plain = self.has_mappings = False

    def add(self, values: Sequence[Any]) -> None:
        """Widen the type so that it holds these values, too.

        Raises:
            DataError: there is no such type.
        """
        items = [item for value in values if isinstance(value, list) for item in value]
        if items and all(isinstance(item, dict) for item in items):
            self.has_mappings = True
            self.has_plain |= any(value is not None and not isinstance(value, list) for value in values)
            self._add_items(items)
        elif any(value not in (None, []) for value in values):
            self.has_plain = True
            super().add(values)
        elif any(value == [] for value in values):
            super().add(values)
        if self.has_mappings and self.has_plain:
            raise self.mixed_types()

    def _add_items(self, items: Sequence[dict[str, Any]]) -> None:
        for key in dict.fromkeys(key for item in items for key in item):
            inner = self.keys.setdefault(key, _Type(f"{self.name}.{key}", self.file_format))
            values = [item[key] for item in items if item.get(key) is not None]
            nested = [isinstance(value, (dict, list)) for value in values]
            if values and all(nested):
                self.nested.add(key)
            elif values:
                inner.add(values)
            if key in self.nested and not pa.types.is_null(inner.type):
                raise inner.mixed_types()

    def feature_like(self, original: str | None) -> Any:
        """Return the type as a feature: the one that the column had originally, if its values are of this kind."""
        from datasets.features.features import generate_from_arrow_type

        kind = type_of(original) if isinstance(original, str) else None
        same = kind is not None and not self.has_mappings and (pa.types.is_null(self.type) or _alike(kind, self.type))
        return generate_from_arrow_type(kind) if same else self.feature()

    def feature(self) -> Any:
        """Return the type as a feature of `datasets`."""
        from datasets import Json, List

        if not self.has_mappings:
            return super().feature()
        return List({key: Json() if key in self.nested else inner.feature() for key, inner in self.keys.items()})


def _features(rows: Rows, file_format: str, types: Mapping[str, str]) -> Any:
    """Return the `datasets.Features` of all rows."""
    import datasets

    columns: dict[str, _Column] = {}
    for batch in rows:
        for name in dict.fromkeys(key for row in batch for key in row):
            column = columns.setdefault(name, _Column(name, file_format))
            column.add([row.get(name) for row in batch])
    return datasets.Features({name: column.feature_like(types.get(name)) for name, column in columns.items()})
