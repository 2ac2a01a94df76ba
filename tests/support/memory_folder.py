"""A folder in memory for tests that copy and remove a store hundreds of times, where a disk would be waited for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")
NEEDED = 1 << 30
"""Bytes that must be free there; such a test holds one small store at a time."""


@pytest.fixture
def memory_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder of one test, removed afterwards; on the disk where no memory can be had as a folder."""
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > NEEDED
    with tempfile.TemporaryDirectory(
        prefix="curate-test-", dir=MEMORY if in_memory else tmp_path_factory.getbasetemp(), ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)
