"""One thread behind an object, for work that the caller need not wait for.

The thread is there from the first job until `drain`, so nothing has to be closed. Work is done in the order given. What
fails is not lost: every later call raises it in the caller's thread, and what waited behind it is not done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class WriterThread:
    """Does jobs one after the other in a thread of its own.

    Args:
        name: of the thread.
        most: jobs that may wait; whoever gives one more waits for the oldest.
    """

    def __init__(self, name: str, most: int = 4) -> None:
        self.name = name
        self.most = most
        self._pool: ThreadPoolExecutor | None = None
        self._jobs: deque[Future[None]] = deque()

    def give(self, job: Callable[[], None]) -> None:
        """Have `job` done soon; raises what an earlier job raised."""
        self.check()
        if len(self._jobs) >= self.most:
            self._take_oldest()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix=self.name)
        self._jobs.append(self._pool.submit(job))

    def check(self) -> None:
        """Raise what a finished job raised; waits for nothing."""
        while self._jobs and self._jobs[0].done():
            self._take_oldest()

    def drain(self) -> None:
        """Return when every job is done and the thread has ended; raises what one of them raised."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self.check()

    def _take_oldest(self) -> None:
        try:
            self._jobs[0].result()
        except Exception:  # the job stays where it is, so that every later call raises it, too
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
                self._pool = None
            raise
        self._jobs.popleft()
