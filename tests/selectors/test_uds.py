"""UDS: the score, the memory and its options, each against the obvious computation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from curate.errors import ConfigError
from curate.numerics.head import Head
from curate.selectors import CandidateBatch, RunInfo, choose, make_selector
from curate.selectors.memory import Memory
from curate.selectors.uds import UDS
from curate.signals import Probe
from tests.support.paths import SHARED

INFO = RunInfo(vocab_size=60, max_length=32, seed=1)
VECTORS = SHARED / "vectors"


def batch_of(step: int, n: int = 10, **options: object) -> CandidateBatch:
    generator = torch.Generator().manual_seed(step)
    sketch = torch.randn(n, 16, generator=generator)
    values = {"utility": torch.rand(n, generator=generator, dtype=torch.float64), "sketch": sketch}
    tokens = torch.randint(5, 30, (n,), generator=generator)
    reference = {"cluster": torch.arange(n) % 3}
    targets = torch.randint(1, 5, (n,), generator=generator)
    return CandidateBatch(step, torch.arange(n) + 100 * step, tokens, values, reference, target_tokens=targets)


def uds(**options: object) -> UDS:
    selector = make_selector("uds", {"d1": 2, "d2": 8, "alpha_units": "isometric", "alpha": 0.1, **options}, INFO)
    assert isinstance(selector, UDS)
    return selector


def test_the_score_is_utility_plus_alpha_times_the_mean_distance_to_the_memory() -> None:
    selector, history = uds(memory=7), []
    for step in range(1, 6):
        batch = batch_of(step)
        scores = selector.score(batch)
        memory = torch.stack(history[-7:]).double() if history else None
        for i, sketch in enumerate(batch.values["sketch"].double()):
            delta = 0.0 if memory is None else (sketch - memory).norm(dim=1).mean().item()
            assert math.isclose(scores.parts["diversity"][i], delta, rel_tol=1e-6)
            assert math.isclose(scores.total[i], batch.values["utility"][i] + 0.1 * delta, rel_tol=1e-6)
        kept = choose(scores.total, 3)
        selector.update(batch, kept)
        history += list(batch.values["sketch"][kept])


def test_alpha_in_the_papers_units_is_root_tv_over_two_times_as_much() -> None:
    paper = uds(alpha_units="paper", alpha=1e-3)
    assert math.isclose(paper.alpha, 1e-3 * math.sqrt(32 * 60) / 2)


def test_the_intra_batch_term_is_the_mean_distance_to_the_candidates() -> None:
    batch = batch_of(1)
    scores = uds(intra_batch=True).score(batch)
    sketches = batch.values["sketch"].double()
    wanted = torch.stack([(sketch - sketches).norm(dim=1).mean() for sketch in sketches])
    torch.testing.assert_close(scores.parts["intra_batch"], wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scores.total, batch.values["utility"] + 0.1 * wanted)


def test_greedy_counts_those_already_picked_as_memory() -> None:
    selector = uds(greedy=True, alpha=5.0)
    selector.update(batch_of(1), torch.tensor([0, 1, 2]))
    batch = batch_of(2)
    memory = list(batch_of(1).values["sketch"][:3].double())
    sketches, utility = batch.values["sketch"].double(), batch.values["utility"]
    left, order = set(range(10)), []
    while left:
        value = {i: utility[i] + 5.0 * (sketches[i] - torch.stack(memory)).norm(dim=1).mean() for i in left}
        pick = max(sorted(left), key=lambda i: value[i])
        order.append(pick)
        memory.append(sketches[pick])
        left.remove(pick)
    assert selector.score(batch).total.argsort(descending=True).tolist() == order


def test_a_near_copy_in_the_same_step_is_passed_over_by_greedy_alone() -> None:
    sketch = torch.cat([torch.eye(16)[:1], torch.eye(16)[:1], torch.eye(16)[1:2]])
    values = {"utility": torch.tensor([1.0, 0.99, 0.9], dtype=torch.float64), "sketch": sketch}
    batch = CandidateBatch(1, torch.arange(3), torch.ones(3), values)
    assert choose(uds(alpha=1.0).score(batch).total, 2).tolist() == [0, 1]
    assert choose(uds(alpha=1.0, greedy=True).score(batch).total, 2).tolist() == [0, 2]


@pytest.mark.parametrize(("normalize", "power"), [("none", 0.0), ("sqrt_tokens", 0.5), ("tokens", 1.0)])
def test_the_utility_can_be_divided_by_length(normalize: str, power: float) -> None:
    batch = batch_of(1)
    wanted = batch.values["utility"] / batch.tokens.double() ** power
    torch.testing.assert_close(uds(normalize=normalize).score(batch).total, wanted)


@pytest.mark.parametrize(("normalize", "power"), [("none", 0.0), ("sqrt_tokens", 0.5), ("tokens", 1.0)])
def test_the_utility_of_completions_is_divided_by_their_own_tokens(normalize: str, power: float) -> None:
    batch = batch_of(1).rows(torch.tensor([3, 1, 7]))
    assert batch.target_tokens is not None
    wanted = batch.values["utility"] / batch.target_tokens.double() ** power
    torch.testing.assert_close(uds(normalize=normalize, tokens="completion").score(batch).total, wanted)


def test_completions_cannot_be_divided_by_tokens_that_are_not_known() -> None:
    batch = replace(batch_of(1), target_tokens=None)
    with pytest.raises(ValueError, match="give target_tokens"):
        uds(normalize="tokens", tokens="completion").score(batch)
    assert uds(normalize="tokens").score(batch).total.isfinite().all(), "as batches of older selectors' tests"


def test_a_candidate_that_is_not_finite_leaves_the_others_alone() -> None:
    for options in ({}, {"intra_batch": True}, {"greedy": True}):
        batch = batch_of(1)
        batch.values["utility"][4] = torch.nan
        batch.values["sketch"][4] = torch.nan
        scores = uds(**options).score(batch)
        assert scores.total.isnan().tolist() == [i == 4 for i in range(10)]


def test_exact_and_reference_implementations_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    head = Head(torch.randn(60, 12, generator=generator))
    hidden = torch.randn(4, 20, 12, generator=generator)
    mask = torch.ones(4, 20, dtype=torch.bool)
    mask[1, 11:] = False
    labels = torch.full((4, 20), -100)
    labels[:, 8:] = 1
    for tokens in ("all", "completion"):
        found = {}
        for implementation in ("exact", "reference"):
            selector = uds(implementation=implementation, tokens=tokens)
            probe = Probe(hidden, head, mask, labels)
            found[implementation] = [signal(probe).double() for signal in selector.signals.values()]
        for ours, theirs in zip(*found.values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_bad_options_are_one_sentence() -> None:
    for args, said in [
        ({"norm": "spectral"}, "norm must be one of nuclear, frobenius"),
        ({"memory": 0}, "at least one row"),
        ({"memory_policy": "lifo"}, "memory_policy must be one of"),
    ]:
        with pytest.raises(ConfigError, match=said):
            make_selector("uds", args, INFO)


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_authors_scoring_is_reproduced_step_after_step(name: str) -> None:
    file = VECTORS / f"uds_reference_{name}.npz"
    if not file.exists():
        pytest.skip("the authors' scoring vectors are not at hand")
    from benchmarks.uds_parity import compare

    result = compare(file)
    assert result["utility_rel_err"] <= 1e-4
    assert result["sketch_rel_err"] <= 1e-4
    assert result["kept_equal"]


def push(memory: Memory, count: int, start: int = 0, cluster: int | None = None) -> None:
    for i in range(start, start + count):
        clusters = None if cluster is None else torch.tensor([cluster])
        memory.push(torch.full((1, 2), float(i)), torch.tensor([i]), i, clusters)


def test_fifo_drops_the_oldest() -> None:
    memory = Memory(4, 2)
    push(memory, 10)
    assert sorted(memory.positions.tolist()) == [6, 7, 8, 9]
    assert memory.sketches[:, 0].tolist() == [float(p) for p in memory.positions]


def test_a_reservoir_is_a_uniform_sample_of_all_that_came() -> None:
    counts = torch.zeros(20)
    for seed in range(600):
        memory = Memory(5, 2, policy="reservoir", seed=seed)
        push(memory, 20)
        counts[memory.positions] += 1
    assert (counts / 600 - 0.25).abs().max() < 0.08


def test_no_cluster_pushes_another_out_of_a_memory_per_cluster() -> None:
    memory = Memory(6, 2, policy="per_cluster")
    push(memory, 3, start=0, cluster=0)
    push(memory, 50, start=10, cluster=1)
    assert memory.clusters.tolist().count(0) == 3
    push(memory, 1, start=90, cluster=2)
    assert sorted(memory.clusters.tolist()) == [0, 0, 1, 1, 1, 2]
