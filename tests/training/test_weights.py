"""A sample of weight 2 is trained on as if its row were there twice, and the ledger's weights are those of the step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate.selectors import SELECTORS, CandidateBatch, GradientNeeds, Scores, Selector
from curate.selectors.filter_weight import FilterWeight
from curate.training.loss_weights import log_weights, mean_weights
from tests.support.steps import Step, Texts, apart, gradients, step_of

WEIGHTS = [2, 1, 3, 1, 1, 2]

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padded": {"batching": "padded"},
    "sorted and split": {"batching": "sorted", "train_batch_tokens": 40},
    "packed and split": {"batching": "packed", "train_batch_tokens": 40},
    "padded, accumulated": {"batching": "padded", "accumulation": 2},
    "accumulated": {"accumulation": 2},
    "chunked": {"logits_budget": 0},
    "all weights": {"full": True},
    "random": {"selector": "random"},
    "uds": {"selector": "uds"},
    "max_loss, accumulated": {"selector": "max_loss", "accumulation": 3},
    "greats, rerun": {"selector": "greats"},
    "greats, reuse": {"selector": "greats", "reuse": True},
    "max_grad, reuse": {"selector": "max_grad", "selector_args": {"approximation": "parameters"}, "reuse": True},
    "max_grad, chunked": {"selector": "max_grad", "logits_budget": 0},
}


@pytest.mark.parametrize("way", WAYS)
def test_weight_two_is_the_row_twice(way: str, tiny: str, tmp_path: Path) -> None:
    texts, options = Texts.drawn(WEIGHTS), dict(WAYS[way])
    weighted = step_of(texts, tiny, tmp_path / "weighted", **options)
    options["accumulation"] = min(2, options.get("accumulation", 1))  # ten texts
    repeated = step_of(texts.repeated(), tiny, tmp_path / "repeated", **options)
    assert apart(weighted.gradient, repeated.gradient) < 1e-6
    unweighted = Texts([replace(row, weight=1.0) for row in texts.rows])
    without = step_of(unweighted, tiny, tmp_path / "without", **(options | {"accumulation": 1}))
    assert apart(weighted.gradient, without.gradient) > 1e-2, "the weights do something"
    given = weighted.columns["sample_weight"]
    order = weighted.columns["position"]
    np.testing.assert_array_equal(given, [np.nan if WEIGHTS[n] == 1 else WEIGHTS[n] for n in order])
    assert without.columns["sample_weight"] is None


class Even(Selector):
    """Selector that keeps all candidates with equal weights."""

    gradients = GradientNeeds(norms=True)

    def score(self, batch: CandidateBatch) -> Scores:
        ones = torch.ones(len(batch), dtype=torch.float64)
        return Scores(ones, {}, 7 * ones)


class Falling(Even):
    """Selector that weights candidates by their place."""

    def score(self, batch: CandidateBatch) -> Scores:
        falling = 1 / torch.arange(1, len(batch) + 1).double()
        return Scores(falling, {}, falling)


class FallsBack(FilterWeight):
    """filter_weight for a target that no combination of the candidates helps."""

    def score(self, batch: CandidateBatch) -> Scores:
        against = {"alignment": -batch.values["alignment"].abs() - 1e-3}
        scores = super().score(replace(batch, values={**batch.values, **against}))
        assert scores.parts["fallback"].all()
        return scores


def by_ledger(step: Step, texts: Texts, place: str) -> dict[str, torch.Tensor]:
    """Return the gradient of a step as the ledger describes it, from gradients of mean losses by autograd."""
    columns, kept = step.columns, step.columns["kept"]
    rows = np.asarray(columns["position"])[kept]
    if columns["weight"] is None:
        own = np.ones(len(kept)) if columns["sample_weight"] is None else np.nan_to_num(columns["sample_weight"], nan=1)
        weights = (own * columns["target_tokens"])[kept]
        weights = weights / weights.sum()
    else:
        weights = columns["weight"][kept]
        assert np.isnan(columns["weight"][~kept]).all()
    assert weights.sum() == pytest.approx(1)
    each = gradients(texts, place)
    return {name: torch.tensordot(torch.from_numpy(weights), block[rows], 1) for name, block in each.items()}


@pytest.mark.parametrize("ways", [[1] * 6, [2, 0.25, 1, 1, 5, 1.5]], ids=["without weights", "with weights"])
@pytest.mark.parametrize("update", ["reuse", "rerun", "rerun, accumulated"])
@pytest.mark.parametrize("selector", ["filter_weight", "falls back", "even", "falling", "greats", "max_grad"])
def test_the_weights_of_the_ledger_give_the_gradient_of_the_step(
    selector: str, update: str, ways: list[float], tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, kind in {"even": Even, "falling": Falling, "falls back": FallsBack}.items():
        monkeypatch.setitem(SELECTORS, name, kind)
    texts = Texts.drawn(ways)
    args = {"max_grad": {"approximation": "parameters"}}.get(selector, {})
    options = {"selector_args": args, "reuse": update == "reuse", "accumulation": 2 if "accumulated" in update else 1}
    step = step_of(texts, tiny, tmp_path, selector, keep=4, **options)
    assert (step.columns["weight"] is None) == (selector in ("greats", "max_grad"))
    assert 1 <= step.columns["kept"].sum() <= 4
    assert apart(step.gradient, by_ledger(step, texts, tiny)) < 1e-6


def test_even_weights_are_a_mean_over_samples_and_not_over_tokens(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SELECTORS, "even", Even)
    texts = Texts.drawn([1] * 4)
    step = step_of(texts, tiny, tmp_path, "even")
    each = gradients(texts, tiny)
    assert apart(step.gradient, {name: block.mean(0) for name, block in each.items()}) < 1e-6
    np.testing.assert_allclose(step.columns["weight"], 0.25, rtol=1e-12)


def factors(tokens: list[int], own: list[float] | None, given: list[float] | None) -> list[float]:
    logs = log_weights(
        torch.tensor(tokens),
        None if own is None else torch.tensor(own, dtype=torch.float64),
        None if given is None else torch.tensor(given, dtype=torch.float64),
    )
    return mean_weights(logs, logs).tolist()


def test_under_a_selectors_weights_a_row_of_weight_two_counts_as_two_rows_with_its_weight() -> None:
    mine = factors([5, 7, 9], [2, 1, 3], [0.5, 0.3, 0.2])
    twice = factors([5, 5, 7, 9, 9, 9], None, [0.5, 0.5, 0.3, 0.2, 0.2, 0.2])
    assert mine == pytest.approx([sum(twice[:2]), twice[2], sum(twice[3:])])
    assert factors([5, 7, 9], None, [0.5, 0.3, 0.2]) == pytest.approx([0.5, 0.3, 0.2])


@pytest.mark.parametrize("given", [None, [0.0, 0.5, 0.5]])
def test_absurd_ratios_of_weights_neither_overflow_nor_vanish(given: list[float] | None) -> None:
    assert factors([10, 10, 10], [1.7e308, 1.7e308, 5e-324], given) == pytest.approx(
        [0.5, 0.5, 0] if given is None else [0, 1, 0]
    )
    assert factors([1, 2, 3], [5e-324] * 3, given) == pytest.approx(
        [1 / 6, 1 / 3, 0.5] if given is None else [0, 0.5, 0.5]
    )


def test_weights_without_target_tokens_are_zero() -> None:
    assert factors([0, 0], [2, 1], None) == [0, 0] and factors([0, 3], [2, 1], None) == [0, 1]


def test_a_model_whose_head_cannot_be_factored_is_trained_with_weights_too(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = Texts.drawn(WEIGHTS)
    factored = step_of(texts, tiny, tmp_path / "factored")
    monkeypatch.setattr("curate.training.run.head_is_verified", lambda *_: False)
    assert apart(step_of(texts, tiny, tmp_path / "whole").gradient, factored.gradient) < 1e-6
    unweighted = Texts([replace(row, weight=1.0) for row in texts.rows])
    assert step_of(unweighted, tiny, tmp_path / "plain").gradient.keys() == factored.gradient.keys()
