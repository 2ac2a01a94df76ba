"""OPUS computes what the authors' code computes, and draws as the softmax of the utilities says."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from curate.errors import ConfigError, ModelError
from curate.numerics.gradients import SignHash, dots_of, gram_of
from curate.selectors import CandidateBatch, RunInfo, make_selector, requirements_of
from curate.training.gradients.optimizers import OptimizerState, require_metric
from curate.training.gradients.optimizers.frozen import newton_schulz
from tests.selectors.test_gradient_selectors import batch_of, vectors

VECTORS = Path(__file__).parents[1] / "fixtures/opus_vectors.npz"
INFO = RunInfo(vocab_size=50, max_length=16, keep=4, seed=3)


class Recorded:
    """The model, texts and optimizer of the recorded numbers."""

    def __init__(self, kind: str) -> None:
        with np.load(VECTORS) as file:
            self.numbers = {name: torch.from_numpy(file[name]) for name in file}
        self.kind = kind
        width, wider = self.of("weights_up.weight").shape[::-1]
        vocabulary = len(self.of("weights_head.weight"))
        self.model = nn.Sequential()
        self.model.add_module("embedding", nn.Embedding(vocabulary, width).requires_grad_(False))
        self.model.add_module("up", nn.Linear(width, wider, bias=False))
        self.model.add_module("tanh", nn.Tanh())
        self.model.add_module("head", nn.Linear(wider, vocabulary, bias=False))
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(self.of(f"weights_{name}"))

    def of(self, name: str) -> Tensor:
        return self.numbers[f"{self.kind}_{name}"]

    def optimizer(self) -> torch.optim.Optimizer:
        """Return an optimizer with the recorded settings and states."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer: torch.optim.Optimizer
        if self.kind.startswith("muon"):
            optimizer = torch.optim.Muon(trained, lr=0.02, momentum=0.95, weight_decay=0.0)
            states = ["momentum_buffer"]
        else:
            optimizer = torch.optim.AdamW(trained, lr=3e-3)
            states = ["step", "exp_avg", "exp_avg_sq"]
        for name, p in self.model.named_parameters():
            if p.requires_grad:
                short = name.removesuffix(".weight")
                optimizer.state[p] = {key: self.of(f"state_{short}_{key}").clone() for key in states}
        return optimizer

    def gradients(self, ids: str, labels: str) -> dict[str, Tensor]:
        """Return the gradient of each text's mean loss, one text after the other."""
        rows: dict[str, list[Tensor]] = {}
        for text, label in zip(self.numbers[ids], self.numbers[labels], strict=True):
            self.model.zero_grad()
            nn.functional.cross_entropy(self.model(text)[:-1], label[1:]).backward()  # type: ignore[no-untyped-call]
            for name, p in self.model.named_parameters():
                if p.grad is not None:
                    rows.setdefault(name, []).append(p.grad.clone())
        return {name: torch.stack(parts) for name, parts in rows.items()}

    def batch(self) -> CandidateBatch:
        """Return the candidates with their products in the metric of the optimizer."""
        kept = self.gradients("candidates", "candidate_labels")
        target = {name: block.mean(0) for name, block in self.gradients("targets", "target_labels").items()}
        state = OptimizerState.of(self.optimizer(), self.model)
        shapes = {name: block.shape[1:] for name, block in kept.items()}
        root, q = state.frozen(shapes, "opus"), state.frozen(shapes, "opus2")
        twice = {name: root[name](root[name](t)) for name, t in target.items()}
        return CandidateBatch(
            1,
            torch.arange(len(next(iter(kept.values())))),
            torch.ones(len(next(iter(kept.values())))),
            {"alignment": dots_of(kept, twice)},
            pairs={"gram": gram_of((name, q[name](block)) for name, block in kept.items())},
            scalars={"learning_rate": state.rate, "target_square": 1.0},
        )


@pytest.mark.parametrize(("kind", "tolerance"), [("adamw", 1e-5), ("muon32", 1e-5), ("muon", 2e-2)])
def test_scores_and_redundancy_are_those_of_the_authors_code(kind: str, tolerance: float) -> None:
    """The authors form Muon's matrix in bfloat16, so `muon` agrees to its rounding and `muon32` to float32's."""
    recorded = Recorded(kind)
    batch, rate = recorded.batch(), 0.02 if kind.startswith("muon") else 3e-3
    for found, theirs in (
        (rate * batch.values["alignment"], recorded.of("scores")),
        (rate**2 * batch.pairs["gram"], recorded.of("similarity")),
    ):
        assert float((found - theirs).norm() / theirs.norm()) < tolerance


@pytest.mark.parametrize("kind", ["adamw", "muon32"])
def test_without_a_temperature_the_order_is_that_of_the_authors_greedy_choice(kind: str) -> None:
    recorded = Recorded(kind)
    for standardize in (True, False):
        selector = make_selector("opus", {"temperature": 0, "standardize": standardize}, INFO)
        total = selector.score(recorded.batch()).total
        assert total.argsort(descending=True).tolist() == recorded.of("order").tolist()


