"""The last line of the benchmark on a real model has every key, and its ratios are those of the turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import real_step, trl_tokens
from curate import Store, make


def turn(seconds: float, peak: int = 100) -> dict[str, Any]:
    return {"seconds": {"training": seconds / 2, "data": seconds / 2}, "peak": peak}


def test_the_first_turn_does_not_count_and_the_median_of_the_others_does() -> None:
    ours, earlier = [turn(90), turn(1), turn(3), turn(2)], [turn(1), turn(4), turn(4), turn(4, 200)]
    found = real_step.of_turns(ours, earlier)
    assert found["ratios"] == [0.25, 0.75, 0.5] and found["ratio"] == 0.5 and found["memory"] == 0.5
    assert found["parts"]["earlier"] == {"data": 2, "training": 2}


def test_the_last_line_has_null_for_what_was_not_measured_or_cannot_be() -> None:
    found = {
        "uds": real_step.of_turns([turn(1), turn(1)], [turn(1), turn(2)]),
        "uds_prescreen": {},
        "prescreen_same": {"ratio": 0.75, "memory": None},
    }
    line = real_step.last_line(found, "here")
    assert line["uds"] == 0.5 and line["prescreen_same"] == 0.75 and line["memory"] == 1 and line["machine"] == "here"
    assert line["uds_prescreen"] is None and line["greats"] is None and set(line["parts"]) == {"uds"}
    assert set(real_step.KEYS) <= set(line)
    assert real_step.last_line({"prescreen_same": {"ratio": None, "memory": None}}, "")["memory"] is None


def test_same_kept_samples_are_counted_step_by_step() -> None:
    wanted = {1: {"a", "b"}, 2: {"c", "d"}}
    assert real_step.share_of_same(wanted, {1: {"a", "x"}, 2: {"a", "d"}}) == 0.5
    assert real_step.share_of_same(wanted, wanted) == 1 and real_step.share_of_same(wanted, {}) == 0


def test_a_packed_step_holds_the_tokens_of_a_padded_one() -> None:
    assert trl_tokens.packed_batch([100, 156], 512) == 2 and trl_tokens.packed_batch([3], 512) == 1


def test_rows_for_trl_are_those_that_the_run_trained_on(store: Store, pool_file: Path, tiny: str) -> None:
    make(store, "ingest", name="trained", data=[str(pool_file)])
    options = {"candidates": 4, "keep": 4, "max_steps": 2, "max_length": 64}
    run = make(store, "train", name="r", pool="trained", model=tiny, selector="full", **options)
    args = real_step.argparse.Namespace(model=tiny, length=64)
    rows = real_step.rows_of(store, run, args)
    targets = store.query("SELECT sum(target_tokens) AS n FROM ledger WHERE kept").to_pylist()[0]["n"]
    assert len(rows) == 8 and sum(label != -100 for row in rows for label in row["labels"]) == targets
    assert real_step.share_of_same(real_step.kept_of(store, "r"), real_step.kept_of(store, "r")) == pytest.approx(1)
