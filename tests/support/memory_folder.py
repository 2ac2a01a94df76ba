"""Folders in memory for tests, where a disk would be waited for: a store syncs each of its files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")
NEEDED = 1 << 30
"""Bytes that must be free there for a test that holds one small store at a time."""
NEEDED_BY_ALL = 4 << 30
"""Bytes that must be free there so that all temporary folders are in memory."""


def _is_free(needed: int) -> bool:
    return MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > needed


def pytest_configure() -> None:
    """Put the temporary folders of pytest in memory, unless the user has named a place for them."""
    if _is_free(NEEDED_BY_ALL):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture
def memory_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder of one test, removed afterwards; on the disk where no memory can be had as a folder."""
    with tempfile.TemporaryDirectory(
        prefix="curate-test-",
        dir=MEMORY if _is_free(NEEDED) else tmp_path_factory.getbasetemp(),
        ignore_cleanup_errors=True,
    ) as folder:
        yield Path(folder)