@pytest.mark.parametrize("standardize", [True, False])
def test_two_draws_have_the_probabilities_of_the_softmax(standardize: bool) -> None:
    """Count pairs of draws over many steps, and compare with the softmax over the utilities that are left."""
    g, target = vectors(n=4, d=5)
    rate, steps = 0.4, 4000
    u, k = rate * (g @ target), rate**2 * (g @ g.T)
    unit = float(u.std(correction=0)) if standardize else 1.0
    expected = {}
    for first in range(4):
        p = torch.softmax(u / unit / 0.9, 0)[first]
        rest = [i for i in range(4) if i != first]
        q = torch.softmax(((u - k[first]) / unit / 0.9)[rest], 0)
        expected |= {(first, second): float(p * q[place]) for place, second in enumerate(rest)}
    selector = make_selector("opus", {"standardize": standardize}, INFO)
    counts: Counter[tuple[int, int]] = Counter()
    for step in range(steps):
        batch = batch_of(g, target, rate)
        order = selector.score(CandidateBatch(**{**vars(batch), "step": step})).total.argsort(descending=True)
        counts[int(order[0]), int(order[1])] += 1
    for pair, p in expected.items():
        assert abs(counts[pair] / steps - p) < 4 * math.sqrt(p * (1 - p) / steps) + 1e-9, pair


def test_redundancy_keeps_a_copy_of_a_drawn_candidate_out() -> None:
    g, target = vectors(n=6)
    best = int((g @ target).argmax())
    g[(best + 1) % 6] = g[best]
    batch = batch_of(g, target, rate=1.0)
    plain = make_selector("opus", {"temperature": 0, "redundancy": 0.0}, INFO).score(batch).total
    apart = make_selector("opus", {"temperature": 0, "redundancy": 30.0}, INFO).score(batch).total
    assert sorted(plain.topk(2).indices.tolist()) == sorted([best, (best + 1) % 6])
    assert sorted(apart.topk(2).indices.tolist()) != sorted([best, (best + 1) % 6])


def test_at_rate_0_the_order_is_that_of_a_rate_near_0() -> None:
    g, target = vectors()
    selector = make_selector("opus", {}, INFO)
    none, little = selector.score(batch_of(g, target, 0.0)), selector.score(batch_of(g, target, 1e-12))
    assert torch.equal(none.total, little.total)
    assert none.parts["zero_rate"].tolist() == [1] * 10
    assert little.parts["zero_rate"].tolist() == [0] * 10


def test_a_step_without_differences_draws_uniformly() -> None:
    g, target = vectors()
    batch = batch_of(g[:1].expand(10, -1), target, 1e-9)
    picks = {int(make_selector("opus", {}, RunInfo(50, 16, seed=s)).score(batch).total.argmax()) for s in range(60)}
    assert len(picks) > 5


def test_muons_matrix_is_the_polynomial_of_its_iteration() -> None:
    m = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    left, values, _ = torch.linalg.svd((m / m.norm()).double())
    a, b, c = 3.4445, -4.7750, 2.0315
    expected = (left * (a + b * values**2 + c * values**4)) @ left.mT
    torch.testing.assert_close(newton_schulz(m).double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(newton_schulz(torch.zeros(3, 4)), torch.eye(3))


def test_before_the_first_step_the_metric_is_the_rate() -> None:
    model = nn.Linear(4, 9, bias=False)
    for optimizer, factor in (
        (torch.optim.AdamW(model.parameters(), lr=0.1), math.sqrt(1 - 0.999)),
        (torch.optim.Muon(model.parameters(), lr=0.1), (1 - 0.95**2) * math.sqrt(9 / 4)),
    ):
        q = OptimizerState.of(optimizer, model).frozen({"weight": model.weight.shape}, "opus2")["weight"]
        torch.testing.assert_close(q(torch.ones(9, 4)), torch.full((9, 4), factor / 6))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"temperature": -1}, "temperature must be 0 or more"),
        ({"redundancy": -1}, "redundancy must be 0 or more"),
        ({"sketch": -1}, "sketch must be 0 or more"),
        ({"sketch": 0.5}, "sketch must be a whole number"),
    ],
)
def test_arguments_out_of_range_are_refused(args: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        requirements_of("opus", args)


def test_other_optimizers_are_refused_by_state_and_by_name() -> None:
    model = nn.Linear(3, 3)
    state = OptimizerState.of(torch.optim.SGD(model.parameters(), lr=0.1), model)
    with pytest.raises(ModelError, match="Adam, AdamW and Muon only"):
        state.frozen({"weight": model.weight.shape}, "opus")
    require_metric("muon", "opus")
    require_metric("adamw_8bit", "opus")
    with pytest.raises(ModelError, match="Adam, AdamW and Muon only"):
        require_metric("sgd", "opus")


def test_products_of_sketches_are_near_the_exact_ones() -> None:
    """The error of a count sketch of D numbers is about 1/√D of the lengths: the authors' projection has the same."""
    g = torch.randn(6, 5000, generator=torch.Generator().manual_seed(1))
    exact = g @ g.T
    for size in (256, 4096):
        rows = torch.zeros(6, size)
        SignHash(size, 0).add("w", g, rows)
        error = (rows @ rows.T - exact).abs().max() / 5000
        assert float(error) < 4 / math.sqrt(size)
