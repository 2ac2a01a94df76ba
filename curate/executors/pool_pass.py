"""A pass over a pool in fixed blocks of rows: one shard a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ..store import Artifact, Draft


class InBlocks(Protocol):
    """A config that says how many rows of the pool a shard has."""

    @property
    def shard_rows(self) -> int: ...


Options = TypeVar("Options", bound=InBlocks)


@dataclass(frozen=True)
class ShardedPass(Generic[Options]):
    """A pass of a model over a pool; shard `s` is of its rows [s·shard_rows, (s + 1)·shard_rows).

    Attributes:
        config: how.
        place: of the model.
        pool: whose samples.
        total: rows of the pool that count.
        draft: of what is made.
    """

    config: Options
    place: str
    pool: Artifact
    total: int
    draft: Draft
    unit: str = "row"

    @property
    def shards(self) -> range:
        """All of them."""
        return range(-(-self.total // self.config.shard_rows))

    def rows(self, shard: int) -> range:
        """The rows of the pool that a shard is of."""
        return range(shard * self.config.shard_rows, min((shard + 1) * self.config.shard_rows, self.total))

    def missing(self, tasks: Sequence[int]) -> list[int]:
        """The shards that are not written."""
        return [shard for shard in tasks if not self.draft.shard(shard).exists()]

    def size(self, task: int) -> int:
        """Rows of the pool."""
        return len(self.rows(task))
