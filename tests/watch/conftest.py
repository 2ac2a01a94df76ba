"""What the tests of `curate watch` share: a store with runs, made once, and a copy of it for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from curate import Store
from tests.support.reports import store_of


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_of(tmp_path_factory.mktemp("reported"))


@pytest.fixture
def store(reported: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(reported, tmp_path / "store"))
