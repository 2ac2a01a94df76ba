"""What a selector wants beside a batch: the optimizer, a target, facts of its samples. Refused by name where it is not
there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..lm.model.load import Eyes
from ..selectors import Selector
from ..training.gradients.adam import Adam
from ..training.gradients.engine import GradientEngine
from ..training.process_group import Ranks
from ..training.target_sampler import TargetStream
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

    def engine(self, name: str, selector: Selector, eyes: Eyes) -> GradientEngine | None:
        """What measures gradients for a selector that wants them; `ConfigError` where something for it is missing."""
        if selector.gradients is None:
            return None
        stream = self._stream(name) if selector.gradients.target else None
        adam = self._adam(name, eyes.model)
        return GradientEngine(eyes, stream, adam, coverage=self.coverage, seed=self.seed, ranks=Ranks(apart=True))

    def _adam(self, name: str, model: nn.Module) -> Callable[[], Adam]:
        given = self.optimizer
        if given is None:
            raise ConfigError(
                f"Selector {name} looks at gradients in the metric of the optimizer: give optimizer=, an Adam or AdamW."
            )
        if hasattr(given, "param_groups") or not callable(given):
            return lambda: Adam.of(given, model)
        return lambda: Adam.of(given(), model)

    def _stream(self, name: str) -> TargetStream:
        if not self.target:
            raise ConfigError(f"Selector {name} wants target=: tokenised samples of what the model should get good at.")
        table = rows_as_table(self.target, "The target")
        return TargetStream(table, [range(len(table))], size=self.target_batch_size, seed=self.seed, pad_token_id=0)


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
