"""Losses of encoded texts through the scoring path, a whole list at a time: of a held-out pool, of possible answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...numerics.losses import IGNORE
from ...signals import Loss, ScoreBudget, measure
from ..model.scoring_model import ScoringModel
from ..tokens.batch import collate
from ..tokens.encode import Encoded

AT_ONCE = 512
"""Texts that are padded together before the budget cuts them into micro-batches; they are neighbours in length."""


def losses_of(
    scoring_model: ScoringModel,
    rows: Sequence[Mapping[str, Any]],
    budget: ScoreBudget,
    *,
    advance: Callable[[int], object],
) -> npt.NDArray[np.float64]:
    """Mean cross-entropy of every text over its own targets, in nats: (n,), in the order given; NaN where not finite.

    Which texts share a micro-batch decides the last digits of a float32, and nothing else.

    Args:
        scoring_model: the model.
        rows: `input_ids` and `labels` of each text, 1-d int64.
        budget: how many at once; halved where memory runs out.
        advance: told how many texts are done.
    """
    order = np.argsort([-len(row["input_ids"]) for row in rows], kind="stable")
    found = np.full(len(rows), np.nan)
    for start in range(0, len(order), AT_ONCE):
        part = order[start : start + AT_ONCE]
        batch = collate([rows[row] for row in part], pad_token_id=0)
        with scoring_model.eval_mode():
            values = measure(scoring_model.hidden, scoring_model.head, batch, {"loss": Loss()}, budget)["loss"]
        found[part] = values.double().cpu().numpy()
        advance(len(part))
    return np.where(np.isfinite(found), found, np.nan)


def row_of(encoded: Encoded) -> dict[str, npt.NDArray[np.int64]]:
    """An encoded text as `losses_of` and `collate` take it."""
    ids = encoded.input_ids.astype(np.int64)
    return {"input_ids": ids, "labels": np.where(encoded.target, ids, IGNORE)}


def last_turn(encoded: Encoded) -> Encoded:
    """The same with the loss on the last stretch of target tokens only: what the assistant said last."""
    targets = np.flatnonzero(encoded.target)
    if not len(targets):
        return encoded
    others = np.flatnonzero(~encoded.target[: targets[-1]])
    target = encoded.target.copy()
    target[: int(others[-1]) + 1 if len(others) else 0] = False
    return Encoded(encoded.input_ids, target, encoded.length)
