"""`on_step`: each step is reported as the ledger has it; a run that it stops is resumed to the same result."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate import StepReport, Store
from curate.errors import RunStopped
from curate.log import LOGGER
from tests.support.training import weights

STEPS = 6


@pytest.fixture
def mine(tmp_path: Path, pool_file: Path) -> Store:
    store = Store(tmp_path / "store")
    store.ingest(data=[pool_file], name="pool")
    return store


def options(tiny: str, **more: Any) -> Any:
    shape = {"candidates": 8, "keep": 4, "max_steps": STEPS, "max_length": 64, "logging_steps": 1}
    return {"pool": "pool", "model": tiny, "selector": "max_loss", "name": "run", **shape, **more}


def test_each_step_is_reported_as_the_ledger_and_the_log_have_it(
    mine: Store, tiny: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    seen: list[StepReport] = []
    run = mine.train(**options(tiny, per_device_train_batch_size=2), on_step=seen.append)
    assert run.fresh and [report.step for report in seen] == list(range(1, STEPS + 1))
    rows = mine.query(run.sql).df()
    for report in seen:
        own = rows[rows["step"] == report.step]
        assert list(report.sample_ids) == own["sample_id"].tolist()
        assert report.positions.tolist() == own["position"].tolist() and report.kept.tolist() == own["kept"].tolist()
        assert np.array_equal(report.scores, own["score"]) and np.array_equal(report.losses, own["loss"])
        assert list(report.kept_ids) == own[own["kept"]]["sample_id"].tolist() and len(report.kept_positions) == 4
        assert report.seconds > 0
    logged = mine.query("SELECT value FROM metrics WHERE metric = 'loss' ORDER BY step")["value"].to_pylist()
    assert [report.loss for report in seen] == pytest.approx(logged, abs=1e-4)
    again = mine.train(**options(tiny, per_device_train_batch_size=2), on_step=seen.append)
    assert not again.fresh and len(seen) == STEPS
    assert "'run' is made already, so on_step is not called" in caplog.text


def test_a_run_that_is_stopped_and_resumed_equals_one_that_is_not(
    mine: Store, tiny: str, tmp_path: Path, pool_file: Path
) -> None:
    with pytest.raises(RunStopped, match=r"on_step stopped 'run' after step 2\. .*curate resume run"):
        mine.train(**options(tiny), on_step=lambda report: report.step != 2)
    assert mine.status().df().set_index("name").loc["run", "state"] == "unfinished"
    rest: list[int] = []
    run = mine.resume("run", on_step=lambda report: rest.append(report.step))
    assert rest == [3, 4, 5, 6]
    other = Store(tmp_path / "other")
    other.ingest(data=[pool_file], name="pool")
    whole = other.train(**options(tiny))
    assert run.fingerprint == whole.fingerprint and run.arrow().equals(whole.arrow())
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(run).items())


def test_an_error_ends_the_run_with_its_traceback_and_the_run_goes_on_later(mine: Store, tiny: str) -> None:
    def fails(report: StepReport) -> None:
        if report.step == 5:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        try:
            mine.train(**options(tiny, save_steps=2), on_step=fails)
        finally:
            assert "in fails" in "".join(traceback.format_exception(sys.exc_info()[1]))
    steps: list[int] = []
    run = mine.resume("run", on_step=lambda report: steps.append(report.step))
    assert steps == [5, 6] and run.summary["steps"] == STEPS


def test_false_after_the_last_step_and_no_scores_are_fine(mine: Store, tiny: str) -> None:
    last: list[StepReport] = []

    def stop(report: StepReport) -> bool:
        last.append(report)
        return report.step < STEPS

    run = mine.train(**options(tiny, selector="random", candidate_losses=False), on_step=stop)
    assert run.summary["steps"] == STEPS and np.isnan(last[-1].losses).all() and np.isfinite(last[-1].loss)
