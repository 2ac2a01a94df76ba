"""Compute gradient features at a checkpoint of a warm-up run, or of a model in training. LESS and ClusterUCB use them.

The feature of a training sample is the direction of Adam's update with its gradient. The feature of a target sample is
its plain gradient. Both are sketched and normalised to unit length.

Source: LESS, Xia et al., ICML 2024.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import Trainer

from ...errors import ModelError
from ...lm.model.config_checks import ModelOptions
from ...lm.model.load import load_model
from ...lm.model.scoring_model import make_scoring_model
from ...lm.tokens.batch import collate
from ...lm.tokens.token_table import TokenTable
from ...numerics.gradients import GradientRequest, Sketch
from ...store.artifacts.safe_files import read_text
from ..checkpoint_files import read_state
from .engine import GradientEngine
from .optimizers import OptimizerState
from .optimizers.kinds import rule_of
from .optimizers.rules import AdamRule

AGAIN = "Take the warm-up run from where it was trained, or train it again."


class GradientFeatures:
    """Compute gradient features of texts with a model and the state of its optimizer.

    Args:
        engine: engine with the model and the optimizer's state. Before the optimizer's first step, features are plain
            gradients.
        sketch: projection that sketches gradients.
        eps_mode: `adam` or `less`, see `OptimizerState.update`.
    """

    def __init__(self, engine: GradientEngine, sketch: Sketch, *, eps_mode: str = "adam") -> None:
        self.engine = engine
        self.sketch = sketch
        self.eps_mode = eps_mode

    @classmethod
    def at(
        cls, options: ModelOptions, sketch: Sketch, *, eps_mode: str, coverage: str = "all", micro_batch: int = 16
    ) -> GradientFeatures:
        """Load a checkpoint of a run and compute features with its model and optimizer.

        Args:
            options: options for loading the model; `options.location` is the checkpoint.
            sketch: projection that sketches gradients.
            eps_mode: `adam` or `less`, see `OptimizerState.update`.
            coverage: `all` or `linear`, see `GradientEngine`.
            micro_batch: number of texts in a backward pass.

        Raises:
            ModelError: the model or the optimizer's state cannot be loaded.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_model(options, trainable=True).to(device)
        state = state_of(Path(options.location), model)
        engine = GradientEngine(
            make_scoring_model(model), None, lambda: state, coverage=coverage, micro_batch=micro_batch
        )
        return cls(engine, sketch, eps_mode=eps_mode)

    def features(self, table: TokenTable, rows: Sequence[int], *, target: bool = False) -> Tensor:
        """Return unit sketches (n, D) float32 on the CPU. A text with a gradient that is not finite gives NaN.

        A text without a loss (no target, or a certain model) has no gradient: its sketch is 0, and so are its scores.

        Args:
            table: encoded texts.
            rows: n rows of the table.
            target: use plain gradients, as for target samples, instead of updates.
        """
        batch = collate([table[row] for row in rows], pad_token_id=0)
        scoring_model, adam = self.engine.scoring_model, self.engine.adam()
        update = functools.partial(adam.update, eps_mode=self.eps_mode)
        request = GradientRequest(sketch=self.sketch, transform=None if target or not adam.steps else update)
        with scoring_model.eval_mode(refresh=False):
            found = self.engine.pass_over(batch, request).values
        sketches = found["sketch"].where(found["loss"][:, None] != 0, 0)  # Adam's update would be the momentum alone
        unit = normalize(sketches.float(), dim=1)
        return unit.where(sketches.isfinite().all(1, keepdim=True), torch.nan).cpu()


def state_of(checkpoint: Path, model: nn.Module) -> OptimizerState:
    """Read the optimizer's state from a checkpoint of the Trainer.

    Parameters are matched by name, or by number in the order of the Trainer's parameter groups. The kind of optimizer
    is found by the names of its settings and states.

    Raises:
        ModelError: the optimizer's state is missing, empty, or does not fit the model, or the optimizer has no metric.
    """
    file = checkpoint / "optimizer.pt"
    if not file.exists():
        raise ModelError(
            f"{checkpoint} has no optimizer state (optimizer.pt). Train the warm-up run with curate train."
        )
    try:
        state = read_state(file)
    except ValueError as error:
        raise ModelError(f"{file} is not read: {error}. {AGAIN}") from None
    try:
        return _state_of(state, file, model)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError):
        raise ModelError(f"{file} does not hold the state of an optimizer that curate reads. {AGAIN}") from None


