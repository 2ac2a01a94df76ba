"""Training data whose rows know their number, whatever a Trainer does to them; what the ledger calls them, and where a
pool has them.
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
from ..formats import Layout, Unusable, detect, to_sample
from ..store import Artifact

ROW = "curate_row"
"""The column, or key, of a row's number."""


class WithRowIds(Dataset[Any]):
    """A data set of mappings, each with its number."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.data[index], ROW: index}


def with_row_ids(data: Any) -> Any:
    """The same data with a number in each row; `ConfigError` where rows cannot be had by number."""
    if data is None:
        raise ConfigError("train_dataset is missing: there is nothing to choose from.")
    if isinstance(data, (datasets.IterableDataset, IterableDataset)) or not hasattr(data, "__len__"):
        raise ConfigError(
            "train_dataset is a stream, whose rows have no number for the ledger: give a data set with a length (of a "
            "datasets.IterableDataset, take as many rows as fit: Dataset.from_list(list(stream.take(100_000))))."
        )
    if isinstance(data, datasets.Dataset):
        return data.add_column(ROW, list(range(len(data))))
    if not isinstance(data[0], Mapping):
        raise DataError(f"train_dataset gives rows of type {type(data[0]).__name__}, not mappings with input_ids.")
    return WithRowIds(data)


def no_collate(rows: list[Any]) -> list[Any]:
    """A collator that leaves rows alone."""
    return rows


class SampleIds:
    """What the ledger calls the rows of some data: what `curate ingest` would, where they still hold a conversation.

    So a run's ledger can be joined with a pool of the same conversations. Rows of tokens alone are called by a hash of
    these.

    Args:
        data: as the user gave it.
    """

    def __init__(self, data: Any) -> None:
        self.data = data
        self.layout = _layout(data)

    def of(self, rows: Sequence[int], by_tokens: list[str]) -> list[str]:
        """Sample ids of rows; those that are made of their tokens where there is no better one."""
        if self.layout is None:
            return by_tokens
        return [self._name(row, spare) for row, spare in zip(rows, by_tokens, strict=True)]

    def _name(self, row: int, spare: str) -> str:
        assert self.layout is not None
        try:
            return to_sample(self.data[row], self.layout).sample_id
        except Unusable:
            return spare


class PoolPositions:
    """Where a pool first has a sample, by id: 40 bytes a row, and a binary search."""

    def __init__(self, pool: Artifact) -> None:
        self.pool = pool
        rows = pool.table(["sample_id", "position"])
        ids = np.array(rows["sample_id"].cast(pa.binary()).to_pylist())
        order = np.argsort(ids, kind="stable")
        self.ids, self.positions = ids[order], rows["position"].to_numpy()[order]

    def of(self, sample_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """(n,) positions; `DataError` where the pool has not got one."""
        wanted = np.array([sample_id.encode() for sample_id in sample_ids])
        at = np.searchsorted(self.ids, wanted).clip(max=len(self.ids) - 1)
        if len(lost := np.flatnonzero(self.ids[at] != wanted)):
            raise DataError(
                f"{len(lost)} of {len(wanted)} candidates are not in the pool '{self.pool.name}', the first of them "
                f"{sample_ids[lost[0]]}. Ingest the data that you train on and name that pool, or leave pool out."
            )
        found: npt.NDArray[np.int64] = self.positions[at]
        return found


def _layout(data: Any) -> Layout | None:
    """The format of conversations, as ingest tells it; None where there are none."""
    try:
        return detect([data[row] for row in range(min(100, len(data)))], {}, "train_dataset")
    except DataError:
        return None
