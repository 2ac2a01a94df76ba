"""A `transformers.Trainer` that continues from a checkpoint only if the checkpoint fits the run, and else says why.

The Trainer warns where weights are missing, torch takes optimizer states of any shape and settings from the file, and
other damage ends in an error of any type. Here each of these is one `TrainingError` that names the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Trainer

from ..errors import CurateError, ModelError, of_system
from ..lm.model.adapters import adapter_shapes
from ..lm.model.boundary import reason_of
from ..lm.model.weight_files import header_of
from .checkpoint_files import damage_error

OPTIMIZER, ADAPTER, WEIGHTS = "optimizer.pt", "adapter_model.safetensors", "model.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
"""States of torch's optimizers that have the shape of their parameter."""
ADAM = frozenset({"step", "exp_avg", "exp_avg_sq"})
"""States that each parameter has in Adam after a step."""
CHANGING = frozenset({"params", "lr", "step", "setup", "triton", "foreach", "kahan_sum"})
"""Entries of a parameter group that are not the same in all steps of a run; StableAdamW sets all but the first two."""


class ResumingTrainer(Trainer):
    """A Trainer that checks what it loads from a checkpoint; a method raises `TrainingError` if that does not fit."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load the weights."""
        folder = Path(resume_from_checkpoint)
        adapter = folder / ADAPTER
        for path in sorted(folder.glob("*/adapter_*")):
            raise damage_error(path, "belongs to another adapter than the run's")
        with fitting(adapter if adapter.exists() else folder / WEIGHTS):
            if adapter.exists():
                _require_tensors(adapter, cast(nn.Module, model or self.model))
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raise `ValueError`, for `fitting`, unless exactly the model's tensors were loaded; tied ones count once."""
        tensors = cast(nn.Module, self.model).state_dict(keep_vars=True)
        missing = set(load_result.missing_keys)
        loaded = {id(tensor) for name, tensor in tensors.items() if name not in missing}
        _require_none([name for name in tensors if name in missing and id(tensors[name]) not in loaded], "lacks")
        _require_none(load_result.unexpected_keys, "also has")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the states of optimizer and schedule."""
        if checkpoint is None:
            return
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        groups = [dict(group) for group in optimizer.param_groups]
        schedule: Any = self.lr_scheduler
        rates = getattr(schedule, "base_lrs", None)
        with fitting(Path(checkpoint) / OPTIMIZER, " or scheduler.pt next to it"):
            super()._load_optimizer_and_scheduler(checkpoint)
            require_states(optimizer)
            for before, after in zip(groups, optimizer.param_groups, strict=True):
                _require_settings(before, after)
            if getattr(schedule, "base_lrs", None) != rates or type(schedule.last_epoch) is not int:
                raise ValueError("the schedule has other learning rates")

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Load the state of the gradient scaler."""
        with fitting(Path(checkpoint or "", "scaler.pt")):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Load the states of the random number generators."""
        name = f"rng_state_{self.args.process_index}.pth" if self.args.world_size > 1 else "rng_state.pth"
        with fitting(Path(checkpoint or "", name)):
            super()._load_rng_state(checkpoint)


@contextmanager
def fitting(path: Path, others: str = "") -> Iterator[None]:
    """Convert any error of a library that loads `path` (or `others`) to a `TrainingError`.

    Errors of the operating system and of memory stay as they are.
    """
    try:
        yield
    except (CurateError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        if of_system(error) is not None:
            raise
        raise damage_error(path, f"{others} does not fit this run ({reason_of(error)})".strip()) from error


def require_states(optimizer: torch.optim.Optimizer) -> None:
    """Raise `ValueError` unless each state of an optimizer has the type and the shape that its parameter needs."""
    for parameter, state in optimizer.state.items():
        if isinstance(optimizer, torch.optim.Adam) and state and (lacking := sorted(ADAM - {*state})):
            raise ValueError(f"a parameter has no {lacking[0]}")
        for name, value in state.items():
            if name in MOMENTS and not (isinstance(value, Tensor) and value.is_floating_point()):
                raise ValueError(f"a state {name} is no tensor of real numbers")
            if name in MOMENTS and value.shape != parameter.shape:
                raise ValueError(f"a state {name} has the shape {_shape(value)}, not {_shape(parameter)}")
            if name == "step" and not (isinstance(value, (int, float)) or getattr(value, "shape", None) == ()):
                raise ValueError("a number of steps is no number")


def _require_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raise `ValueError` if an optimizer's settings, such as weight_decay, are not those that the run began with."""
    for name, value in before.items():
        if name not in CHANGING and (name not in after or after[name] != value or type(after[name]) is not type(value)):
            raise ValueError(f"{name} of the optimizer is not {value!s:.40}")
    if not isinstance(after["lr"], (float, Tensor)):
        raise ValueError("the learning rate is no number")


def _require_tensors(path: Path, model: nn.Module) -> None:
    """Raise `ValueError` unless the file of an adapter has exactly the tensors of the model's, in the same shapes."""
    own = adapter_shapes(model)
    try:
        found = header_of(path)
    except ModelError as error:
        raise ValueError(str(error)) from None
    _require_none([name for name in own if name not in found], "lacks")
    _require_none([name for name in found if name not in own], "also has")
    _require_none([name for name in own if own[name] != found[name]], "has another shape of")


def _require_none(names: list[str], what: str) -> None:
    if names:
        raise ValueError(f"it {what} {len(names)} tensors, such as {names[0]!a:.100}")


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "of a number"
