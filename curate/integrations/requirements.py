"""Check that a loop or Trainer provides everything a selector needs: optimizer, target, stored features.

Settings of a Trainer that are incompatible with selection raise an error that names the setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import ConfigError, TrainingError
from ..lm.model.scoring_model import ScoringModel
from ..runtime.distributed import size
from ..selectors import Selector, requirements_of
from ..training.gradients.engine import GradientEngine
from ..training.gradients.optimizers import OptimizerState, require_metric
from ..training.process_group import ProcessGroup
from ..training.target_sampler import TargetSampler
from .batch import rows_as_table

Coverage = Literal["all", "linear"]


@dataclass(frozen=True)
class Gradients:
    """Data that a loop provides for gradient selectors; `BatchSelector` describes each field."""

    optimizer: torch.optim.Optimizer | Callable[[], Any] | None
    target: Sequence[Mapping[str, Any]] | None
    target_batch_size: int
    coverage: Coverage
    seed: int
    clip: float = 0.0

    def engine(self, name: str, selector: Selector, scoring_model: ScoringModel) -> GradientEngine | None:
        """Return the engine that measures gradients for a selector, or None if it needs no gradients.

        Raises:
            ConfigError: the selector needs the optimizer or a target, and it was not given.
        """
        if selector.gradients is None:
            return None
        sampler = self._target_sampler(name) if selector.gradients.target else None
        adam = self._adam(name, scoring_model.model)
        return GradientEngine(
            scoring_model, sampler, adam, coverage=self.coverage, seed=self.seed, ranks=ProcessGroup(per_rank=True)
        )

    def _adam(self, name: str, model: nn.Module) -> Callable[[], OptimizerState]:
        given = self.optimizer
        if given is None:
            raise ConfigError(
                f"Selector {name} measures gradients in the metric of the optimizer. Give optimizer=, such as AdamW."
            )
        if hasattr(given, "param_groups") or not callable(given):
            return lambda: OptimizerState.of(given, model, clip=self.clip)
        return lambda: OptimizerState.of(given(), model, clip=self.clip)

    def _target_sampler(self, name: str) -> TargetSampler:
        if not self.target:
            raise ConfigError(
                f"Selector {name} needs target=: tokenised samples of the task that the model should become good at."
            )
        table = rows_as_table(self.target, "The target")
        return TargetSampler(table, [range(len(table))], size=self.target_batch_size, seed=self.seed, pad_token_id=0)


def joined(names: Sequence[str], given: Mapping[str, Sequence[float]], count: int) -> dict[str, Tensor]:
    """Return the stored features that a selector needs as tensors, (count,) each, on the CPU.

    Args:
        names: names of the features that the selector needs.
        given: features by name, one number per candidate each.
        count: number of candidates.

    Raises:
        ConfigError: a feature is missing, or does not have one number per candidate.
    """
    features = {}
    for name in names:
        if name not in given:
            raise ConfigError(
                f"This selector needs the stored feature '{name}' of its candidates. Give features={{'{name}': ...}}."
            )
        features[name] = torch.as_tensor(given[name], device="cpu")
        if features[name].shape != (count,):
            raise ConfigError(
                f"The feature '{name}' has the shape {tuple(features[name].shape)}, but there are {count} texts. Give "
                "one number per text."
            )
    return features


APART = (
    "a row does not say which candidate a token belongs to. Set {}=False and give Selective(..., batching='packed'): "
    "then the kept samples are trained in one row without padding, as fast"
)

SETTINGS = {
    "packing": APART.format("packing"),
    "padding_free": APART.format("padding_free"),
    "auto_find_batch_size": "it changes the number of kept samples. Set per_device_train_batch_size yourself",
}
"""Boolean setting of a Trainer that must be off -> the reason, and the fix."""


def refuse_arguments(args: Any) -> None:
    """Raise `ConfigError` for settings of a Trainer that are incompatible with selection."""
    for name, reason in SETTINGS.items():
        if getattr(args, name, False):
            raise ConfigError(f"{name}=True does not work with a selector: {reason}.")


def refuse_optimizer(args: Any, selector: str, selector_args: Mapping[str, Any]) -> None:
    """Raise `ModelError` if a selector needs the metric of the optimizer in a Trainer's arguments, and it has none."""
    needs = requirements_of(selector, selector_args).gradients
    if needs is not None and needs.reads_state:
        name = getattr(args, "optim", "adamw_torch")
        require_metric(str(getattr(name, "value", name)), needs.metric)


def refuse_parallelism(trainer: Any) -> None:
    """Raise if a Trainer splits its model in a way that scoring does not support.

    Raises:
        ConfigError: an incompatible setting, `model_init`, or a split of the model or its batches.
        TrainingError: the Trainer does not see all processes of the launch.
    """
    refuse_arguments(trainer.args)
    if trainer.args.world_size != size():
        raise TrainingError(
            f"{size()} processes were launched, but the Trainer sees {trainer.args.world_size}: each would train "
            "alone. Launch as many processes as there are devices, or on CPUs set use_cpu=True."
        )
    if trainer.model_init is not None:
        raise ConfigError(
            "model_init builds a new model when training begins, but the selector needs the model before. Give model= "
            "instead."
        )
    for name, given in (
        ("FSDP", trainer.is_fsdp_enabled),
        ("DeepSpeed", trainer.is_deepspeed_enabled),
        ("nn.DataParallel", trainer.args.n_gpu > 1),
        ("tensor, context or sequence parallelism", _parallel(trainer.accelerator)),
    ):
        if given:
            raise ConfigError(
                f"{name} splits the model or its batches, and scoring with such a split is not supported. Launch one "
                "process per device with torchrun (DDP), or use curate train --fsdp."
            )


def _parallel(accelerator: Any) -> bool:
    config = getattr(accelerator, "parallelism_config", None)
    return config is not None and any(getattr(config, f"{kind}_size", 1) > 1 for kind in ("tp", "cp", "sp", "dp_shard"))
