"""Compute and cache the gradient features of samples at one checkpoint, as tasks that several processes can share.

A task is a `Chunk` of samples, and features are cached by sample id. `gradient_scores` turns features into scores.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...executors.work import Advance, Worker
from ...store.vectors.cache import VectorCache
from ..settings import ModelSettings

if TYPE_CHECKING:
    from ...lm.tokens.token_table import TokenTable
    from .config import SelectConfig


@dataclass(frozen=True)
class Chunk:
    """Samples of a request whose features are computed and cached together.

    A request is always cut into the same chunks, for any process and for any state of the cache, because the texts that
    share a pass change the last digit of a feature.

    Attributes:
        table: tokens of the samples.
        rows: rows of the samples in the table.
        ids: sample ids.
        target: True for plain gradients, as for target samples; False for Adam's updates.
    """

    table: TokenTable | Sequence[Mapping[str, Any]]
    rows: Sequence[int]
    ids: Sequence[str]
    target: bool

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the rows of this chunk, not the whole table."""
        return Chunk, ([self.table[row] for row in self.rows], range(len(self.rows)), self.ids, self.target)


@dataclass(frozen=True)
class Features:
    """Work that computes gradient features at one checkpoint and caches them by content.

    Attributes:
        config: options of the sketch and of its precision.
        settings: model and tokenizer of the warm-up run.
        checkpoint: folder of the checkpoint.
        folders: folders of the cached features: of the pool's samples (False) and of the target's (True).
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
        """Caches of the features in `folders`, by the same keys."""
        config = self.config
        return {
            target: VectorCache(path, config.sketch_dim, config.feature_precision)
            for target, path in self.folders.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the caches: each worker opens them itself."""
        return {name: value for name, value in vars(self).items() if name != "caches"}

    def missing(self, tasks: Sequence[Chunk]) -> list[Chunk]:
        """Return the chunks in which a sample has no cached feature."""
        lacking = {
            of_target: set(cache.missing(name for chunk in tasks if chunk.target == of_target for name in chunk.ids))
            for of_target, cache in self.caches.items()
        }
        return [chunk for chunk in tasks if not lacking[chunk.target].isdisjoint(chunk.ids)]

    def size(self, task: Chunk) -> int:
        """Return the number of samples in a chunk."""
        return len(task.ids)

    def open(self) -> Worker[Chunk]:
        """Load the model and the optimizer's state, on the current device."""
        from ...training.gradients.features import GradientFeatures

        features = GradientFeatures.at(
            self.settings.options(str(self.checkpoint)),
            self.config.sketch(),
            eps_mode=self.config.eps_mode,
            coverage=self.coverage,
            micro_batch=self.config.score_batch_size,
        )

        def compute(task: Chunk, advance: Advance) -> Mapping[str, float]:
            cache = self.caches[task.target]
            lacking = set(cache.missing(task.ids))
            own = [(sample_id, row) for sample_id, row in zip(task.ids, task.rows, strict=True) if sample_id in lacking]
            rows = [row for _, row in own]
            plain = task.target or self.config.direction == "gradient"
            vectors = features.features(task.table, rows, target=plain)  # type: ignore[arg-type]
            cache.add([sample_id for sample_id, _ in own], vectors.numpy())
            advance(len(task.ids))
            return {}

        return compute
