"""The files of a pass of `curate embed` over a pool, and the interface of its workers."""

from __future__ import annotations

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
class Measuring(ShardedPass[EmbedConfig]):
    """The work of a pass that measures a pool, as tasks of one shard each.

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