SHAPED = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "z", "square_avg", "sum", "exp_inf")
"""States that have the shape of their parameter."""


def _state_of(saved: Any, file: Path, model: nn.Module) -> OptimizerState:
    device = next(model.parameters()).device
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    states: dict[str, dict[str, Any]] = {}
    names = _names(saved, model, trained)
    for key, name in names.items():
        entry = saved["state"].get(key)
        if entry is None:
            continue
        if not isinstance(entry, Mapping) or not entry:
            raise TypeError("a state without moments")
        if name not in trained:
            raise ModelError(
                f"The optimizer state in {file} does not fit the model: the model does not train '{name}'."
            )
        if any(moment in entry and entry[moment].shape != trained[name].shape for moment in SHAPED):
            raise ModelError(f"The optimizer state in {file} does not fit the model: '{name}' has another shape.")
        states[name] = {k: v.to(device) if torch.is_tensor(v) and v.dim() else v for k, v in entry.items()}
    if not states:
        raise ModelError(f"The optimizer state in {file} is empty. Train the warm-up run for some steps first.")
    rule = rule_of(saved)
    if isinstance(rule, ModelError):
        raise rule
    moments = {"exp_avg", "exp_avg_sq"}
    if type(rule) is AdamRule and any(0 < len(moments & state.keys()) < 2 for state in states.values()):
        raise KeyError("a state lacks a moment of Adam")
    by_key = {key: group for group in saved["param_groups"] for key in group["params"]}
    first = saved["param_groups"][0]
    groups = {name: by_key.get(key, first) for key, name in names.items() if name in trained}
    return OptimizerState.from_states(states, groups, trained, rule)


def _names(state: Any, model: nn.Module, trained: dict[str, nn.Parameter]) -> dict[Any, str]:
    """Return the parameter name of each key of the optimizer's state, for all layouts that torch writes."""
    if all(isinstance(key, str) for key in state["state"]):
        return {key: key for key in state["state"]}
    names: dict[Any, str] = {}
    groups = state["param_groups"]
    decayed = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    by_decay = [[n for n in trained if n in decayed], [n for n in trained if n not in decayed]]
    for group, expected in zip(groups, [list(trained)] if len(groups) == 1 else by_decay, strict=False):
        group_names = group.get("param_names") or expected
        if len(group_names) != len(group["params"]):
            raise ModelError(
                f"The optimizer state has {len(group['params'])} parameters in a group, but the model has "
                f"{len(group_names)}. The state belongs to another model or adapter."
            )
        names.update(zip(group["params"], group_names, strict=True))
    return names


def mean_rates(run: Sequence[Path]) -> list[float]:
    """Return the mean learning rate logged since the previous checkpoint, for each checkpoint, as shares of the sum.

    If no rate was logged between two checkpoints, the rate logged at the nearest step is used.

    Args:
        run: checkpoint folders of a run, oldest first.
    """
    steps, logged = _logged(run)
    rates = []
    for start, step in zip([0, *steps], steps, strict=False):
        inside = [rate for at, rate in logged.items() if start < at <= step]
        nearest = [logged[min(logged, key=lambda at: abs(at - step))]] if logged else [0.0]
        rates.append(sum(inside or nearest) / len(inside or nearest))
    total = sum(rates)
    return [rate / total for rate in rates] if total > 0 else [1 / len(rates)] * len(rates)


def _logged(run: Sequence[Path]) -> tuple[list[int], dict[int, float]]:
    """Return the step of each checkpoint, and the logged learning rate by step."""
    file = Path()
    try:
        states = []
        for path in run:
            file = path / "trainer_state.json"
            states.append(json.loads(read_text(file)))
        steps = [int(state["global_step"]) for state in states]
        return steps, {
            int(entry["step"]): float(entry["learning_rate"])
            for entry in states[-1]["log_history"]
            if "learning_rate" in entry
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise ModelError(f"{file} does not hold the state of a Trainer. {AGAIN}") from None
