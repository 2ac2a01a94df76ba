"""The gradient features of samples at one checkpoint, as work that several processes can share; see `gradients`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...executors.work import Advance, Worker
from ...store.vectors.cache import VectorCache
from ..tokenization import ModelSettings

if TYPE_CHECKING:
    from ...lm.tokens.token_table import TokenTable
    from .config import SelectConfig


@dataclass(frozen=True)
class Chunk:
    """Samples of a request whose features are made and kept together.

    A request is cut into the same chunks whoever makes them and whatever is kept already: what shares a pass decides
    the last digit of a feature.

    Attributes:
        table: of tokens.
        rows: of the table.
        ids: of the samples.
        target: plain gradients, as of target samples, instead of updates.
    """

    table: TokenTable | Sequence[Mapping[str, Any]]
    rows: Sequence[int]
    ids: Sequence[str]
    target: bool

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to a worker, it takes along its own samples alone."""
        return Chunk, ([self.table[row] for row in self.rows], range(len(self.rows)), self.ids, self.target)


@dataclass(frozen=True)
class Features:
    """Gradient features at one checkpoint, kept by content.

    Attributes:
        config: sketch, precision and the like.
        settings: model and tokenizer of the warm-up run.
        checkpoint: of the run.
        folders: of the kept features, of the pool's samples and (True) of the target's.
        coverage: `all` or `linear`, see `GradientEngine`.
    """

    config: SelectConfig
    settings: ModelSettings
    checkpoint: Path
    folders: Mapping[bool, Path]
    coverage: str
    unit: str = "gradient"

    @functools.cached_property
    def caches(self) -> dict[bool, VectorCache]:
        """What is kept."""
        config = self.config
        return {of: VectorCache(path, config.sketch_dim, config.feature_precision) for of, path in self.folders.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Sent to a worker, it looks for itself what is kept."""
        return {name: value for name, value in vars(self).items() if name != "caches"}

    def missing(self, tasks: Sequence[Chunk]) -> list[Chunk]:
        """Those of which a sample has no feature yet."""
        lacking = {
            of: set(cache.missing(sample_id for chunk in tasks if chunk.target == of for sample_id in chunk.ids))
            for of, cache in self.caches.items()
        }
        return [chunk for chunk in tasks if not lacking[chunk.target].isdisjoint(chunk.ids)]

    def size(self, task: Chunk) -> int:
        """Samples."""
        return len(task.ids)

    def open(self) -> Worker[Chunk]:
        """Load the model and the optimizer's state, on the current device."""
        from ...numerics.gradients import SignHash
        from ...training.gradients.features import GradientFeatures

        influence = GradientFeatures.at(
            self.settings.options(str(self.checkpoint)),
            SignHash(self.config.sketch_dim, self.config.sketch_seed),
            eps_mode=self.config.eps_mode,
            coverage=self.coverage,
            micro_batch=self.config.score_batch_size,
        )

        def make(task: Chunk, advance: Advance) -> Mapping[str, float]:
            cache = self.caches[task.target]
            lacking = set(cache.missing(task.ids))
            own = [(sample_id, row) for sample_id, row in zip(task.ids, task.rows, strict=True) if sample_id in lacking]
            made = influence.features(task.table, [row for _, row in own], target=task.target)  # type: ignore[arg-type]
            cache.add([sample_id for sample_id, _ in own], made.numpy())
            advance(len(task.ids))
            return {}

        return make
