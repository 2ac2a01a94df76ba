"""Lock an unfinished artifact, so that only one process makes it at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from ...errors import StoreError
from .files import HOST
from .safe_files import open_lock, open_to_read


class DraftLock:
    """An advisory lock on a file in the artifact's folder. The system releases it when the process that holds it ends.

    Args:
        path: the lock file; it is created if necessary.
        what: description of the artifact, for error messages.
        wait: whether to wait until another process gives the lock back, instead of raising an error.
    """

    def __init__(self, path: Path, what: str, *, wait: bool = False) -> None:
        self.path = path
        self.what = what
        self.wait = wait
        self._file: IO[str] | None = None

    def __enter__(self) -> DraftLock:
        while True:
            try:
                file = open_lock(self.path)
            except FileNotFoundError:  # the folder was removed again
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX if self.wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(
                    f"Another process{_holder(file)} is making {self.what} right now. Wait for it, or give the result "
                    "another --name and config."
                ) from None
            if self._is_current(file):
                break
            file.close()
        file.truncate(0)
        file.write(f"{os.getpid()} on {HOST}")
        file.flush()
        self._file = file
        return self

    def _is_current(self, file: IO[str]) -> bool:
        """Return whether the path still is the opened file: `curate gc` removes locks with their drafts."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.lstat())
        except FileNotFoundError:
            return False

    def is_held(self) -> bool:
        """Return whether a living process holds the lock.

        It takes a shared lock for an instant, so several processes may check at the same time.

        Raises:
            StoreError: something other than a regular file is in the place of the lock.
        """
        try:
            with open_to_read(self.path) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None


def _holder(file: IO[str]) -> str:
    """Return the process that a lock file names, in brackets; close the file."""
    with file:
        file.seek(0)
        process = file.read().strip()
    return f" ({process})" if process else ""
