"""Rows out of what Arrow reads: Parquet files, `save_to_disk` folders and Hub data sets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from ..errors import DataError, did_you_mean
from .places import File, shown
from .rows import Row

BATCH = 1000


def parquet_rows(file: File) -> Iterator[Row]:
    """Every row of a Parquet file, a few batches and a row group in memory."""
    import pyarrow.dataset

    data = pyarrow.dataset.dataset(file.path, format="parquet", filesystem=file.system)
    batches = data.to_batches(batch_size=BATCH, batch_readahead=2, fragment_readahead=1)
    return arrow_rows(file.name, batches)


def saved_rows(place: str, split: str) -> Iterator[Row]:
    """Every row of a `save_to_disk` folder, or of one split of it; one behind a URL is copied to this machine first."""
    import datasets

    path = shown(place)
    try:
        data = datasets.load_from_disk(place)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"The data set in {path} cannot be loaded: {said.rstrip('.')}.") from None
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise DataError(f"{path} has no split '{split}'.{did_you_mean(split, map(str, data))} Give --split.")
        data = data[split]
    return arrow_rows(path, data.with_format("arrow").iter(BATCH))


def hub_rows(repo: str, split: str, subset: str | None, revision: str | None) -> Iterator[Row]:
    """Every row of a split of a Hub data set."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        data = datasets.load_dataset(repo, subset, split=split, revision=revision)
    except (HfHubHTTPError, datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"The Hub data set '{repo}' cannot be loaded: {said.rstrip('.')}. Check the id, --split and --subset."
        ) from None
    return arrow_rows(repo, data.with_format("arrow").iter(BATCH))


def arrow_rows(file: str, batches: Iterable[Any]) -> Iterator[Row]:
    """Arrow batches as rows. Nulls inside structs go: Arrow gives every message the keys of all the others."""
    number = 0
    for batch in batches:
        nested = {field.name: field.type for field in batch.schema if pa.types.is_nested(field.type) or _json_in(field)}
        for values in batch.to_pylist():
            number += 1
            yield Row(file, number, values | {name: _plain(values[name], kind) for name, kind in nested.items()})


def _json_in(field: Any) -> bool:
    return isinstance(field.type, pa.JsonType)


def _plain(value: Any, kind: Any) -> Any:
    """A nested Arrow value as JSON-like Python, JSON text decoded where the type says that it is JSON."""
    if value is None:
        return None
    if isinstance(kind, pa.JsonType):
        return json.loads(value)
    if pa.types.is_struct(kind):
        inner = {field.name: _plain(value.get(field.name), field.type) for field in kind}
        return {key: item for key, item in inner.items() if item is not None}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_plain(item, kind.value_type) for item in value]
    return value
