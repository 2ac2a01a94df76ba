"""Compute the losses of encoded texts with the scoring model: held-out samples, or the choices of a question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...numerics.losses import IGNORE
from ...signals import Loss, ScoreBudget, measure
from ..input_limits import InputLimits
from ..model.scoring_model import ScoringModel
from ..tokens.batch import collate
from ..tokens.encode import Encoded
from ..tokens.token_table import TokenTable

TEXTS_PER_BATCH = 512
"""Number of texts of similar length that are padded together. The budget then cuts them into micro-batches."""


def losses_of(
    scoring_model: ScoringModel,
    rows: TokenTable | Sequence[Mapping[str, Any]],
    budget: ScoreBudget,
    *,
    advance: Callable[[int], object],
) -> npt.NDArray[np.float64]:
    """Return the mean cross-entropy of every text over its own targets in nats: (n,) float64, in the given order.

    A loss that is not finite is NaN. Which texts share a micro-batch changes only the last digits of a float32.

    Args:
        scoring_model: the model that computes the losses.
        rows: `input_ids` and `labels` of each text, 1-d int64.
        budget: size of a micro-batch; it is halved when memory runs out.
        advance: called with the number of texts that a finished batch has measured.

    Raises:
        ModelError: the model has no embedding for a token or a position.
    """
    lengths = [len(rows[row]["input_ids"]) for row in range(len(rows))]
    largest = max((int(rows[row]["input_ids"].max(initial=-1)) for row in range(len(rows))), default=-1)
    InputLimits.of(scoring_model.model).require(largest, max(lengths, default=0), "The evaluation")
    order = np.argsort([-length for length in lengths], kind="stable")
    losses = np.full(len(rows), np.nan)
    for start in range(0, len(order), TEXTS_PER_BATCH):
        part = order[start : start + TEXTS_PER_BATCH]
        batch = collate([rows[row] for row in part], pad_token_id=0)
        with scoring_model.eval_mode():
            hidden, shared = scoring_model.hidden, scoring_model.shares
            values = measure(hidden, scoring_model.head, batch, {"loss": Loss()}, budget, shared=shared)["loss"]
        losses[part] = values.double().cpu().numpy()
        advance(len(part))
    return np.where(np.isfinite(losses), losses, np.nan)


def row_of(encoded: Encoded) -> dict[str, npt.NDArray[np.int64]]:
    """Return an encoded text in the form that `losses_of` and `collate` expect."""
    ids = encoded.input_ids.astype(np.int64)
    return {"input_ids": ids, "labels": np.where(encoded.target, ids, IGNORE)}


def last_turn(encoded: Encoded) -> Encoded:
    """Return the same text with the loss only on the last span of target tokens: the last turn of the assistant."""
    targets = np.flatnonzero(encoded.target)
    if not len(targets):
        return encoded
    others = np.flatnonzero(~encoded.target[: targets[-1]])
    target = encoded.target.copy()
    target[: int(others[-1]) + 1 if len(others) else 0] = False
    return Encoded(encoded.input_ids, target, encoded.length)
