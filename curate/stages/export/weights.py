"""Weights of exported samples: those of their rows in the pool, and those of the selection, in one column.

Both kinds have the name `weight`. A row's weight multiplies its loss. The weight of a subset says how often a run on it
draws the sample. The weight in the ledger of a run is the factor of the sample's loss, and contains the row's weight.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...formats import WEIGHT
from ...runtime.markdown import code
from ...store.artifacts.parquet import metadata_of

Selection = Literal["run", "subset", "sql"]


@dataclass
class Weights:
    """Counts the weights of an export, and combines both kinds.

    Attributes:
        maker: what selected the samples.
        column: column of the pool's rows with their weights.
        rows: number of samples whose weight is not 1.
        combined: True if the selection's weights are in the column, too.
    """

    maker: Selection = "sql"
    column: str = WEIGHT
    rows: int = 0
    combined: bool = False

    def count(self, weights: Iterable[float]) -> None:
        """Count weights of samples."""
        self.rows += sum(weight != 1 for weight in weights)

    def combine(self, given: Any, own: float) -> Any:
        """Return the value of the column, from the selection's weight (or one for each answer) and the row's weight."""
        if isinstance(given, list):
            return [self.combine(each, own) for each in given]
        if self.maker == "subset":
            return own if given is None else given * own
        return own if given is None and self.maker == "run" else given

    def section(self, row_format: str) -> list[str]:
        """Return the section of the card on weights; none if all are 1."""
        if not self.rows:
            return []
        name = self.column if row_format == "original" else WEIGHT
        text = f"{self.rows} samples have a weight in the loss other than 1: 2 means the same as the row twice."
        return [f"## Weights\n\n{text} {self._holds().format(code(name))}"]

    def _holds(self) -> str:
        if not self.combined:
            return "The column {} holds it."
        if self.maker == "subset":
            return (
                "The column {} holds its product with the weight by which a run on the subset draws the sample: a "
                "trainer that multiplies losses by it sees on average what such a run sees."
            )
        if self.maker == "run":
            return (
                "The column {} holds the mean factor of the sample's loss in the steps that kept it, which contains "
                "the sample's weight; for a selector without weights, the sample's weight."
            )
        return "The column {} holds what the query returned, without the weights of the samples."


def weight_columns(path: Path) -> list[str]:
    """Return the column of a file of samples that has their weights; none for pools of older versions."""
    return [WEIGHT] if WEIGHT in metadata_of(path).schema.to_arrow_schema().names else []
