"""Learning rates and clipping of the steps of a finished run, from its options and its logged metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import TrainingArguments, get_scheduler

from ...errors import ModelError
from ...log import LOGGER
from ...store.artifacts.safe_files import read_text

Floats = npt.NDArray[np.float64]

AGREES = 1e-3
"""Limit of the relative difference between a learning rate of the schedule and the logged one."""


def step_rates(
    config: Mapping[str, Any], checkpoint: Path, logged: Mapping[str, Mapping[int, float]], steps: Sequence[int]
) -> Floats:
    """Return η_t κ_t for steps t of a run, (n,).

    η_t is the learning rate: of the schedule that the options name, if the logged rates agree with it; otherwise the
    logged rates, with straight lines between them. κ_t = min(1, C / ‖g_t‖) is the clipping of the gradient to the norm
    C, from the logged norms; between two logged steps it lies on a straight line, and without any it is 1.

    Args:
        config: options of the run.
        checkpoint: a checkpoint of the run, which knows the number of its steps.
        logged: metric -> step -> value, of `learning_rate` and `grad_norm`.
        steps: the steps, from 1.

    Raises:
        ModelError: the checkpoint does not hold the state of a Trainer, or the rates are not known.
    """
    known, planned = logged.get("learning_rate", {}), _planned(checkpoint)
    rates = _schedule(config, planned, steps)
    of_known = _schedule(config, planned, list(known))
    if rates is None or of_known is None or not np.allclose(of_known, list(known.values()), AGREES, AGREES * 1e-3):
        if not known:
            raise ModelError(
                f"The learning rates of the run are not known: its schedule {config.get('lr_scheduler_type')} cannot "
                "be rebuilt from its options, and it logged no rates. Train it again with --logging-steps 1."
            )
        LOGGER.info("The schedule is not that of the run's options: rates between logged steps lie on straight lines.")
        rates = np.interp(steps, *_sorted(known))
    clip, norms = float(config.get("max_grad_norm") or 0), logged.get("grad_norm", {})
    if not clip or not norms:
        return rates
    at, values = _sorted(norms)
    factors: Floats = np.interp(steps, at, np.minimum(1.0, clip / (values + 1e-6)))
    return rates * factors


def _sorted(values: Mapping[int, float]) -> tuple[Floats, Floats]:
    pairs = sorted(values.items())
    return np.array([step for step, _ in pairs], np.float64), np.array([value for _, value in pairs], np.float64)


def _planned(checkpoint: Path) -> int:
    """Return the number of steps that the schedule of a run was made for."""
    file = checkpoint / "trainer_state.json"
    try:
        return max(1, int(json.loads(read_text(file))["max_steps"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise ModelError(f"{file} does not hold the state of a Trainer: train the run again.") from None


def _schedule(config: Mapping[str, Any], planned: int, steps: Sequence[int]) -> Floats | None:
    """Return the rates of steps, (n,), by the schedule that the options name; None if it needs more than these."""
    rate = float(config["learning_rate"])
    warmup = TrainingArguments.get_warmup_steps(_Warmup(config.get("warmup_steps", 0)), planned)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    try:
        schedule = get_scheduler(config["lr_scheduler_type"], optimizer, warmup, planned)
        if not isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):
            return None
        factor = schedule.lr_lambdas[0]
        return np.array([rate * float(factor(step - 1)) for step in steps], np.float64)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError):
        return None


class _Warmup:
    """The one option that the Trainer reads to find the steps of the warm-up."""

    def __init__(self, warmup_steps: float) -> None:
        self.warmup_steps = warmup_steps
