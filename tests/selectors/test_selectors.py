"""Laws that every batch selector obeys."""

from __future__ import annotations

import copy

import pytest
import torch

from curate.errors import ConfigError
from curate.selectors import SELECTORS, CandidateBatch, Facts, Selector, check_args, choose, make_selector

FACTS = Facts(vocab_size=50, max_length=16, seed=5, keep=4)
WIDTH = {"sketch": 8 * 128}


def batch_of(selector: Selector, step: int = 1, n: int = 12) -> CandidateBatch:
    """Made-up signals of n candidates: whatever the selector asks for."""
    generator = torch.Generator().manual_seed(step)
    values = {
        name: torch.rand(n, WIDTH[name], generator=generator) if name in WIDTH else torch.rand(n, generator=generator)
        for name in selector.signals
    }
    reference = {name: torch.randint(0, 3, (n,), generator=generator) for name in selector.features}
    g = torch.randn(n, 20, generator=generator)
    if selector.gradients is not None:
        values |= {"alignment": g @ g.mean(0), "grad_norm": g.norm(dim=1)}
    return CandidateBatch(
        step,
        torch.randperm(1000, generator=generator)[:n],
        torch.arange(1, n + 1),
        values,
        reference,
        {"gram": g @ g.T},
        {"learning_rate": 0.1, "target_square": float(g.mean(0).square().sum())},
    )


def run(selector: Selector, steps: range) -> list[list[int]]:
    """Rows kept in each step."""
    out = []
    for step in steps:
        batch = batch_of(selector, step)
        kept = choose(selector.score(batch).total, 4)
        selector.update(batch, kept)
        out.append(kept.tolist())
    return out


@pytest.fixture(params=SELECTORS)
def selector(request: pytest.FixtureRequest) -> Selector:
    return make_selector(request.param, {}, FACTS)


def test_scoring_reads_the_state_and_never_writes_it(selector: Selector) -> None:
    run(selector, range(1, 4))
    before = copy.deepcopy(selector.state_dict())
    first, second = (selector.score(batch_of(selector, 4)) for _ in range(2))
    assert torch.equal(first.total.nan_to_num(), second.total.nan_to_num())
    assert all(torch.equal(value, before[name]) for name, value in selector.state_dict().items())


def test_as_many_as_are_kept_get_a_score_and_every_candidate_every_part(selector: Selector) -> None:
    scores = selector.score(batch_of(selector))
    assert scores.total.shape == (12,) and scores.total.isfinite().sum() >= FACTS.keep
    assert all(part.shape == (12,) for part in scores.parts.values())


def test_a_saved_and_loaded_selector_goes_on_alike(selector: Selector) -> None:
    whole = run(selector, range(1, 9))
    first = make_selector(name_of(selector), {}, FACTS)
    begun = run(first, range(1, 5))
    second = make_selector(name_of(selector), {}, FACTS)
    second.load_state_dict(first.state_dict())
    assert begun + run(second, range(5, 9)) == whole


def test_it_has_no_parameters(selector: Selector) -> None:
    assert not list(selector.parameters())


def test_an_unknown_argument_is_an_error_that_suggests_the_nearest(selector: Selector) -> None:
    with pytest.raises(ConfigError, match="no argument 'nonsense'"):
        check_args(name_of(selector), {"nonsense": 1})


def name_of(selector: Selector) -> str:
    return next(name for name, kind in SELECTORS.items() if type(selector) is kind)


def test_an_unknown_selector_is_an_error_that_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'max_loss'"):
        check_args("maxloss", {})
    with pytest.raises(ConfigError, match="Did you mean 'alpha'"):
        check_args("uds", {"alfa": 1})


def test_choosing_takes_the_highest_in_order_of_place() -> None:
    assert choose(torch.tensor([1.0, 5.0, 3.0, 5.0]), 2).tolist() == [1, 3]
    assert choose(torch.tensor([2.0, 2.0, 2.0]), 2).tolist() == [0, 1]


def test_what_is_not_finite_is_never_kept() -> None:
    assert choose(torch.tensor([torch.nan, 1.0, torch.nan]), 2).tolist() == [1]


def test_random_keeps_every_candidate_equally_often() -> None:
    counts = torch.zeros(8)
    selector = make_selector("random", {}, FACTS)
    for step in range(2000):
        batch = CandidateBatch(step, torch.arange(8), torch.ones(8))
        counts[choose(selector.score(batch).total, 2)] += 1
    assert (counts / 2000 - 0.25).abs().max() < 0.04


def test_random_does_not_depend_on_the_order_of_the_candidates() -> None:
    selector = make_selector("random", {}, FACTS)
    positions = torch.arange(10)
    shuffled = positions[torch.randperm(10, generator=torch.Generator().manual_seed(0))]
    kept = [
        set(order[choose(selector.score(CandidateBatch(3, order, torch.ones(10))).total, 4)].tolist())
        for order in (positions, shuffled)
    ]
    assert kept[0] == kept[1]
