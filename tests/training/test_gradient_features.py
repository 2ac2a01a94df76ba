"""Gradient features of texts, and the weights of a warm-up run's checkpoints: its mean learning rates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from curate.lm.model.scoring_model import make_scoring_model
from curate.numerics.gradients import SignHash
from curate.training.gradients.engine import GradientEngine
from curate.training.gradients.features import GradientFeatures, mean_rates
from curate.training.gradients.optimizers import OptimizerState
from tests.support.steps import Texts, build


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


def test_a_text_without_a_gradient_scores_zero_instead_of_the_momentum(tiny: str) -> None:
    texts = Texts.drawn([1, 1, 1])
    silent = replace(texts.rows[1], target=np.zeros_like(texts.rows[1].target))
    table = Texts([texts.rows[0], silent, texts.rows[2]]).table()
    model = build(tiny, full=False)
    adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for p in adam.param_groups[0]["params"]:
        adam.state[p] = {
            "step": torch.tensor(7.0),
            "exp_avg": torch.full_like(p, 1e-3),
            "exp_avg_sq": torch.full_like(p, 1e-3),
        }
    state = OptimizerState.of(adam, model)
    features = GradientFeatures(GradientEngine(make_scoring_model(model), None, lambda: state), SignHash(64, 0))
    found = features.features(table, range(3))
    assert found.norm(dim=1).tolist() == pytest.approx([1, 0, 1])
