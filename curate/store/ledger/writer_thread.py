"""Run jobs in one background thread, so that the caller does not wait for them.

The first job starts the thread and `drain` ends it, so there is nothing to close. Jobs run in the order in which they
are submitted. If a job fails, the jobs behind it are cancelled, and every later call raises its error in the caller's
thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class WriterThread:
    """Run jobs one after the other in a thread of its own.

    Args:
        name: name of the thread.
        max_pending: number of jobs that may be pending; to submit one more, the caller waits for the oldest.
    """

    def __init__(self, name: str, max_pending: int = 4) -> None:
        self.name = name
        self.max_pending = max_pending
        self._pool: ThreadPoolExecutor | None = None
        self._jobs: deque[Future[None]] = deque()

    def submit(self, job: Callable[[], None]) -> None:
        """Submit a job and return before it has run; raise the error of an earlier job."""
        self.check()
        if len(self._jobs) >= self.max_pending:
            self._take_oldest()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix=self.name)
        self._jobs.append(self._pool.submit(job))

    def check(self) -> None:
        """Raise the error of a finished job; do not wait for other jobs."""
        while self._jobs and self._jobs[0].done():
            self._take_oldest()

    def drain(self) -> None:
        """Wait until every job is done and the thread has ended; raise the error of a job."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self.check()

    def _take_oldest(self) -> None:
        try:
            self._jobs[0].result()
        except Exception:  # the job stays in the queue, so that every later call raises its error, too
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
                self._pool = None
            raise
        self._jobs.popleft()
