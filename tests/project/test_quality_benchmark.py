"""The benchmark of quality columns: its AUROC is the share of pairs, and its table reads planted truth from a pool."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import quality
from benchmarks.quality import auroc, row_of
from curate import Store
from tests.support.exports import ingest

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("ties", [2, 5, 1000])
def test_auroc_is_the_share_of_pairs_in_which_the_noise_is_larger(ties: int) -> None:
    noise, clean = RNG.integers(0, ties, 13).astype(float), RNG.integers(0, ties, 29).astype(float)
    slow = np.mean([(a > b) + (a == b) / 2 for a, b in itertools.product(noise, clean)])
    assert auroc(noise, clean) == pytest.approx(slow, abs=1e-12)
    assert auroc(clean, noise) == pytest.approx(1 - slow, abs=1e-12)


def test_rows_without_a_value_are_left_out_and_counted() -> None:
    kinds = ["", "", "", "x", "x", "y"]
    numbers = row_of(kinds, [1.0, 2.0, None, 3.0, None, float("nan")], flags=False)
    assert numbers == {"x": "1.00", "y": "", "clean flagged": "", "no value": "3"}
    flags = row_of(kinds, [True, False, False, True, False, True], flags=True)
    assert flags == {"x": "50%", "y": "100%", "clean flagged": "1 of 3", "no value": "0"}


def test_the_table_joins_features_with_the_truth_of_their_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"instruction": f"q{n}", "output": "a", "noise": "bad" if n > 3 else ""} for n in range(6)]
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "store")
    ingest(store, rows)
    monkeypatch.setattr(sys, "argv", ["quality.py", str(store.root), "--features", "none"])
    with pytest.raises(SystemExit, match="no numeric column"):
        quality.main()
    monkeypatch.setattr(sys, "argv", ["quality.py", str(store.root), "--features", "none", "--truth", "other"])
    with pytest.raises(SystemExit, match="'other'"):
        quality.main()
