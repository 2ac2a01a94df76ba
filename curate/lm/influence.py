"""Gradient features at a checkpoint of a warm-up run: what LESS and ClusterUCB compare.

Source: LESS, Xia et al., ICML 2024: of a training sample the direction of Adam's update with its gradient, of a target
sample the plain gradient, both sketched and brought to unit length.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import Trainer

from ..errors import ModelError
from ..numerics.gradients import SignHash, Wanted
from .checkpoint import MARK, checkpoints
from .encode import TokenTable, collate
from .gradients import Adam, GradientEngine
from .load import ModelOptions, load_model, look_into


class Influence:
    """Gradient features of texts at one checkpoint.

    Args:
        options: how to load; `place` is the checkpoint.
        sketch: what sketches gradients.
        eps_mode: `adam` or `less`, see `Adam.update`.
        coverage: `all` or `linear`, see `GradientEngine`.
        micro_batch: texts in one pass.
    """

    def __init__(
        self, options: ModelOptions, sketch: SignHash, *, eps_mode: str, coverage: str = "all", micro_batch: int = 16
    ) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_model(options, trainable=True).to(device)
        self.adam = adam_of(Path(options.place), model)
        self.sketch = sketch
        self.eps_mode = eps_mode
        self.eyes = look_into(model)
        self.engine = GradientEngine(self.eyes, None, lambda: self.adam, coverage=coverage, micro_batch=micro_batch)

    def features(self, table: TokenTable, rows: Sequence[int], *, target: bool = False) -> Tensor:
        """Unit sketches (n, D) float32 on the CPU; NaN for a text whose gradient is not finite.

        Args:
            table: encoded texts.
            rows: which of them.
            target: plain gradients, as of target samples, instead of updates.
        """
        batch = collate([table[row] for row in rows], pad_token_id=0)
        del batch["index"]
        device = self.eyes.head.weight.device
        whole = {key: value.to(device) for key, value in batch.items()}
        wanted = Wanted(sketch=self.sketch, transform=None if target else self._update)
        with self.eyes.open(refresh=False):
            sketches = self.engine.pass_over(whole, wanted).values["sketch"]
        unit = normalize(sketches.float(), dim=1)
        return unit.where(sketches.isfinite().all(1, keepdim=True), torch.nan).cpu()

    def _update(self, name: str, block: Tensor) -> Tensor:
        return self.adam.update(name, block, eps_mode=self.eps_mode)


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
        if name not in trained or entry["exp_avg"].shape != trained[name].shape:
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
    decayed = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    ours = [[n for n in trained if n in decayed], [n for n in trained if n not in decayed]]
    for group, own in zip(state["param_groups"], ours, strict=False):
        listed = group.get("param_names") or own
        if len(listed) != len(group["params"]):
            raise ModelError(
                f"The optimizer state has {len(group['params'])} parameters in a group and the model {len(listed)}: it "
                "is of another model or adapter."
            )
        names.update(zip(group["params"], listed, strict=True))
    return names


def whole_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return [path for path in checkpoints(folder) if (path / MARK).exists()] if folder.exists() else []


def mean_rates(run: Sequence[Path]) -> list[float]:
    """The mean learning rate that was logged between each checkpoint and the one before it; weights of the sum."""
    rates, start = [], 0
    for checkpoint in run:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        step = int(state["global_step"])
        logged = [
            float(entry["learning_rate"])
            for entry in state["log_history"]
            if "learning_rate" in entry and start < entry["step"] <= step
        ]
        rates.append(sum(logged) / len(logged) if logged else 0.0)
        start = step
    total = sum(rates)
    return [rate / total for rate in rates] if total > 0 else [1 / len(rates)] * len(rates)


def digest_of(checkpoint: Path) -> str:
    """Hash of a checkpoint's weights and optimizer state."""
    digest = hashlib.blake2b(digest_size=16)
    for file in [*sorted(checkpoint.glob("*.safetensors")), checkpoint / "optimizer.pt"]:
        if not file.name.startswith("selector"):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
