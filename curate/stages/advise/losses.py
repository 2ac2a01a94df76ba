"""Read held-out losses by row, and what runs have spent, from the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ...store import Artifact, Store
from ..compare.plan import ComparisonRun
from ..compare.trajectories import trajectory

Floats = npt.NDArray[np.float64]

LEAST_ROWS = 2
"""Rows below which there is no interval."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out losses of several models on the same rows.

    Attributes:
        losses: (models, rows) mean loss of each row over its target tokens, in nats.
        tokens: (rows,) target tokens of each row.
    """

    losses: Floats
    tokens: Floats

    def means(self) -> Floats:
        """Return (models,) the mean loss of each model over target tokens."""
        return np.asarray(self.losses @ self.tokens / self.tokens.sum(), np.float64)


def held_out(evaluations: Sequence[Artifact]) -> HeldOut:
    """Return the losses of evaluations on the rows that all of them measured.

    Raises:
        DataError: there are fewer than two such rows.
    """
    columns = ["sample_id", "metric", "loss", "target_tokens"]
    found = []
    for artifact in evaluations:
        rows = artifact.table(columns).to_pylist()
        found.append({row["sample_id"]: row for row in rows if row["metric"] == "loss" and row["target_tokens"]})
    shared = [sample_id for sample_id in found[0] if all(sample_id in rows for rows in found)]
    if len(shared) < LEAST_ROWS:
        raise DataError(
            f"Only {len(shared)} held-out rows could be measured in all of "
            f"{', '.join(each.name for each in evaluations)}, and a comparison needs {LEAST_ROWS}: look at the table "
            "rejects for the reasons, or name an --eval-pool with more rows."
        )
    losses = np.array([[rows[sample_id]["loss"] for sample_id in shared] for rows in found], np.float64)
    return HeldOut(losses, np.array([found[0][sample_id]["target_tokens"] for sample_id in shared], np.float64))


@dataclass(frozen=True)
class Spent:
    """Amounts that a run has spent: steps, samples and tokens trained on, seconds with scoring, operations."""

    steps: int
    samples: int
    tokens: float
    seconds: float
    flops: float | None

    def on(self, axis: str) -> float:
        """Return the amount on an axis: seconds, tokens or flops."""
        return float(getattr(self, axis) or 0.0)


def spent_by(store: Store, run: Artifact, weights: int | None) -> Spent:
    """Return what a run has spent.

    Args:
        store: the store of the run.
        run: the run.
        weights: number of weights of the model; None to leave out operations.
    """
    amounts = trajectory(store, ComparisonRun("", "", 0, run.name), run, weights).spent
    last = {name: float(values[-1]) for name, values in amounts.items()}
    return Spent(int(last["steps"]), int(last["samples"]), last["tokens"], last["seconds"], last.get("flops"))
