"""A store that an older curate made opens, and everything in it is found instead of being made again.

tests/fixtures/store-before-redesign.tar.gz holds the store, the pipeline that made it, and what SQL said of its ledger
then. Commit f6b2650 made it: the last one before the modules were given their present places and names.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate import Store
from curate.store.maintenance.verify import find_defects
from tests.support.paths import ROOT

FIXTURE = ROOT / "tests" / "fixtures" / "store-before-redesign.tar.gz"
LEDGER = "SELECT step, position, sample_id, kept, score, loss FROM ledger ORDER BY step, position"


@pytest.fixture
def older(tmp_path: Path) -> Store:
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    return Store(tmp_path / "store")


def test_everything_in_it_is_found(curate: Callable[..., Any], older: Store) -> None:
    before = {artifact.fingerprint for artifact in older.artifacts()}
    done = curate("run", "pipeline.yaml")
    assert done.code == 0, done.err
    made = [line for line in done.err.splitlines() if "made in" in line]
    assert made == [] and done.err.count("... found") == 9
    assert {artifact.fingerprint for artifact in older.artifacts()} == before
    assert (older.root.parent / "exports/demo-curated/README.md").is_file()


def test_its_ledger_says_what_it_said(older: Store, tmp_path: Path) -> None:
    expected = json.loads((tmp_path / "ledger.json").read_text(encoding="utf-8"))
    assert older.query(LEDGER).to_pylist() == expected and len(expected) == 32


def test_it_is_sound_and_shown(curate: Callable[..., Any], older: Store) -> None:
    assert list(find_defects(older)) == []
    shown = curate("status")
    assert shown.code == 0 and "Stale" not in shown.out and "demo-uds" in shown.out
    assert curate("inspect", "--pool", "demo", "--model", "demo-uds").code == 0
