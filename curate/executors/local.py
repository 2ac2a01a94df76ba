"""Run tasks in this process, or in the processes that torchrun started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Generic

from ..log import bar
from ..runtime.distributed import rank, size
from .work import Task, Work, Worker, load_worker, wait_for


class LocalExecutor(Generic[Task]):
    """This process, which makes its share of the tasks: all of them where it is alone."""

    def __init__(self, work: Work[Task]) -> None:
        self.work = work
        self._maker: Worker[Task] | None = None

    def make(self, tasks: Sequence[Task], *, label: str) -> Mapping[str, float]:
        """Make every `size()`-th task, unless it is there, then wait for the others'."""
        work, share = self.work, tasks[rank() :: size()]
        pending = work.missing(share)
        total, left = sum(map(work.size, share)), sum(map(work.size, pending))
        seconds: Counter[str] = Counter()
        with bar(total=total, label=label, unit=work.unit, initial=total - left) as progress:
            for task in pending:
                if self._maker is None:
                    self._maker = load_worker(work)
                seconds.update(self._maker(task, progress.update))
        wait_for(work, tasks)
        return seconds

    def close(self) -> None:
        """Let go of what making takes."""
        self._maker = None
