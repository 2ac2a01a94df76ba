"""The pass over a pool that `curate embed` makes, and what the first process of a launch writes before it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...executors.pool_pass import ShardedPass
from ...executors.work import Worker
from ...store import Artifact
from .before import Before
from .config import EmbedConfig
from .earlier import Earlier


class Measurer(Worker[int], Protocol):
    """A worker that measures and writes shards.

    Attributes:
        earlier: what earlier features have; set before the first shard.
        before: the losses of `--before`; set before the first shard.
    """

    earlier: Earlier
    before: Before | None


@dataclass(frozen=True)
class Embedding(ShardedPass[EmbedConfig]):
    """The pass that measures a pool, as tasks of one shard each.

    Attributes:
        earlier: features that have samples measured in the same way.
    """

    earlier: tuple[Artifact, ...] = ()

    @property
    def repeats(self) -> Path:
        """File that lists the rows with a repeated conversation; only the first of them is measured."""
        return self.draft.path / "repeats.parquet"

    @property
    def known(self) -> Path:
        """File that lists the samples that earlier features have."""
        return self.draft.path / "known.parquet"

    @property
    def losses_before(self) -> Path:
        """File with the losses of the features of `--before`."""
        return self.draft.path / "losses_before.parquet"

    @property
    def lists(self) -> list[Path]:
        """The files that the first process of a launch writes before the first shard."""
        return [self.repeats, self.known, *([self.losses_before] if self.config.before else [])]

    def open(self) -> Worker[int]:
        """Load the model on the current device, while the first process of a launch writes the lists."""
        worker = self._load()
        while not all(path.exists() for path in self.lists):
            time.sleep(0.1)
        worker.earlier = Earlier.read(self.known, self.earlier)
        worker.before = Before(self.losses_before) if self.config.before else None
        return worker

    def _load(self) -> Measurer:
        if self.config.encoder is not None:
            from .encoding import TextEncoder

            return TextEncoder(self)
        from .embedder import Embedder

        return Embedder(self)
