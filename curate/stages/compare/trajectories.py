"""Read the trajectories of a comparison's runs: held-out loss during training, and what each run had spent by then.

Everything comes from the store. The ledger has samples and tokens by step; the metrics have losses and seconds. Seconds
are recorded only for whole runs, by part, so they are divided evenly over the steps of a run.
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
       coalesce(sum(target_tokens) FILTER (kept), 0)::DOUBLE AS target_tokens,
       coalesce(sum(tokens) FILTER (coalesce(stage, '') NOT IN ('prescreen', 'replay')), 0)::DOUBLE AS candidate_tokens
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

NOT_COUNTED = ("seconds_data", "seconds_ledger")
"""Metrics of seconds that are neither training nor scoring."""

PASSES = ("seconds_training", "seconds_scoring_forward", "seconds_candidate_gradients", "seconds_target_gradient")
"""Metrics of the seconds of the model's own passes: the least time that a method can take."""


@dataclass(frozen=True)
class Trajectory:
    """A run during training: its losses, and what it had spent after each step.

    Attributes:
        run: the run.
        fingerprint: fingerprint of the run's artifact.
        at: (e,) the step after which each loss was measured.
        losses: (e,) held-out losses.
        spent: quantity -> (steps + 1,) amount spent after that many steps, from 0: samples, tokens, target_tokens,
            steps, seconds and flops. Without flops if the model's weights could not be counted.
        over_ideal: all seconds divided by the seconds of the model's own passes; None if these were not recorded.
    """

    run: ComparisonRun
    fingerprint: str
    at: list[int]
    losses: list[float]
    spent: dict[str, Floats]
    over_ideal: float | None

    def spent_when_measured(self, axis: Axis) -> list[float]:
        """Return (e,) the amount that had been spent when each loss was measured."""
        return [float(self.spent[axis][step]) for step in self.at]

    def end(self, axis: Axis) -> float:
        """Return the amount that had been spent at the last measurement; 0 if there is none."""
        return self.spent_when_measured(axis)[-1] if self.at else 0.0

    def loss_at(self, axis: Axis, budget: float) -> float | None:
        """Return the held-out loss at a budget, interpolated linearly between measurements; None outside of them."""
        return value_at(self.spent_when_measured(axis), self.losses, budget)

    def spent_at(self, axis: Axis, budget: float) -> dict[str, float]:
        """Return the amount of every quantity that had been spent when `budget` of one was."""
        import numpy as np

        return {name: float(np.interp(budget, self.spent[axis], values)) for name, values in self.spent.items()}


def weights_of(config: CompareConfig, model: str) -> int | None:
    """Return the number of weights of the model at a path or Hub id.

    Returns:
        None, with a warning, if they cannot be counted and the budget is not in flops.

    Raises:
        ModelError: they cannot be counted and the budget is in flops.
    """
    from ...lm.model.parameter_count import count_weights

    try:
        return count_weights(model)
    except ModelError as error:
        if config.at == "flops":
            raise
        LOGGER.warning(f"{error}. The table has no operations (flops).")
        return None


def trajectory(store: Store, run: ComparisonRun, artifact: Artifact, weights: int | None) -> Trajectory:
    """Read the trajectory of a run from the store.

    Args:
        store: the store that has the run.
        run: the run in the plan.
        artifact: the artifact of the run.
        weights: number of weights of the model; None to leave out flops.
    """
    import numpy as np

    parameters = {"run": store.display_names()[artifact.fingerprint]}
    steps = store.query(STEPS, parameters).to_pydict()
    metrics = store.query(METRICS, parameters).to_pylist()
    evaluations = [(row["step"], row["value"]) for row in metrics if row["metric"] == "eval_loss"]
    seconds = {row["metric"]: row["value"] for row in metrics if row["metric"] != "eval_loss"}
    count = int(max(steps["step"], default=0))
    spent: dict[str, Floats] = {"steps": np.arange(count + 1, dtype=np.float64)}
    for name in ("samples", "tokens", "target_tokens", "candidate_tokens"):
        by_step = np.zeros(count + 1)
        by_step[steps["step"]] = steps[name]
        spent[name] = np.cumsum(by_step)
    total = sum(value for part, value in seconds.items() if part not in NOT_COUNTED)
    spent["seconds"] = np.linspace(0.0, total, count + 1)
    candidate_tokens = spent.pop("candidate_tokens")
    if weights is not None:
        spent["flops"] = _flops(artifact, weights, spent["tokens"], candidate_tokens, set(seconds))
    at = [step for step, _ in evaluations if step <= count]
    losses = [value for step, value in evaluations if step <= count]
    passes = sum(seconds.get(part, 0.0) for part in PASSES)
    over_ideal = sum(seconds.values()) / passes if passes else None
    return Trajectory(run, artifact.fingerprint, at, losses, spent, over_ideal)


def _flops(run: Artifact, weights: int, kept: Floats, candidates: Floats, parts: set[str]) -> Floats:
    """Return (steps + 1,) operations of training on the kept tokens and of the passes over the candidates.

    A run's recorded seconds show which passes it made. If candidates were measured by their gradients and the update
    reused these, the update costs no second pass. Passes over target batches are left out: the ledger does not have
    their tokens.

    Args:
        run: the artifact of the run.
        weights: number of weights of the model.
        kept: (steps + 1,) kept tokens, cumulative.
        candidates: (steps + 1,) tokens of the candidates that were scored, cumulative.
        parts: names of the metrics of seconds that the run recorded.
    """
    from ...lm.model.parameter_count import count_adapter

    cost = token_cost(weights, count_adapter(run.files))
    by_gradients = "seconds_candidate_gradients" in parts
    full, update = bool(run.config.get("full")), run.config.get("update", "auto")
    reused = by_gradients and (update == "reuse" or (update == "auto" and not full))
    flops = kept * (0.0 if reused else cost.train)
    if "seconds_scoring_forward" in parts:
        flops = flops + candidates * cost.forward
    return flops + candidates * cost.train if by_gradients else flops


def kept_shares(store: Store, run: Artifact, until: float) -> dict[str, float | None]:
    """Return shares of the samples that a run kept up to a step: copies, and planted duplicates and noise if labelled.

    A copy repeats a conversation that the run kept before.
    """
    names = store.display_names()
    parameters = {"run": names[run.fingerprint], "pool": names.get(run.inputs["pool"], ""), "until": round(until)}
    return _shares(store.query(SHARES, parameters).to_pylist()[0])


def pool_shares(store: Store, pool: Artifact) -> dict[str, float | None]:
    """Return the same shares of the whole pool: those that a random selection keeps on average."""
    return _shares(store.query(POOL_SHARES, {"pool": store.display_names()[pool.fingerprint]}).to_pylist()[0])


def _shares(row: dict[str, Any]) -> dict[str, float | None]:
    return {name: None if value is None else float(value) for name, value in row.items()}
