"""Interfaces for independent tasks: their work, the workers that run them, and the executor that hands them out.

An executor finds the tasks that are not finished, gives them to workers, and waits for the results in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from ..errors import ConfigError
from ..runtime.distributed import local_rank

Task = TypeVar("Task")
Task_contra = TypeVar("Task_contra", contravariant=True)

Advance = Callable[[int], object]
"""Function that a worker calls with the number of units finished since the last call."""


class Worker(Protocol[Task_contra]):
    """Runs tasks, one after another. Everything that a worker needs, such as a model, is loaded already."""

    def __call__(self, task: Task_contra, advance: Advance) -> Mapping[str, float]:
        """Run a task and return the seconds spent in each part of it; call `advance` during the work."""


class Work(Protocol[Task]):
    """The work that tasks belong to. It is sent to workers, so it must be picklable, and cheap until it is opened."""

    @property
    def unit(self) -> str:
        """Unit that the progress bar counts, such as `row`."""

    def missing(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the tasks whose results are not in the store yet."""

    def size(self, task: Task) -> int:
        """Return the number of units in a task, for the progress bar."""

    def open(self) -> Worker[Task]:
        """Load what the tasks need and return a worker; called once per process."""


class Executor(Protocol[Task_contra]):
    """Hands out the tasks of one work to workers."""

    def make(self, tasks: Sequence[Task_contra], *, label: str) -> Mapping[str, float]:
        """Run the tasks that are not finished, and return when all are.

        All processes of one launch must call this with the same tasks in the same order: each runs its share.

        Args:
            tasks: the tasks, finished ones included.
            label: the label of the progress bar.

        Returns:
            Part of the work -> seconds, summed over the tasks whose timing this process knows.
        """

    def close(self) -> None:
        """Free the workers, and the models that they hold."""


def load_worker(work: Work[Task]) -> Worker[Task]:
    """Return a worker on this process's own device.

    Raises:
        ConfigError: there are more processes than GPUs on this machine.
    """
    import torch

    if torch.cuda.is_available():
        if local_rank() >= torch.cuda.device_count():
            raise ConfigError(
                f"There are more processes than GPUs on this machine: give torchrun --nproc-per-node "
                f"{torch.cuda.device_count()}."
            )
        torch.cuda.set_device(local_rank())  # from now on, "cuda" means this GPU
    return work.open()


def wait_for(work: Work[Task], tasks: Sequence[Task]) -> None:
    """Return when all tasks are finished. If the process that runs one of them fails, the launcher ends this one."""
    left = work.missing(tasks)
    while left:
        time.sleep(0.1)
        left = work.missing(left)
