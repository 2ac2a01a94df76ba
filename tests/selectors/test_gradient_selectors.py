"""GREATS, Filter-then-Weight, MaxGrad, RHO: each keeps the samples that an obvious computation keeps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch

from curate.errors import ConfigError
from curate.numerics.head import Head
from curate.numerics.matching import cap, matching_pursuit, nnls
from curate.selectors import CandidateBatch, RunInfo, Selector, choose, make_selector
from curate.signals import HeadGradNorm, Probe

INFO = RunInfo(vocab_size=50, max_length=16, keep=4)


def batch_of(g: torch.Tensor, target: torch.Tensor, rate: float = 0.1) -> CandidateBatch:
    """Return candidates with the gradients g (n, D), and the products with a target's gradient."""
    return CandidateBatch(
        1,
        torch.arange(len(g)),
        torch.ones(len(g)),
        {"alignment": g @ target},
        pairs={"gram": g @ g.T},
        scalars={"learning_rate": rate, "target_square": float(target @ target)},
    )


def vectors(n: int = 10, d: int = 30, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + 0.5 * target, target


def keep(selector: Selector, batch: CandidateBatch, k: int = 4) -> list[int]:
    return choose(selector.score(batch).total, k).tolist()


def test_greats_picks_as_the_obvious_loop_does() -> None:
    g, target = vectors()
    for interaction in (0.0, 1.0, 30.0):
        taken: list[int] = []
        for _ in range(4):
            value = {
                i: 0.1 * g[i] @ target - interaction * 0.01 * sum(g[i] @ g[j] for j in taken)
                for i in range(10)
                if i not in taken
            }
            taken.append(max(value, key=lambda i: float(value[i])))
        selector = make_selector("greats", {"interaction": interaction}, INFO)
        assert keep(selector, batch_of(g, target)) == sorted(taken)


@pytest.mark.parametrize("interaction", [0.0, 1.0, 30.0])
def test_greats_at_rate_0_keeps_what_it_keeps_at_a_rate_near_0(interaction: float) -> None:
    g, target = vectors()
    selector = make_selector("greats", {"interaction": interaction}, INFO)
    scores = selector.score(batch_of(g, target, rate=0.0))
    assert choose(scores.total, 4).tolist() == keep(selector, batch_of(g, target, rate=1e-9))
    assert choose(scores.total, 4).tolist() == choose(g @ target, 4).tolist() != [0, 1, 2, 3]
    assert scores.parts["zero_rate"].tolist() == [1.0] * 10 and not scores.parts["utility"].any()
    assert not selector.score(batch_of(g, target)).parts["zero_rate"].any()


@pytest.mark.parametrize("name", ["greats", "filter_weight"])
@pytest.mark.parametrize("away", [False, True])
def test_copies_are_kept_by_chance_and_not_by_order(name: str, away: bool) -> None:
    g, target = vectors(4)
    copied = (-1 if away else 1) * torch.cat([g, g, g, g])
    first = set()
    for step in range(12):
        batch = replace(batch_of(copied, target, rate=0.0), step=step)
        scores = make_selector(name, {}, INFO).score(batch)
        kept = choose(scores.total, 1, batch.chances(INFO.seed))
        first |= {int(kept[0]) // 4}
        flipped = batch.rows(torch.arange(15, -1, -1))
        again = choose(make_selector(name, {}, INFO).score(flipped).total, 1, flipped.chances(INFO.seed))
        assert 15 - again == kept
    assert len(first) == 4


def test_filter_weight_solves_the_matching_problem_on_what_it_keeps() -> None:
    g, target = vectors()
    scores = make_selector("filter_weight", {"ridge": 1e-9}, INFO).score(batch_of(g, target))
    kept = choose(scores.total, 4)
    assert scores.weights is not None
    weights = scores.weights[kept]
    raw = scipy.optimize.nnls(g[kept].T.numpy(), target.numpy())[0]
    np.testing.assert_allclose(weights.numpy(), raw / raw.sum(), rtol=1e-4)
    assert math.isclose(weights.sum(), 1.0)
    step = weights @ g[kept]
    assert math.isclose(scores.parts["cosine"][kept[0]], step @ target / step.norm() / target.norm(), rel_tol=1e-6)
    assert math.isclose(scores.parts["ess"][kept[0]], 1 / weights.square().sum(), rel_tol=1e-9)


def test_a_copy_of_what_is_kept_gets_nothing() -> None:
    g, target = vectors()
    selector = make_selector("filter_weight", {}, INFO)
    kept = keep(selector, batch_of(g, target))
    copied = torch.cat([g, g[kept]])
    scores = selector.score(batch_of(copied, target))
    again = choose(scores.total, 4).tolist()
    originals = [kept[i - 10] if i >= 10 else i for i in again]
    assert len(set(originals)) == len(originals)


def test_what_points_away_from_the_target_is_never_kept() -> None:
    g, target = vectors()
    selector = make_selector("filter_weight", {}, INFO)
    kept = keep(selector, batch_of(g, target))
    flipped = torch.cat([g, -g[kept]])
    assert all(i < 10 for i in keep(selector, batch_of(flipped, target)))


def test_if_no_combination_helps_the_target_the_best_aligned_are_kept_evenly_and_a_part_reports_it() -> None:
    g, target = vectors()
    away = g - (g @ target)[:, None] * target / (target @ target) - torch.linspace(0.1, 1, 10)[:, None] * target
    scores = make_selector("filter_weight", {}, INFO).score(batch_of(away, target))
    assert choose(scores.total, 4).tolist() == [0, 1, 2, 3]
    assert scores.weights is not None and scores.weights[:4].tolist() == [0.25] * 4
    assert scores.parts["fallback"].tolist() == [1.0] * 10


def test_a_candidate_whose_gradient_is_not_finite_is_left_out() -> None:
    g, target = vectors()
    clean = keep(make_selector("filter_weight", {}, INFO), batch_of(g[1:], target))
    g[0] = torch.nan
    for name in ("filter_weight", "greats"):
        kept = keep(make_selector(name, {}, INFO), batch_of(g, target))
        assert kept and 0 not in kept
    assert keep(make_selector("filter_weight", {}, INFO), batch_of(g, target)) == [i + 1 for i in clean]


def test_a_candidate_without_a_gradient_is_left_out_or_scored_zero() -> None:
    g, target = vectors()
    g[:3] = 0
    filtering = make_selector("filter_weight", {}, INFO)
    assert keep(filtering, batch_of(g, target)) == [i + 3 for i in keep(filtering, batch_of(g[3:], target))]
    away = torch.cat([g[:3], -(g[3:] @ target).abs()[:, None] * target])
    assert not {0, 1, 2} & set(keep(filtering, batch_of(away, target))), "nor in the fall-back"
    scores = make_selector("greats", {}, INFO).score(batch_of(g, target))
    assert scores.parts["utility"][:3].tolist() == [0, 0, 0] and scores.total.isfinite().all()


def test_where_no_candidate_has_a_gradient_nothing_fails() -> None:
    g, target = torch.zeros(6, 30, dtype=torch.float64), vectors()[1]
    scores = make_selector("filter_weight", {}, INFO).score(batch_of(g, target))
    assert scores.weights is not None and scores.weights[choose(scores.total, 4)].tolist() == [0.25] * 4
    assert scores.parts["fallback"].all() and scores.parts["cosine"][scores.total.isfinite()].tolist() == [0] * 4
    assert make_selector("greats", {}, INFO).score(batch_of(g, target)).parts["utility"].tolist() == [0] * 6
    batch = replace(batch_of(g, target), values={"grad_norm": torch.zeros(6)})
    for approximation in ("exact", "parameters"):
        assert make_selector("max_grad", {"approximation": approximation}, INFO).score(batch).total.tolist() == [0] * 6


def test_no_sample_weighs_more_than_the_cap() -> None:
    g, target = vectors(seed=3)
    scores = make_selector("filter_weight", {"w_cap": 0.3}, INFO).score(batch_of(g, target))
    assert scores.weights is not None
    weights = scores.weights[scores.weights.isfinite()]
    assert math.isclose(weights.sum(), 1.0) and weights.max() <= 0.3 + 1e-9


def test_caps_are_met_and_sums_kept() -> None:
    for seed in range(50):
        weights = torch.rand(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 4
        for limit in (0.1, 0.2, 0.5, 1.0):
            capped = cap(weights, limit)
            assert math.isclose(capped.sum(), 1.0) and capped.max() <= max(limit, 1 / 6) + 1e-9


def test_nnls_agrees_with_scipy_on_the_vectors_themselves() -> None:
    for seed in range(20):
        g, target = vectors(6, 20, seed)
        wanted = scipy.optimize.nnls(g.T.numpy(), target.numpy())[0]
        np.testing.assert_allclose(nnls(g @ g.T, g @ target).numpy(), wanted, rtol=1e-6, atol=1e-9)


def test_pursuit_with_room_for_all_is_nnls_on_all() -> None:
    g, target = vectors(8, 40)
    match = matching_pursuit(g @ g.T, g @ target, 8, ridge=1e-9)
    found = torch.zeros(8, dtype=torch.float64)
    found[match.chosen] = match.weights
    torch.testing.assert_close(found, nnls(g @ g.T, g @ target), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head_kind", ["plain", "scaled", "soft-capped"])
def test_the_heads_gradient_norm_is_autograds(head_kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 8, generator=generator, requires_grad=True)
    options: dict[str, Any] = {"plain": {}, "scaled": {"scale": 0.3}, "soft-capped": {"softcap": 2.0}}[head_kind]
    head = Head(weight, **options)
    hidden = torch.randn(3, 12, 8, generator=generator)
    labels = torch.randint(0, 50, (3, 12), generator=generator)
    labels[:, :5] = -100
    probe = Probe(hidden, Head(weight.detach(), **options), torch.ones(3, 12, dtype=torch.bool), labels)
    exact, diagonal = HeadGradNorm()(probe), HeadGradNorm(exact=False)(probe)
    for i in range(3):
        loss = torch.nn.functional.cross_entropy(head.logits(hidden[i, :-1]), labels[i, 1:], ignore_index=-100)
        (gradient,) = torch.autograd.grad(loss, weight)
        torch.testing.assert_close(exact[i], gradient.norm().double(), rtol=1e-4, atol=0)
        assert 0.3 < diagonal[i] / exact[i] < 3


def test_rho_is_the_difference_of_losses() -> None:
    values, reference = {"loss": torch.tensor([3.0, 1.0])}, {"reference_loss": torch.tensor([1.0, 2.0])}
    batch = CandidateBatch(1, torch.arange(2), torch.ones(2), values, reference)
    assert make_selector("rho", {}, INFO).score(batch).total.tolist() == [2.0, -1.0]


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("filter_weight", {"metric": "Q"}, "metric must be P or P2"),
        ("filter_weight", {"ridge": 0}, "ridge must be above 0"),
        ("filter_weight", {"w_cap": 2}, "w_cap must be above 0"),
        ("greats", {"interaction": -1}, "interaction must be 0 or more"),
        ("max_grad", {"approximation": "none"}, "approximation must be exact, token_diagonal or parameters"),
    ],
)
def test_bad_arguments_are_one_sentence(name: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_selector(name, args, INFO)
