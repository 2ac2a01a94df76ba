"""Row numbers of training data that survive a Trainer, and the sample ids and pool positions of the rows.

A Trainer shuffles rows and drops columns, so each row carries its number. The ledger needs the sample id of the row,
and its position if the run names a pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch.utils.data import Dataset, IterableDataset

from ..errors import ConfigError, DataError
from ..formats import FileLayouts, ReadOptions, Unusable, to_sample
from ..store import Artifact

ROW = "curate_row"
"""Column (or key) that holds the number of a row."""


class WithRowIds(Dataset[Any]):
    """A data set of mappings that adds its number to each row.

    Args:
        data: data set with a length, whose rows are mappings.
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.data[index], ROW: index}


def with_row_ids(data: Any) -> Any:
    """Return the same data with a number in each row.

    Raises:
        ConfigError: there is no data, or it is a stream.
        DataError: the rows are not mappings.
    """
    if data is None:
        raise ConfigError("train_dataset is missing: there are no candidates to select from.")
    if isinstance(data, (datasets.IterableDataset, IterableDataset)) or not hasattr(data, "__len__"):
        raise ConfigError(
            "train_dataset is a stream, and its rows have no number for the ledger. Give a data set with a length. "
            "From a datasets.IterableDataset take as many rows as fit: Dataset.from_list(list(stream.take(100_000)))."
        )
    if isinstance(data, datasets.Dataset):
        return data.add_column(ROW, list(range(len(data))))
    if not isinstance(data[0], Mapping):
        raise DataError(f"train_dataset has rows of type {type(data[0]).__name__}, not mappings with input_ids.")
    return WithRowIds(data)


def no_collate(rows: list[Any]) -> list[Any]:
    """Return the rows unchanged: a collator that does not collate."""
    return rows


class SampleIds:
    """Sample ids of the rows of training data.

    A row that still holds a conversation has the id that `curate ingest` would give, so the ledger of the run can be
    joined with a pool of the same conversations. The id of a row with tokens alone is a hash of the tokens.

    Args:
        data: training data, as the user gave it.
    """

    def __init__(self, data: Any) -> None:
        self.data = data
        self.layouts = _layouts(data)

    def of(self, rows: Sequence[int], by_tokens: list[str]) -> list[str]:
        """Return the sample ids of rows.

        Args:
            rows: numbers of the rows.
            by_tokens: ids from the tokens of the rows, used for rows without a conversation.
        """
        if self.layouts is None:
            return by_tokens
        return [self._id(row, fallback) for row, fallback in zip(rows, by_tokens, strict=True)]

    def _id(self, row: int, fallback: str) -> str:
        assert self.layouts is not None
        values = self.data[row]
        try:
            return to_sample(values, self.layouts.of(values)).sample_id
        except Unusable:
            return fallback


class PoolPositions:
    """First position of each sample in a pool, by sample id. Cost: 40 bytes per row, and a binary search per sample.

    Args:
        pool: artifact of the pool.
    """

    def __init__(self, pool: Artifact) -> None:
        self.pool = pool
        rows = pool.table(["sample_id", "position"])
        ids = np.array(rows["sample_id"].cast(pa.binary()).to_pylist())
        order = np.argsort(ids, kind="stable")
        self.ids, self.positions = ids[order], rows["position"].to_numpy()[order]

    def of(self, sample_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the (n,) positions of samples; raise `DataError` if one is not in the pool."""
        ids = np.array([sample_id.encode() for sample_id in sample_ids])
        index = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        if len(missing := np.flatnonzero(self.ids[index] != ids)):
            raise DataError(
                f"{len(missing)} of {len(ids)} candidates are not in the pool '{self.pool.name}', the first of them "
                f"{sample_ids[missing[0]]}. Ingest the data that you train on and name that pool, or omit pool."
            )
        positions: npt.NDArray[np.int64] = self.positions[index]
        return positions


def _layouts(data: Any) -> FileLayouts | None:
    """Return the layouts of the conversations as `curate ingest` does; None if the rows hold no conversations."""
    try:
        return FileLayouts([data[row] for row in range(min(100, len(data)))], {}, "train_dataset", ReadOptions())
    except DataError:
        return None
