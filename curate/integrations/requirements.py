"""What a selector wants beside a batch: the optimizer, a target, facts of its samples. Refused by name where it is not
there.
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
from ..selectors import Selector
from ..training.gradients.adam import Adam
from ..training.gradients.engine import GradientEngine
from ..training.process_group import ProcessGroup
from ..training.target_sampler import TargetSampler
from .batch import rows_as_table

Coverage = Literal["all", "linear"]


@dataclass(frozen=True)
class Gradients:
    """What a loop gives for selectors by gradients; see `BatchSelector` for each."""

    optimizer: torch.optim.Optimizer | Callable[[], Any] | None
    target: Sequence[Mapping[str, Any]] | None
    target_batch_size: int
    coverage: Coverage
    seed: int

    def engine(self, name: str, selector: Selector, scoring_model: ScoringModel) -> GradientEngine | None:
        """What measures gradients for a selector that wants them; `ConfigError` where something for it is missing."""
        if selector.gradients is None:
            return None
        stream = self._stream(name) if selector.gradients.target else None
        adam = self._adam(name, scoring_model.model)
        return GradientEngine(
            scoring_model, stream, adam, coverage=self.coverage, seed=self.seed, ranks=ProcessGroup(per_rank=True)
        )

    def _adam(self, name: str, model: nn.Module) -> Callable[[], Adam]:
        given = self.optimizer
        if given is None:
            raise ConfigError(
                f"Selector {name} looks at gradients in the metric of the optimizer: give optimizer=, an Adam or AdamW."
            )
        if hasattr(given, "param_groups") or not callable(given):
            return lambda: Adam.of(given, model)
        return lambda: Adam.of(given(), model)

    def _stream(self, name: str) -> TargetSampler:
        if not self.target:
            raise ConfigError(f"Selector {name} wants target=: tokenised samples of what the model should get good at.")
        table = rows_as_table(self.target, "The target")
        return TargetSampler(table, [range(len(table))], size=self.target_batch_size, seed=self.seed, pad_token_id=0)


def joined(wanted: Sequence[str], given: Mapping[str, Sequence[float]], count: int) -> dict[str, Tensor]:
    """The facts of `count` samples that a selector joins, (count,) each."""
    found = {}
    for name in wanted:
        if name not in given:
            raise ConfigError(f"This selector joins '{name}' to its candidates: give features={{'{name}': ...}}.")
        found[name] = torch.as_tensor(given[name], device="cpu")
        if found[name].shape != (count,):
            raise ConfigError(f"The feature '{name}' has the shape {tuple(found[name].shape)} beside {count} texts.")
    return found


SETTINGS = {
    "packing": "several samples become one row, and a selector keeps or leaves whole rows. Set packing=False",
    "padding_free": "all samples become one row, and a selector keeps or leaves whole rows. Set padding_free=False",
    "auto_find_batch_size": "what a step trains on is what is kept. Set per_device_train_batch_size yourself",
}
"""Boolean settings of a Trainer, and why not."""


def refuse_arguments(args: Any) -> None:
    """`ConfigError` for settings that do not go with choosing."""
    for name, why in SETTINGS.items():
        if getattr(args, name, False):
            raise ConfigError(f"{name}=True does not go with a selector: {why}.")


def refuse_parallelism(trainer: Any) -> None:
    """`ConfigError` for ways of sharing out a model that cannot be scored through."""
    refuse_arguments(trainer.args)
    if trainer.args.world_size != size():
        raise TrainingError(
            f"{size()} processes were launched, but the Trainer sees {trainer.args.world_size}: each would train "
            "alone. Launch as many as there are devices, or on CPUs set use_cpu=True."
        )
    if trainer.model_init is not None:
        raise ConfigError(
            "model_init makes the model anew when training begins, after the selector has looked into it: give model=."
        )
    for name, given in (
        ("FSDP", trainer.is_fsdp_enabled),
        ("DeepSpeed", trainer.is_deepspeed_enabled),
        ("nn.DataParallel", trainer.args.n_gpu > 1),
        ("tensor, context or sequence parallelism", _parallel(trainer.accelerator)),
    ):
        if given:
            raise ConfigError(
                f"{name} splits the model or its batches, which a selector cannot score through. Launch one process a "
                "device with torchrun (DDP), or use curate train --fsdp."
            )


def _parallel(accelerator: Any) -> bool:
    config = getattr(accelerator, "parallelism_config", None)
    return config is not None and any(getattr(config, f"{kind}_size", 1) > 1 for kind in ("tp", "cp", "sp", "dp_shard"))
