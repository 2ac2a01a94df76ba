"""The weights of a warm-up run's checkpoints are its mean learning rates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from curate.training.gradients.features import mean_rates


def write_state(folder: Path, step: int, rates: dict[int, float]) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    history = [{"step": at, "learning_rate": rate} for at, rate in rates.items()] + [{"step": step, "eval_loss": 1.0}]
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": history}))
    return checkpoint


def test_a_checkpoint_weighs_as_the_mean_rate_since_the_one_before(tmp_path: Path) -> None:
    rates = {1: 4.0, 2: 2.0, 3: 1.0, 4: 1.0}
    run = [write_state(tmp_path, step, {at: rates[at] for at in range(1, step + 1)}) for step in (2, 4)]
    assert mean_rates(run) == pytest.approx([0.75, 0.25])
    assert mean_rates(run[1:]) == [1.0]


def test_where_no_rate_was_logged_the_nearest_counts(tmp_path: Path) -> None:
    run = [write_state(tmp_path, 5, {}), write_state(tmp_path, 10, {10: 3.0})]
    assert mean_rates(run) == [0.5, 0.5]
    (tmp_path / "none").mkdir()
    assert mean_rates([write_state(tmp_path / "none", step, {}) for step in (1, 2)]) == [0.5, 0.5]
