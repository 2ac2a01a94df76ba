"""Interfaces of independent tasks: the work, the workers that do it, the executor that hands it out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from ..errors import ConfigError
from ..runtime.distributed import local_rank

Piece = TypeVar("Piece")


Asked = TypeVar("Asked", contravariant=True)


Advance = Callable[[int], object]
"""Told how much of a piece is made meanwhile."""


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


class Crew(Protocol[Asked]):
    """Makes pieces of one work."""

    def make(self, pieces: Sequence[Asked], *, label: str) -> Mapping[str, float]:
        """Return when all pieces are made, with the seconds by part of those that this process knows of.

        Processes of one launch must ask for the same pieces in the same order: each makes its share.
        """

    def close(self) -> None:
        """Let go of what making takes."""


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
