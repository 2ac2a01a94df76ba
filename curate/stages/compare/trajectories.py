"""What the runs of a comparison came to: held-out loss along the way, and what had been spent by then.

All of it is asked of the store: the ledger has samples and tokens by step, the metrics have losses and seconds. Seconds
are known of whole runs only, by part; they are shared out evenly over the steps of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ...log import LOGGER
from ...numerics.curves import value_at
from ...numerics.flops import token_cost
from ...store import Artifact, Store
from .config import Axis, CompareConfig
from .plan import ComparisonRun

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

STEPS = """
SELECT step, count(*) FILTER (kept) AS samples, coalesce(sum(tokens) FILTER (kept), 0)::DOUBLE AS tokens,
       coalesce(sum(target_tokens) FILTER (kept), 0)::DOUBLE AS target_tokens, sum(tokens)::DOUBLE AS seen
FROM ledger WHERE run = $run GROUP BY step ORDER BY step
"""

METRICS = """
SELECT step, metric, arg_max(value, step) AS value FROM metrics
WHERE run = $run AND (metric = 'eval_loss' OR metric LIKE 'seconds_%') GROUP BY step, metric ORDER BY step
"""

SHARES = """
WITH found AS (
    SELECT s.sample_id, s.metadata->>'noise' AS planted,
           (s.metadata->>'noise') LIKE '%duplicate' OR coalesce(s.metadata->>'duplicate_of', '') <> '' AS duplicate,
           l.times
    FROM (
        SELECT position, count(*) AS times FROM ledger
        WHERE kept AND run = $run AND step <= $until GROUP BY position
    ) l
    JOIN samples s ON s.pool = $pool AND s.position = l.position
)
SELECT 1 - count(DISTINCT sample_id) / sum(times) AS copies,
       sum(duplicate::INT * times) FILTER (planted IS NOT NULL) / sum(times) FILTER (planted IS NOT NULL) AS duplicates,
       sum((planted <> '' AND NOT duplicate)::INT * times) / sum(times) FILTER (planted IS NOT NULL) AS noise
FROM found
"""

POOL_SHARES = """
WITH found AS (
    SELECT sample_id, metadata->>'noise' AS planted,
           (metadata->>'noise') LIKE '%duplicate' OR coalesce(metadata->>'duplicate_of', '') <> '' AS duplicate
    FROM samples WHERE pool = $pool
)
SELECT 1 - count(DISTINCT sample_id) / count(*) AS copies,
       avg(duplicate::INT) FILTER (planted IS NOT NULL) AS duplicates,
       avg((planted <> '' AND NOT duplicate)::INT) AS noise
FROM found
"""

APART = ("seconds_data", "seconds_ledger")
"""Seconds that are neither training nor scoring."""

PASSES = ("seconds_training", "seconds_scoring_forward", "seconds_candidate_gradients", "seconds_target_gradient")
"""Seconds of the model's own passes: the least that a way of choosing can take."""


@dataclass(frozen=True)
class Trajectory:
    """A run along its way. Arrays are (steps + 1,), of what was spent after so many steps, from 0.

    Attributes:
        cell: which run.
        fingerprint: of its artifact.
        losses: (e,) held-out; at: (e,) after which step each was measured.
        spent: samples, tokens, target_tokens, steps, seconds, flops; without flops where weights could not be counted.
        over_ideal: seconds of everything over those of the model's passes; None where they were not told.
    """

    cell: ComparisonRun
    fingerprint: str
    at: list[int]
    losses: list[float]
    spent: dict[str, Floats]
    over_ideal: float | None

    def where(self, axis: Axis) -> list[float]:
        """What had been spent when each loss was measured."""
        return [float(self.spent[axis][step]) for step in self.at]

    def end(self, axis: Axis) -> float:
        """What had been spent at the last measurement; 0 where there is none."""
        return self.where(axis)[-1] if self.at else 0.0

    def loss_at(self, axis: Axis, budget: float) -> float | None:
        """Held-out loss when so much was spent, on a line between measurements; None outside of them."""
        return value_at(self.where(axis), self.losses, budget)

    def spent_at(self, axis: Axis, budget: float) -> dict[str, float]:
        """Everything that was spent when so much of one was."""
        import numpy as np

        return {name: float(np.interp(budget, self.spent[axis], values)) for name, values in self.spent.items()}


