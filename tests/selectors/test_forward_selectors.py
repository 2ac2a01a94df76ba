"""RSR, Q-Tuning and SLAP: scores and masks are what an obvious loop over candidates and tokens gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from curate.errors import ConfigError
from curate.numerics.head import Head
from curate.numerics.head_gradients import _signs
from curate.numerics.losses import IGNORE
from curate.selectors import CandidateBatch, RunInfo, make_selector, requirements_of
from curate.selectors.q_tuning import quantiles, smoothed
from curate.selectors.slap import learnability, spread
from curate.signals import HeadGradNorm, HeadGradSketch, Probe

INFO = RunInfo(vocab_size=50, max_length=16, keep=2)
LABELS = 9


def probe_of(texts: int = 4, length: int = 9, seed: int = 0) -> Probe:
    """Return texts of different lengths, whose first two tokens are no targets; the last text has one target."""
    generator = torch.Generator().manual_seed(seed)
    head = Head(torch.randn(INFO.vocab_size, 6, generator=generator))
    labels = torch.randint(0, INFO.vocab_size, (texts, length), generator=generator)
    lengths = torch.tensor([length, length - 2, length - 4, 3])[:texts, None]
    index = torch.arange(length)
    labels[(index < 2) | (index >= lengths)] = IGNORE
    return Probe(2 * torch.randn(texts, length, 6, generator=generator), head, index < lengths, labels)


def rows_of(probe: Probe) -> list[list[tuple[float, int]]]:
    """Return loss and rank of each target token, text by text: the slow twin."""
    log_p = torch.log_softmax(probe.logits(), -1)
    found = []
    for text, targets in zip(log_p, probe.targets.tolist(), strict=True):
        tokens = [(t, y) for t, y in enumerate(targets) if y != IGNORE]
        found.append([(-float(text[t, y]), 1 + sum(p > text[t, y] for p in text[t])) for t, y in tokens])
    return [[(loss, int(rank)) for loss, rank in text] for text in found]


@pytest.mark.parametrize("max_rank", [0, 5, 100])
def test_rsr_is_the_mean_rank_over_the_mean_loss_of_the_target_tokens(max_rank: int) -> None:
    selector = make_selector("rsr", {"max_rank": max_rank}, INFO)
    values = {name: signal(probe_of()) for name, signal in selector.signals.items()}
    scores = selector.score(CandidateBatch(1, torch.arange(4), torch.ones(4), values))
    for row, tokens in enumerate(rows_of(probe_of())):
        ranks = [min(rank, max_rank or rank) for _, rank in tokens]
        ratio = sum(ranks) / sum(loss for loss, _ in tokens)
        assert float(scores.total[row]) == pytest.approx(-ratio, rel=1e-5)
        assert float(scores.parts["mean_rank"][row]) == pytest.approx(sum(ranks) / len(ranks), rel=1e-5)


def test_rsr_refuses_a_rank_that_is_no_whole_number() -> None:
    for wrong in (-1, 0.5):
        with pytest.raises(ConfigError, match="max_rank must be a whole number, 0 or more"):
            requirements_of("rsr", {"max_rank": wrong})


def plane(seed: int, count: int = 12) -> CandidateBatch:
    """Return candidates with losses and entropies, and no tokens."""
    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.rand(count, generator=generator) for name in ("loss", "entropy")}
    return CandidateBatch(1, torch.arange(count), torch.full((count,), 16), values)


@pytest.mark.parametrize("seed", range(5))
def test_q_tuning_keeps_what_a_bisection_of_the_threshold_keeps(seed: int) -> None:
    """For every k: the k kept are all candidates of the two corners at some threshold, and no others."""
    batch = plane(seed)
    loss, entropy = batch.values["loss"].tolist(), batch.values["entropy"].tolist()
    p, e = ([sorted(axis).index(value) / (len(axis) - 1) for value in axis] for axis in (loss, entropy))
    scores = make_selector("q_tuning", {"tokens": 1}, INFO).score(batch)
    assert scores.token_masks is None
    for k in range(1, 12):
        kept = set(scores.total.topk(k).indices.tolist())
        threshold = max(-float(scores.total[i]) for i in kept) + 1e-12
        misconceptions = {i for i in range(12) if p[i] >= 1 - threshold and e[i] <= threshold}
        calibration = {i for i in range(12) if p[i] <= threshold and e[i] >= 1 - threshold}
        assert kept <= misconceptions | calibration
        below = threshold - 2e-12
        surely = {
            i for i in range(12) if (p[i] >= 1 - below and e[i] <= below) or (p[i] <= below and e[i] >= 1 - below)
        }
        assert surely <= kept
        for i in kept:
            assert scores.parts["quadrant"][i] == (2 if i in misconceptions else 4) or i in misconceptions & calibration


def test_q_tuning_trains_on_the_most_plausible_tokens_of_misconceptions() -> None:
    probe = probe_of(length=LABELS)
    selector = make_selector("q_tuning", {"tokens": 0.5, "neighbours": 0.3}, INFO)
    values = {name: signal(probe) for name, signal in selector.signals.items()}
    assert values["token_losses"].shape == (4, 16)
    scores = selector.score(CandidateBatch(1, torch.arange(4), torch.full((4,), LABELS), values))
    assert scores.token_masks is not None
    assert sorted(set(scores.parts["quadrant"].tolist())) == [2, 4]
    for row, tokens in enumerate(rows_of(probe)):
        positions = [
            t + 1 for t, y in enumerate(probe.targets[row].tolist()) if y != IGNORE
        ]  # token t + 1 is predicted
        if scores.parts["quadrant"][row] == 4:
            assert scores.token_masks[row].all()
            continue
        ppl = [math.exp(loss) for loss, _ in tokens]
        n = len(ppl)
        s = [0.7 * ppl[i] + 0.3 * (ppl[max(0, i - 1)] + ppl[min(n - 1, i + 1)]) for i in range(n)]
        left = {positions[i] for i in np.argsort(s, kind="stable")[: math.ceil(0.5 * n)]}
        assert {t for t in positions if scores.token_masks[row, t]} == left
        assert all(scores.token_masks[row, t] for t in range(16) if t not in positions)


def test_a_neighbour_that_is_no_target_counts_as_the_token_itself() -> None:
    ppl = torch.tensor([9.0, 2.0, 4.0, 7.0, 5.0])
    found = smoothed(ppl, torch.tensor([1, 2, 4]), 0.25)
    assert found.tolist() == [0.75 * 2 + 0.25 * (2 + 4), 0.75 * 4 + 0.25 * (2 + 4), 0.75 * 5 + 0.25 * (5 + 5)]


def test_equal_candidates_have_equal_quantiles() -> None:
    usable = torch.tensor([True, True, True, False, True])
    found = quantiles(torch.tensor([3.0, 1.0, 3.0, 0.0, 5.0], dtype=torch.float64), usable)
    assert found[usable].tolist() == pytest.approx([0.5, 0.0, 0.5, 1.0]) and found[3].isnan()
    assert quantiles(torch.ones(1, dtype=torch.float64), torch.tensor([True])).tolist() == [0.5]


@pytest.mark.parametrize(
    ("args", "said"), [({"tokens": 0}, "above 0 and at most 1"), ({"neighbours": 2}, "from 0 to 1")]
)
def test_q_tuning_refuses_shares_out_of_range(args: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        requirements_of("q_tuning", args)


def measured(seed: int = 0, count: int = 12) -> CandidateBatch:
    generator = torch.Generator().manual_seed(seed)
    values = {
        "loss": torch.rand(count, generator=generator),
        "head_gradient": torch.randn(count, 9, generator=generator),
    }
    return CandidateBatch(1, torch.arange(count), torch.full((count,), 16), values)


def test_slap_keeps_one_candidate_of_each_stratum_and_the_best_of_its_compositions() -> None:
    info = RunInfo(vocab_size=50, max_length=16, keep=4, seed=2)
    batch = measured()
    scores = make_selector("slap", {"compositions": 400}, info).score(batch)
    kept = scores.total.topk(4).indices.sort().values
    strata = batch.values["loss"].argsort().view(4, 3)
    assert [sum(int(i) in kept.tolist() for i in stratum) for stratum in strata] == [1] * 4
    assert {int(scores.parts["stratum"][i]) for i in strata[2]} == {2}
    every = torch.cartesian_prod(*strata)  # 400 draws of 81 compositions have seen nearly all
    phi = batch.values["head_gradient"].double()
    gains, distances = learnability(phi, torch.arange(12), every), spread(phi, every)
    value = gains / gains.mean() + distances / distances.mean()
    own = (every.sort(1).values == kept).all(1).nonzero()[0, 0]
    assert int((value > value[own] + 1e-9).sum()) <= 3


def test_learnability_and_spread_are_those_of_an_obvious_loop() -> None:
    phi = measured(1).values["head_gradient"].double()
    drawn = torch.tensor([[0, 3, 5], [1, 2, 11]])
    h = (phi**2).mean(0)
    for row, members in enumerate(drawn.tolist()):
        mean = sum(phi[i] for i in members) / 3
        wanted = 0.5 * sum(float(m) ** 2 / float(d + 0.01 * h.mean()) for m, d in zip(mean, h, strict=True))
        assert float(learnability(phi, torch.arange(12), drawn)[row]) == pytest.approx(wanted)
        cosines = [torch.cosine_similarity(phi[i], phi[j], 0) for i in members for j in members if i < j]
        assert float(spread(phi, drawn)[row]) == pytest.approx(1 - float(sum(cosines)) / 3)
    assert spread(phi, drawn[:, :1]).tolist() == [0, 0]


@pytest.mark.parametrize("kind", ["plain", "scaled", "capped"])
def test_the_sketch_of_a_head_gradient_is_that_of_autograds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.numerics.head_gradients.CPU_ROWS", 5)
    probe = probe_of()
    options = {"plain": {}, "scaled": {"scale": 0.5}, "capped": {"softcap": 3.0}}[kind]
    probe.head = Head(probe.head.weight, **options)
    found = HeadGradSketch(size=6, seed=3)(probe)
    left, right = (_signs(3, name, count, 6, torch.device("cpu")) for name, count in (("left", 50), ("right", 6)))
    assert left.abs().unique().tolist() == pytest.approx([6**-0.5])
    for row in range(4):
        weight = probe.head.weight.clone().requires_grad_()
        logits = Head(weight, **options).logits(probe.hidden()[row])
        torch.nn.functional.cross_entropy(logits, probe.targets[row], ignore_index=IGNORE).backward()
        assert weight.grad is not None
        torch.testing.assert_close(found[row].view(6, 6), left.T @ weight.grad @ right, rtol=1e-4, atol=1e-5)
    log_p = torch.log_softmax(probe.logits(), -1)
    wanted = torch.nn.functional.cross_entropy(log_p.mT, probe.targets, reduction="none", ignore_index=IGNORE)
    torch.testing.assert_close(probe.target_losses, wanted, rtol=1e-4, atol=1e-5)


def test_products_of_head_sketches_are_those_of_the_gradients_on_average() -> None:
    probe = probe_of()
    products = torch.stack([(s := HeadGradSketch(8, seed)(probe)) @ s.T for seed in range(400)])
    exact = HeadGradNorm()(probe).square()
    error = products.mean(0).diagonal() / exact - 1
    assert float(error.abs().max()) < 0.1


@pytest.mark.parametrize(
    ("args", "said"), [({"compositions": 0}, "a whole number, 1 or more"), ({"diversity": -1}, "0 or more")]
)
def test_slap_refuses_numbers_out_of_range(args: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        requirements_of("slap", args)
