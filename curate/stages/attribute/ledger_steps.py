"""Read from the ledger of a run how much each sample was trained on before each of its checkpoints.

The exposure of a sample at a checkpoint is Σ_t η_t κ_t w_t over the steps t that trained on it since the checkpoint
before. η_t is the learning rate and κ_t the clipping of the gradient (`training/gradients/step_rates.py`). w_t is the
factor of the sample's mean loss in the loss of the step, as the ledger has it. Steps after the last checkpoint count
for the last one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError, DataError
from ...store import Artifact, Store

STEPS = "SELECT DISTINCT step FROM ledger WHERE run = $run AND kept AND step IS NOT NULL ORDER BY step"

LOGGED = """
SELECT metric, step, value FROM metrics
WHERE run = $run AND metric IN ('learning_rate', 'grad_norm') AND step IS NOT NULL AND isfinite(value)
"""

EXPOSURES = """
WITH trained AS (
    SELECT step, sample_id, token_mask, weight,
           coalesce(sample_weight, 1) * coalesce(parts['trained_tokens'], target_tokens) AS tokens
    FROM ledger WHERE run = $run AND kept AND sample_id IS NOT NULL
),
shares AS (
    SELECT step, sample_id, token_mask, coalesce(weight, tokens / sum(tokens) OVER (PARTITION BY step)) AS share
    FROM trained
),
rates AS (SELECT unnest($steps) AS step, unnest($rates) AS rate, unnest($checkpoints) AS checkpoint)
SELECT checkpoint, sample_id, token_mask, sum(rate * share) AS exposure, count(*) AS steps
FROM shares JOIN rates USING (step) GROUP BY ALL ORDER BY checkpoint, sample_id, token_mask
"""


@dataclass(frozen=True)
class Exposure:
    """A text as a run was trained on it between two checkpoints.

    Attributes:
        checkpoint: index of the checkpoint at the end, from 0.
        sample_id: the sample.
        token_mask: which of its target tokens were trained on, as in the ledger; None: all.
        exposure: Σ η κ w over these steps.
        steps: number of these steps.
    """

    checkpoint: int
    sample_id: str
    token_mask: bytes | None
    exposure: float
    steps: int


def kept_checkpoints(run: Artifact, steps: Sequence[int]) -> list[Path]:
    """Return the checkpoints of a run, oldest first, or those of the given steps, after verifying them.

    Raises:
        ConfigError: the run has none, or not those.
        TrainingError: a checkpoint is damaged.
    """
    from ...training.checkpoint_files import step_of, whole_checkpoints

    folder = run.path / "checkpoints"
    found = whole_checkpoints(folder)
    if not found:
        raise ConfigError(
            f"The run '{run.name}' has kept no checkpoints with optimizer state, and gradients are measured at these. "
            f"A run that is in the store is not trained again: delete {run.path}, or choose another --seed, and train "
            f"with --save-steps N --save-total-limit M."
        )
    by_step = {step_of(path): path for path in found}
    if missing := [step for step in steps if step not in by_step]:
        raise ConfigError(
            f"The run '{run.name}' has no checkpoint of step {missing[0]}: it has those of the steps "
            f"{', '.join(map(str, by_step))}."
        )
    return [by_step[step] for step in sorted(set(steps))] if steps else found


def number_of(run: Artifact, option: str) -> float:
    """Return an option of a run that is a number, 0 if it is not set.

    Raises:
        DataError: it is another value.
    """
    value = run.config.get(option) or 0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise DataError(f"The run '{run.name}' has no number as its option {option}: train it again.")
    return float(value)


def read_exposures(store: Store, run: Artifact, checkpoints: Sequence[Path]) -> list[Exposure]:
    """Return what a run was trained on, by checkpoint, sample and token mask.

    Raises:
        DataError: the ledger has no kept sample.
        ModelError: the learning rates of the run are not known.
    """
    from ...training.checkpoint_files import step_of
    from ...training.gradients.step_rates import step_rates

    name = store.display_names()[run.fingerprint]
    steps: list[int] = store.query(STEPS, {"run": name})["step"].to_pylist()
    if not steps:
        raise DataError(f"The ledger of the run '{run.name}' has no sample that was trained on. Train it again.")
    logged: dict[str, dict[int, float]] = {}
    for row in store.query(LOGGED, {"run": name}).to_pylist():
        logged.setdefault(row["metric"], {})[row["step"]] = row["value"]
    numbers = {key: number_of(run, key) for key in ("learning_rate", "warmup_steps", "max_grad_norm")}
    rates = step_rates({**run.config, **numbers}, checkpoints[-1], logged, steps)
    ends = np.searchsorted([step_of(path) for path in checkpoints], steps).clip(max=len(checkpoints) - 1)
    params: dict[str, Any] = {"run": name, "steps": steps, "rates": rates.tolist(), "checkpoints": ends.tolist()}
    return [Exposure(**row) for row in _rows(store, params)]


def _rows(store: Store, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for batch in store.query(EXPOSURES, params).to_batches(max_chunksize=10_000):
        yield from batch.to_pylist()
