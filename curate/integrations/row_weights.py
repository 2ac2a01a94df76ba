"""Weights of rows in the loss, from the column `weight` of a Trainer's data or of a loop's batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..errors import DataError
from ..formats import WEIGHT, ReadOptions, Unusable, weight_of


class RowWeights:
    """Weights of the rows of training data, from its column `weight`.

    Args:
        data: training data, as the user gave it.
    """

    def __init__(self, data: Any) -> None:
        self.data = data if _has_weights(data) else None

    def of(self, rows: Sequence[int]) -> npt.NDArray[np.float64] | None:
        """Return the weights of rows, (n,); None if the data has none.

        Raises:
            DataError: a weight is no finite number from 0.
        """
        if self.data is None:
            return None
        return checked((self.data[row].get(WEIGHT) for row in rows), rows)


def _has_weights(data: Any) -> bool:
    """Return whether rows have weights. Of data whose rows are made on request, the first 100 are looked at."""
    if isinstance(data, datasets.Dataset):
        return WEIGHT in data.column_names
    looked = data if isinstance(data, (list, tuple)) else (data[row] for row in range(min(100, len(data))))
    return any(isinstance(row, Mapping) and WEIGHT in row for row in looked)


def weights_in(batch: Mapping[str, Any]) -> npt.NDArray[np.float64] | None:
    """Return the entry `weight` of a batch, (B,); None without one.

    Raises:
        DataError: a weight is no finite number from 0, or there is not one for each text.
    """
    given = batch.get(WEIGHT)
    if given is None:
        return None
    values = given.tolist() if isinstance(given, Tensor) else list(given)
    count = len(batch["input_ids"])
    if not isinstance(values, list) or len(values) != count:
        raise DataError(f"The entry 'weight' of the batch must have one number for each of its {count} texts.")
    return checked(values, range(count))


def checked(values: Any, rows: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return weights as an array; null is 1.

    Raises:
        DataError: one is no finite number from 0; the message has its row.
    """
    found, reading = [], ReadOptions()
    for row, value in zip(rows, values, strict=True):
        try:
            found.append(weight_of({WEIGHT: value}, WEIGHT, reading))
        except Unusable as reason:
            text = str(reason).partition(":")[0]
            raise DataError(f"Row {row}: {text}. Correct it, or rename or remove the column.") from None
    return np.array(found, np.float64)
