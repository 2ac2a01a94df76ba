"""Keep bytes until they are read: the first in memory, many in a file without a name in the store."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LARGEST = 16_000_000
"""Bytes that are kept in memory."""
PART = 1 << 20


class Spool:
    """Bytes that are written once and can be read several times.

    Args:
        folder: where the file is made. If the folder cannot be written to, all bytes stay in memory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.closed = False
        self._file: IO[bytes] = io.BytesIO()
        self._size, self._movable = 0, True

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes."""
        self._size += len(data)
        if self._movable and self._size > LARGEST:
            self._move()
        self._file.write(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: the bytes are read by this process only."""

    def clear(self) -> None:
        """Remove all bytes."""
        self._file.seek(0)
        self._file.truncate()
        self._size = 0

    def file(self) -> IO[bytes]:
        """Return the file that holds the bytes, at its start."""
        self._file.seek(0)
        return self._file

    def parts(self) -> Iterator[bytes]:
        """Yield the bytes in parts of up to 1 MB."""
        file = self.file()
        while part := file.read(PART):
            yield part

    def _move(self) -> None:
        import tempfile

        self._movable = False
        try:
            moved = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - it is closed with this process
        except OSError:  # a store that may only be read
            return
        moved.write(self._file.getbuffer() if isinstance(self._file, io.BytesIO) else self._file.read())
        self._file = moved
