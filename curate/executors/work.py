"""Interfaces of independent tasks: the work, the workers that do it, the executor that hands it out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from ..errors import ConfigError
from ..runtime.distributed import local_rank

Task = TypeVar("Task")


Task_contra = TypeVar("Task_contra", contravariant=True)


Advance = Callable[[int], object]
"""Told how much of a task is made meanwhile."""


class Worker(Protocol[Task_contra]):
    """Makes one task after another; what it needs for that is loaded."""

    def __call__(self, task: Task_contra, advance: Advance) -> Mapping[str, float]:
        """Make a task, and say how many seconds went into which part of it."""


class Work(Protocol[Task]):
    """What is to be done. It is sent to workers, so it can be pickled, and is cheap until it is opened."""

    @property
    def unit(self) -> str:
        """What the progress bar counts."""

    def missing(self, tasks: Sequence[Task]) -> list[Task]:
        """Those that are not made, as the store has it now."""

    def size(self, task: Task) -> int:
        """How many units a task is, for the progress bar."""

    def open(self) -> Worker[Task]:
        """Load what making takes: once a process."""


class Executor(Protocol[Task_contra]):
    """Makes tasks of one work."""

    def make(self, tasks: Sequence[Task_contra], *, label: str) -> Mapping[str, float]:
        """Return when all tasks are made, with the seconds by part of those that this process knows of.

        Processes of one launch must ask for the same tasks in the same order: each makes its share.
        """

    def close(self) -> None:
        """Let go of what making takes."""


def load_worker(work: Work[Task]) -> Worker[Task]:
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


def wait_for(work: Work[Task], tasks: Sequence[Task]) -> None:
    """Return when all tasks are made. Should the process that makes one fail, the launcher ends this one."""
    left = work.missing(tasks)
    while left:
        time.sleep(0.1)
        left = work.missing(left)
