"""Read rows from Arrow data: Parquet files, `save_to_disk` folders and Hub datasets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from ..errors import DataError, did_you_mean
from ..runtime.redaction import redacted
from .locations import File, shown
from .reading import Row
from .strict_json import decode

BATCH = 1000


def parquet_rows(file: File) -> Iterator[Row]:
    """Yield every row of a Parquet file, with a few batches and one row group in memory."""
    import pyarrow.dataset

    data = pyarrow.dataset.dataset(file.path, format="parquet", filesystem=file.system)
    batches = data.to_batches(batch_size=BATCH, batch_readahead=2, fragment_readahead=1)
    return arrow_rows(file.name, batches)


def saved_rows(location: str, split: str) -> Iterator[Row]:
    """Return the rows of a `save_to_disk` folder, or of one split of it. A folder behind a URL is downloaded first.

    Raises:
        DataError: the dataset cannot be loaded, is damaged, or has no such split.
    """
    import datasets

    path = shown(location)
    try:
        data = datasets.load_from_disk(location)
    except Exception as error:  # `datasets` does not check its JSON files, so they may raise anything
        reason = redacted(" ".join(str(error).split())) or type(error).__name__
        raise DataError(f"The dataset in {path} cannot be loaded: {reason.rstrip('.')}.") from None
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise DataError(f"{path} has no split '{split}'.{did_you_mean(split, map(str, data))} Give --split.")
        data = data[split]
    return arrow_rows(path, _validated(path, data.with_format("arrow").iter(BATCH)))


def _validated(path: str, tables: Iterable[Any]) -> Iterator[Any]:
    """Yield the tables, each validated first (~1 s per GB).

    Without it, Arrow follows the offsets of a damaged file to any address in memory, and the process crashes. Text that
    is not UTF-8 passes, because its row can be rejected alone later.
    """
    for table in tables:
        for name, column in zip(table.column_names, table.columns, strict=True):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid as error:
                if "UTF8" not in str(error) or pa.types.is_nested(column.type):
                    raise DataError(f"The dataset in {path} is damaged (column {name}): copy it again.") from None
        yield table


def hub_rows(repo: str, split: str, subset: str | None, revision: str | None) -> Iterator[Row]:
    """Return the rows of a split of a Hub dataset.

    Raises:
        DataError: the dataset cannot be loaded.
    """
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        data = datasets.load_dataset(repo, subset, split=split, revision=revision)
    except (HfHubHTTPError, datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"The Hub dataset '{repo}' cannot be loaded: {reason.rstrip('.')}. Check the id, --split and --subset."
        ) from None
    return arrow_rows(repo, data.with_format("arrow").iter(BATCH))


def arrow_rows(file: str, batches: Iterable[Any]) -> Iterator[Row]:
    """Yield Arrow batches as rows, without nulls in structs: Arrow gives every message the keys of all others."""
    number = 0
    for batch in batches:
        nested = {field.name: field.type for field in batch.schema if pa.types.is_nested(field.type) or _json_in(field)}
        types = {field.name: str(field.type) for field in batch.schema if _not_json(field.type)} or None
        for values in _values(batch):
            number += 1
            if isinstance(values, str):
                yield Row(file, number, None, values)
                continue
            try:
                if nested:
                    values |= {name: _plain(values[name], kind) for name, kind in nested.items()}
                yield Row(file, number, values, types=types)
            except (ValueError, RecursionError):
                yield Row(file, number, None, "not JSON in a column that must be")


def _values(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Yield each row of a batch, or the reason why Python cannot hold it (text is not UTF-8, the year 200000)."""
    try:
        yield from batch.to_pylist()
        return
    except (ValueError, OverflowError, KeyError, pa.ArrowException):
        rows = (batch.slice(index, 1) for index in range(batch.num_rows))
    for row in rows:
        try:
            (values,) = row.to_pylist()
            yield values
        except UnicodeDecodeError:
            yield "not UTF-8"
        except (ValueError, OverflowError, KeyError, pa.ArrowException):
            yield "a value out of range"


def _not_json(kind: Any) -> bool:
    """Return whether JSON has no type for the values of an Arrow type: bytes, decimals, dates and times."""
    types = pa.types
    binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return bool(binary or types.is_decimal(kind) or types.is_temporal(kind))


def type_of(name: str) -> Any:
    """Return the Arrow type of the text that a `Row` has for it, or None if the text is none."""
    found = TYPE.fullmatch(name)
    if found is None:
        return None
    kind, *options = found[1], *(option.strip() for option in (found[2] or "").split(",") if option.strip())
    try:
        if kind.startswith("decimal"):
            return getattr(pa, kind)(*map(int, options))
        if kind == "fixed_size_binary":
            return pa.binary(int(options[0]))
        if kind == "timestamp":
            return pa.timestamp(options[0], tz=options[1].removeprefix("tz=") if len(options) > 1 else None)
        if kind == "duration":
            return pa.duration(options[0])
        return getattr(pa, {"date32": "date32", "date64": "date64"}.get(kind, kind))(
            *options[: kind.startswith("time")]
        )
    except (TypeError, ValueError, IndexError, pa.ArrowException):
        return None


TYPE = re.compile(
    r"(binary|large_binary|fixed_size_binary|decimal\d+|timestamp|duration|date32|date64|time32|time64)"
    r"(?:[\[(]([\w ,=+:/-]*)[\])])?"
)


def _json_in(field: Any) -> bool:
    return isinstance(field.type, pa.JsonType)


def _plain(value: Any, kind: Any) -> Any:
    """Return a nested Arrow value as JSON-like Python; text is decoded if its Arrow type is JSON."""
    if value is None:
        return None
    if isinstance(kind, pa.JsonType):
        return decode(value)
    if pa.types.is_struct(kind):
        inner = {field.name: _plain(value.get(field.name), field.type) for field in kind}
        return {key: item for key, item in inner.items() if item is not None}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_plain(item, kind.value_type) for item in value]
    return value
