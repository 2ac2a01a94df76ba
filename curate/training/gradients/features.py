"""Gradient features, at a checkpoint of a warm-up run or of a model in training: what LESS and ClusterUCB compare.

Source: LESS, Xia et al., ICML 2024: of a training sample the direction of Adam's update with its gradient, of a target
sample the plain gradient, both sketched and brought to unit length.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import Trainer

from ...errors import ModelError
from ...lm.model.load import ModelOptions, load_model
from ...lm.model.scoring_model import make_scoring_model
from ...lm.tokens.batch import collate
from ...lm.tokens.token_table import TokenTable
from ...numerics.gradients import GradientRequest, SignHash
from .adam import Adam
from .engine import GradientEngine


class GradientFeatures:
    """Gradient features of texts under a model and its optimizer's state.

    Args:
        engine: the model and the optimizer's state. Before its first step features are plain gradients.
        sketch: what sketches gradients.
        eps_mode: `adam` or `less`, see `Adam.update`.
    """

    def __init__(self, engine: GradientEngine, sketch: SignHash, *, eps_mode: str = "adam") -> None:
        self.engine = engine
        self.sketch = sketch
        self.eps_mode = eps_mode

    @classmethod
    def at(
        cls, options: ModelOptions, sketch: SignHash, *, eps_mode: str, coverage: str = "all", micro_batch: int = 16
    ) -> GradientFeatures:
        """The same at a checkpoint of a run: `options.place` is the checkpoint."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_model(options, trainable=True).to(device)
        adam = adam_of(Path(options.location), model)
        engine = GradientEngine(
            make_scoring_model(model), None, lambda: adam, coverage=coverage, micro_batch=micro_batch
        )
        return cls(engine, sketch, eps_mode=eps_mode)

    def features(self, table: TokenTable, rows: Sequence[int], *, target: bool = False) -> Tensor:
        """Unit sketches (n, D) float32 on the CPU; NaN for a text whose gradient is not finite.

        Args:
            table: encoded texts.
            rows: which of them.
            target: plain gradients, as of target samples, instead of updates.
        """
        batch = collate([table[row] for row in rows], pad_token_id=0)
        scoring_model, adam = self.engine.scoring_model, self.engine.adam()
        update = functools.partial(adam.update, eps_mode=self.eps_mode)
        wanted = GradientRequest(sketch=self.sketch, transform=None if target or not adam.steps else update)
        with scoring_model.eval_mode(refresh=False):
            sketches = self.engine.pass_over(batch, wanted).values["sketch"]
        unit = normalize(sketches.float(), dim=1)
        return unit.where(sketches.isfinite().all(1, keepdim=True), torch.nan).cpu()


def adam_of(checkpoint: Path, model: nn.Module) -> Adam:
    """Adam's state from a checkpoint of the Trainer: by name, or by number in the order of its parameter groups."""
    file = checkpoint / "optimizer.pt"
    if not file.exists():
        raise ModelError(
            f"{checkpoint} has no optimizer state (optimizer.pt): train the warm-up run with curate train."
        )
    state = torch.load(file, map_location="cpu", weights_only=True)
    device = next(model.parameters()).device
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    states: dict[str, dict[str, Any]] = {}
    for key, name in _names(state, model, trained).items():
        entry = state["state"].get(key)
        if entry is None:
            continue
        if name not in trained:
            raise ModelError(f"The optimizer state in {file} does not fit the model, which does not train '{name}'.")
        if entry["exp_avg"].shape != trained[name].shape:
            raise ModelError(f"The optimizer state in {file} does not fit the model: '{name}' has another shape.")
        states[name] = {k: v.to(device) if torch.is_tensor(v) and v.dim() else v for k, v in entry.items()}
    if not states:
        raise ModelError(f"The optimizer state in {file} is empty: let the warm-up run take some steps first.")
    return Adam.from_states(states, state["param_groups"][0])


def _names(state: Any, model: nn.Module, trained: dict[str, nn.Parameter]) -> dict[Any, str]:
    """Key of the state -> parameter name, in any of torch's layouts."""
    if all(isinstance(key, str) for key in state["state"]):
        return {key: key for key in state["state"]}
    names: dict[Any, str] = {}
    groups = state["param_groups"]
    decayed = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    ours = [[n for n in trained if n in decayed], [n for n in trained if n not in decayed]]
    for group, own in zip(groups, [list(trained)] if len(groups) == 1 else ours, strict=False):
        listed = group.get("param_names") or own
        if len(listed) != len(group["params"]):
            raise ModelError(
                f"The optimizer state has {len(group['params'])} parameters in a group and the model {len(listed)}: it "
                "is of another model or adapter."
            )
        names.update(zip(group["params"], listed, strict=True))
    return names


def mean_rates(run: Sequence[Path]) -> list[float]:
    """The mean learning rate that was logged between each checkpoint and the one before it, as shares of their sum.

    Where nothing was logged between them, the rate that was logged nearest counts.
    """
    states = [json.loads((path / "trainer_state.json").read_text(encoding="utf-8")) for path in run]
    steps = [int(state["global_step"]) for state in states]
    logged = {
        int(entry["step"]): float(entry["learning_rate"])
        for entry in states[-1]["log_history"]
        if "learning_rate" in entry
    }
    rates = []
    for start, step in zip([0, *steps], steps, strict=False):
        inside = [rate for at, rate in logged.items() if start < at <= step]
        nearest = [logged[min(logged, key=lambda at: abs(at - step))]] if logged else [0.0]
        rates.append(sum(inside or nearest) / len(inside or nearest))
    total = sum(rates)
    return [rate / total for rate in rates] if total > 0 else [1 / len(rates)] * len(rates)