def weights_of(config: CompareConfig, place: str) -> int | None:
    """Weights of the model; None, and a warning, where they cannot be counted and flops are not what is made equal."""
    from ...lm.model.parameter_count import count_weights

    try:
        return count_weights(place)
    except ModelError as error:
        if config.at == "flops":
            raise
        LOGGER.warning(f"{error}. Operations and overheads are left out.")
        return None


def trajectory(store: Store, cell: ComparisonRun, run: Artifact, weights: int | None) -> Trajectory:
    """What a run came to, step by step."""
    import numpy as np

    label = {"run": store.display_names()[run.fingerprint]}
    steps = store.query(STEPS, label).to_pydict()
    metrics = store.query(METRICS, label).to_pylist()
    evaluations = [(row["step"], row["value"]) for row in metrics if row["metric"] == "eval_loss"]
    seconds = {row["metric"]: row["value"] for row in metrics if row["metric"] != "eval_loss"}
    count = int(max(steps["step"], default=0))
    spent: dict[str, Floats] = {"steps": np.arange(count + 1, dtype=np.float64)}
    for name in ("samples", "tokens", "target_tokens", "seen"):
        each = np.zeros(count + 1)
        each[steps["step"]] = steps[name]
        spent[name] = np.cumsum(each)
    total = sum(value for part, value in seconds.items() if part not in APART)
    spent["seconds"] = np.linspace(0.0, total, count + 1)
    seen = spent.pop("seen")
    if weights is not None:
        spent["flops"] = _flops(run, weights, spent["tokens"], seen, set(seconds))
    at = [step for step, _ in evaluations if step <= count]
    losses = [value for step, value in evaluations if step <= count]
    passes = sum(seconds.get(part, 0.0) for part in PASSES)
    return Trajectory(cell, run.fingerprint, at, losses, spent, sum(seconds.values()) / passes if passes else None)


def _flops(run: Artifact, weights: int, kept: Floats, seen: Floats, parts: set[str]) -> Floats:
    """Operations of training on the kept, and of every pass over the candidates that the run's seconds tell of.

    Where candidates were measured by their gradients and the update was made of those, it costs no second pass. Passes
    over target batches are left out: their tokens are in no ledger.
    """
    from ...lm.model.parameter_count import count_adapter

    cost = token_cost(weights, count_adapter(run.files))
    by_gradients = "seconds_candidate_gradients" in parts
    full, update = bool(run.config.get("full")), run.config.get("update", "auto")
    reused = by_gradients and (update == "reuse" or (update == "auto" and not full))
    flops = kept * (0.0 if reused else cost.train)
    if "seconds_scoring_forward" in parts:
        flops = flops + seen * cost.forward
    return flops + seen * cost.train if by_gradients else flops


def kept_shares(store: Store, run: Artifact, until: float) -> dict[str, float | None]:
    """Of what a run kept up to a step: shares of repeats, and of planted duplicates and noise where labelled."""
    labels = store.display_names()
    asked = {"run": labels[run.fingerprint], "pool": labels.get(run.inputs["pool"], ""), "until": round(until)}
    return _shares(store.query(SHARES, asked).to_pylist()[0])


def pool_shares(store: Store, pool: Artifact) -> dict[str, float | None]:
    """The same of the whole pool: what chance keeps."""
    return _shares(store.query(POOL_SHARES, {"pool": store.display_names()[pool.fingerprint]}).to_pylist()[0])


def _shares(row: dict[str, Any]) -> dict[str, float | None]:
    return {name: None if value is None else float(value) for name, value in row.items()}
