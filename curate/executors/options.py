"""Work in pieces that are independent of each other: in one process, in those of one launch, or on a Ray cluster.

Whoever makes a piece leaves it in the store, whole or not at all, and it comes out the same whoever makes it. So nobody
needs to be told what is done: it is looked up, and a piece that got lost with its worker is made again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, Field, model_validator

from ..config import INERT
from ..errors import ConfigError
from ..log import bar
from ..runtime.distributed import local_rank, rank, size
from ..store import Artifact, Draft

Piece = TypeVar("Piece")
Asked = TypeVar("Asked", contravariant=True)

Advance = Callable[[int], object]
"""Told how much of a piece is made meanwhile."""


class Spreading(BaseModel):
    """Who does a stage's work. The result is the same, file by file (on CPUs: with the same OMP_NUM_THREADS)."""

    engine: Annotated[Literal["local", "ray"], INERT] = Field(
        "local", description="Who works: local (this process, or those of torchrun), or the workers of a Ray cluster."
    )
    workers: Annotated[int | None, INERT] = Field(
        None, ge=1, description="Of --engine ray: how many; as many as it has GPUs, or CPUs but one, where not given."
    )

    @model_validator(mode="after")
    def _who(self) -> Spreading:
        if self.workers is not None and self.engine != "ray":
            raise ConfigError("--workers counts the workers of --engine ray; else give torchrun --nproc-per-node.")
        return self

    def connected(self) -> AbstractContextManager[object]:
        """Within it there is a Ray cluster to work on, where one is asked for."""
        if self.engine == "local":
            return nullcontext()
        if size() > 1:
            raise ConfigError("--engine ray starts its workers itself: leave torchrun out.")
        from .ray import connected

        return connected(self.workers)


class Maker(Protocol[Asked]):
    """Makes one piece after another; what it needs for that is loaded."""

    def __call__(self, piece: Asked, advance: Advance) -> Mapping[str, float]:
        """Make a piece, and say how many seconds went into which part of it."""


class Work(Protocol[Piece]):
    """What is to be done. It is sent to workers, so it can be pickled, and is cheap until it is opened."""

    @property
    def unit(self) -> str:
        """What the progress bar counts."""

    def missing(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Those that are not made, as the store has it now."""

    def size(self, piece: Piece) -> int:
        """How many units a piece is, for the progress bar."""

    def open(self) -> Maker[Piece]:
        """Load what making takes: once a process."""


class InBlocks(Protocol):
    """A config that says how many rows of the pool a shard has."""

    @property
    def shard_rows(self) -> int: ...


Options = TypeVar("Options", bound=InBlocks)


@dataclass(frozen=True)
class PoolPass(Generic[Options]):
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

    def missing(self, pieces: Sequence[int]) -> list[int]:
        """The shards that are not written."""
        return [shard for shard in pieces if not self.draft.shard(shard).exists()]

    def size(self, piece: int) -> int:
        """Rows of the pool."""
        return len(self.rows(piece))


class Crew(Protocol[Asked]):
    """Makes pieces of one work."""

    def make(self, pieces: Sequence[Asked], *, label: str) -> Mapping[str, float]:
        """Return when all pieces are made, with the seconds by part of those that this process knows of.

        Processes of one launch must ask for the same pieces in the same order: each makes its share.
        """

    def close(self) -> None:
        """Let go of what making takes."""


def crew_of(work: Work[Piece], spreading: Spreading, *, once: bool) -> Crew[Piece]:
    """Whoever is to do the work; within `spreading.connected()`.

    Args:
        work: what.
        spreading: who.
        once: there will be one call of `make`; else workers stay for the next.
    """
    if spreading.engine == "local":
        return Share(work)
    from .ray import Pass, Team

    return Pass(work, spreading.workers) if once else Team(work, spreading.workers)


class Share(Generic[Piece]):
    """This process, which makes its share of the pieces: all of them where it is alone."""

    def __init__(self, work: Work[Piece]) -> None:
        self.work = work
        self._maker: Maker[Piece] | None = None

    def make(self, pieces: Sequence[Piece], *, label: str) -> Mapping[str, float]:
        """Make every `size()`-th piece, unless it is there, then wait for the others'."""
        work, share = self.work, pieces[rank() :: size()]
        pending = work.missing(share)
        total, left = sum(map(work.size, share)), sum(map(work.size, pending))
        seconds: Counter[str] = Counter()
        with bar(total=total, label=label, unit=work.unit, initial=total - left) as progress:
            for piece in pending:
                if self._maker is None:
                    self._maker = opened(work)
                seconds.update(self._maker(piece, progress.update))
        wait_for(work, pieces)
        return seconds

    def close(self) -> None:
        """Let go of what making takes."""
        self._maker = None


def opened(work: Work[Piece]) -> Maker[Piece]:
    """The maker, on this process's own device."""
    import torch

    if torch.cuda.is_available():
        if local_rank() >= torch.cuda.device_count():
            raise ConfigError(
                f"There are more processes than GPUs on this machine: give torchrun --nproc-per-node "
                f"{torch.cuda.device_count()}."
            )
        torch.cuda.set_device(local_rank())  # from here on, "cuda" is this one
    return work.open()


def wait_for(work: Work[Piece], pieces: Sequence[Piece]) -> None:
    """Return when all pieces are made. Should the process that makes one fail, the launcher ends this one."""
    left = work.missing(pieces)
    while left:
        time.sleep(0.1)
        left = work.missing(left)
