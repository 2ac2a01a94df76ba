"""A pass over a pool in fixed blocks of rows. Each block is one task and writes one shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ..store import Artifact, Draft


class InBlocks(Protocol):
    """A config with the number of rows of the pool per shard."""

    @property
    def shard_rows(self) -> int: ...


Options = TypeVar("Options", bound=InBlocks)


@dataclass(frozen=True)
class ShardedPass(Generic[Options]):
    """A pass of a model over a pool. Shard `s` covers the rows [s·shard_rows, (s + 1)·shard_rows).

    Attributes:
        config: the stage's config.
        model_location: the folder of the model, or its name on the Hugging Face Hub.
        pool: the pool whose samples are processed.
        total: the number of rows of the pool to process.
        draft: the unfinished artifact to which shards are written.
        unit: the unit that the progress bar counts.
    """

    config: Options
    model_location: str
    pool: Artifact
    total: int
    draft: Draft
    unit: str = "row"

    @property
    def shards(self) -> range:
        """The numbers of all shards."""
        return range(-(-self.total // self.config.shard_rows))

    def rows(self, shard: int) -> range:
        """Return the rows of the pool that a shard covers."""
        return range(shard * self.config.shard_rows, min((shard + 1) * self.config.shard_rows, self.total))

    def missing(self, tasks: Sequence[int]) -> list[int]:
        """Return the shards that are not written yet."""
        return [shard for shard in tasks if not self.draft.shard(shard).exists()]

    def size(self, task: int) -> int:
        """Return the number of rows in a shard."""
        return len(self.rows(task))
