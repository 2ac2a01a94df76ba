"""Run tasks in this process, or divide them among the processes that torchrun started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Generic

from ..log import bar
from ..runtime.distributed import rank, size
from .work import Task, Work, Worker, load_worker, wait_for


class LocalExecutor(Generic[Task]):
    """Run this process's share of the tasks. A process that is alone runs all of them.

    Args:
        work: the work that the tasks belong to.
    """

    def __init__(self, work: Work[Task]) -> None:
        self.work = work
        self._worker: Worker[Task] | None = None

    def make(self, tasks: Sequence[Task], *, label: str) -> Mapping[str, float]:
        """Run every `size()`-th task that is not finished, then wait until the other processes have finished theirs."""
        seconds = self.make_share(tasks[rank() :: size()], label=label)
        wait_for(self.work, tasks)
        return seconds

    def make_share(self, share: Sequence[Task], *, label: str) -> Mapping[str, float]:
        """Run the tasks of a share that are not finished, and return the seconds by part of the work."""
        work = self.work
        pending = work.missing(share)
        total, left = sum(map(work.size, share)), sum(map(work.size, pending))
        seconds: Counter[str] = Counter()
        with bar(total=total, label=label, unit=work.unit, initial=total - left) as progress:
            for task in pending:
                if self._worker is None:
                    self._worker = load_worker(work)
                seconds.update(self._worker(task, progress.update))
        return seconds

    def close(self) -> None:
        """Free the worker, and the model that it holds."""
        self._worker = None
