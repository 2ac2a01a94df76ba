"""Two-sided projections equal an explicit Kronecker product, and their inner products are those of the gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from curate.numerics.gradients import GradientRequest, Recorder, SignHash, TwoSided, capture, find_sites

PINNED = [[1, -1, -1, -1], [1, 1, -1, 1]]
TOKENS = torch.tensor([[1, 2, 3, 1, 0], [4, 4, 2, 0, 1], [3, 3, 3, 3, 3], [5, 6, 1, 2, 6]])


class Net(nn.Module):
    """One of each kind: embedding tied to the head, linear layer with a bias, Conv1D, adapter, norm, all used twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(7, 24)
        self.wide, self.conv = nn.Linear(24, 20), Conv1D(24, 20)
        self.down, self.up = nn.Linear(24, 2, bias=False), nn.Linear(2, 24, bias=False)
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for _ in range(2):
            x = self.norm(x + self.conv(torch.tanh(self.wide(x))) + self.up(self.down(x)))
        return self.head(x)


def losses(net: Net, ids: Tensor) -> Tensor:
    logits = net(ids[:, :-1])
    return nn.functional.cross_entropy(logits.mT, ids[:, 1:], reduction="none").mean(1)


def captured(net: Net, sketch: Any, ids: Tensor = TOKENS, **wanted: Any) -> Tensor:
    recorder = Recorder(GradientRequest(sketch=sketch, **wanted), len(ids), ids.device)
    with capture(find_sites(net), recorder):
        recorder.backward(losses(net, ids).sum())
    found = recorder.finish().sketch
    assert found is not None
    return found


def gradients(net: Net) -> list[dict[str, Tensor]]:
    """Each sample's gradients by autograd, one sample at a time."""
    found = []
    for i in range(len(TOKENS)):
        net.zero_grad()
        losses(net, TOKENS[i : i + 1]).sum().backward()
        found.append({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
    return found


def by_kronecker(net: Net, sketch: TwoSided) -> Tensor:
    """The slow, obvious twin: vec(P G Qᵀ) = (P ⊗ Q) vec(G) with the whole matrix, added at the parameter's slot."""
    rows = []
    for sample in gradients(net):
        row, others = torch.zeros(1, sketch.size), SignHash(sketch.size, sketch.seed)
        for name, gradient in sample.items():
            if gradient.dim() != 2:
                others.add(name, gradient[None], row)
                continue
            left, right = sketch.factors(name, gradient.shape, gradient.device)
            values = torch.kron(left.T.contiguous(), right.T.contiguous()) @ gradient.flatten()
            row[0, sketch.start(name) :][: len(values)] += values
        rows.append(row)
    return torch.cat(rows)


@pytest.mark.parametrize("side", [1, 4, 16, 32])
def test_projected_factors_are_the_projected_gradients(side: int) -> None:
    net, sketch = Net(), TwoSided(4 * side**2, 3, side)
    expected = by_kronecker(net, sketch)
    torch.testing.assert_close(captured(net, sketch), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_a_transform_sees_whole_gradients_and_they_are_projected_alike() -> None:
    net, sketch = Net(), TwoSided(64, 3, 4)
    plain = captured(net, sketch)
    doubled = captured(net, sketch, transform=lambda name, block: 2 * block)
    torch.testing.assert_close(doubled, 2 * plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(captured(net, sketch, norms=True), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", [4, 8])
def test_inner_products_are_unbiased_over_seeds(side: int) -> None:
    net = Net()
    whole = torch.stack([torch.cat([g.flatten() for g in sample.values()]) for sample in gradients(net)])
    wanted, draws = whole @ whole.T, []
    blocks = {name: torch.stack([sample[name] for sample in gradients(net)]) for name, _ in net.named_parameters()}
    for seed in range(400):
        sketch, into = TwoSided(2 * side**2, seed, side), torch.zeros(len(TOKENS), 2 * side**2)
        for name, block in blocks.items():
            sketch.add(name, block, into)
        draws.append(into @ into.T)
    found = torch.stack(draws)
    error = found.std(0) / len(draws) ** 0.5
    assert ((found.mean(0) - wanted).abs() < 4.5 * error).all()
    assert (error < 0.1 * wanted.diagonal().mean()).all(), "too noisy to show a bias"


def test_a_gradient_of_at_most_that_many_entries_is_kept_exactly() -> None:
    sketch, block = TwoSided(256, 0, 16), torch.randn(3, 8, 32, generator=torch.Generator().manual_seed(0))
    into = torch.zeros(3, 256)
    sketch.add("a", block, into)
    torch.testing.assert_close(into @ into.T, block.flatten(1) @ block.flatten(1).T)


@pytest.mark.parametrize(
    "shape, counts",
    [((128, 384), (16, 16)), ((8, 128), (8, 32)), ((128, 8), (32, 8)), ((2, 24), (2, 24)), ((1, 9999), (1, 256))],
)
def test_a_short_side_leaves_its_numbers_to_the_other(shape: tuple[int, int], counts: tuple[int, int]) -> None:
    assert TwoSided(256, 0, 16).counts(torch.Size(shape)) == counts


def test_vectors_depend_on_seed_and_name_only() -> None:
    net = Net()
    first = captured(net, TwoSided(64, 3, 4))
    assert torch.equal(first, captured(net, TwoSided(64, 3, 4)))
    torch.testing.assert_close(captured(net, TwoSided(64, 3, 4), TOKENS.flip(0)).flip(0), first, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(first, captured(net, TwoSided(64, 4, 4)))
    left, right = TwoSided(16, 0, 4).factors("w", torch.Size((6, 6)), TOKENS.device)
    assert not torch.equal(left, right)
    assert left.mul(2).int().tolist()[:2] == PINNED


@pytest.mark.parametrize("size, side", [(100, 16), (0, 4), (16, 0)])
def test_a_size_that_is_not_whole_blocks_is_refused(size: int, side: int) -> None:
    with pytest.raises(ValueError, match="multiple"):
        TwoSided(size, 0, side)
