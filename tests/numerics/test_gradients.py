"""Per-sample gradients from one pass equal a loop of autograd over the samples."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from curate.numerics.gradients import (
    CaptureError,
    GradientRequest,
    Recorder,
    SignHash,
    capture,
    dots_of,
    find_sites,
    gram_of,
    weighted_sum,
)

PINNED = [522, 133, 527]


class Net(nn.Module):
    """Two linear layers and a frozen one, with dropout, optionally checkpointed."""

    def __init__(self, mode: str = "plain", dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mode = mode
        self.body = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Dropout(dropout), nn.Linear(9, 5, bias=False))
        self.frozen = nn.Linear(5, 4).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mode == "plain":
            return self.frozen(self.body(x))
        return self.frozen(checkpoint(self.body, x, use_reentrant=self.mode == "reentrant"))


def inputs() -> torch.Tensor:
    x = torch.randn(7, 11, 6, generator=torch.Generator().manual_seed(1))
    x[2] = x[5]
    return x.requires_grad_()


def losses(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return net(x).square().flatten(1).mean(1)


def loop(net: nn.Module, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """Compute each sample's gradients in a backward pass of its own: the slow, obvious twin."""
    out = []
    for i in range(len(x)):
        net.zero_grad()
        losses(net, x[i : i + 1]).sum().backward()
        out.append({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
    net.zero_grad()
    return out


def flat(blocks: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([blocks[name].flatten() for name in sorted(blocks)])


def scaled_by(root: dict[str, torch.Tensor], name: str, block: torch.Tensor) -> torch.Tensor:
    return block * root[name]


def record(net: nn.Module, x: torch.Tensor, request: GradientRequest) -> Any:
    recorder = Recorder(request, len(x), x.device)
    with capture(find_sites(net), recorder):
        loss = losses(net, x).sum()
        recorder.backward(loss, weights=True)
    return recorder.finish()


@pytest.mark.parametrize("mode", ["plain", "reentrant", "not reentrant"])
def test_everything_equals_a_loop_over_the_samples(mode: str) -> None:
    net, x = Net(mode), inputs()
    vectors = loop(net, x)
    g = torch.stack([flat(blocks) for blocks in vectors])
    generator = torch.Generator().manual_seed(2)
    names = {name: p for name, p in net.named_parameters() if p.requires_grad}
    target = {name: torch.randn(p.shape, generator=generator) for name, p in names.items()}
    p_metric = {name: torch.rand(p.shape, generator=generator) + 0.1 for name, p in names.items()}
    for power in (0.0, 1.0, 2.0):
        root = {name: q ** (power / 2) for name, q in p_metric.items()}
        h = {name: target[name] * root[name].square() for name in names}
        found = record(
            net,
            x,
            GradientRequest(target=h, transform=functools.partial(scaled_by, root), gram=True, norms=True, keep=True),
        )
        scaled = g * flat(root)
        torch.testing.assert_close(found.gram, scaled @ scaled.T, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(found.dots, scaled @ (flat(root) * flat(target)), rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(found.squares, scaled.square().sum(1), rtol=1e-5, atol=0)
        torch.testing.assert_close(gram_of(found.kept.items(), root), found.gram.double(), rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(dots_of(found.kept, h), found.dots.double(), rtol=1e-4, atol=1e-8)
    for name in names:
        wanted = torch.stack([blocks[name] for blocks in vectors])
        error = (found.kept[name] - wanted).norm() / wanted.norm()
        assert error < 1e-6


@pytest.mark.parametrize("mode", ["plain", "not reentrant"])
def test_with_dropout_they_sum_to_the_gradient_of_the_very_same_pass(mode: str) -> None:
    net, x = Net(mode, dropout=0.5), inputs()
    found = record(net, x, GradientRequest(keep=True))
    for name, total in weighted_sum(found.kept, torch.ones(7)).items():
        torch.testing.assert_close(total, net.get_parameter(name).grad, rtol=1e-5, atol=1e-8)


def test_a_weighted_sum_is_the_gradient_of_the_weighted_loss() -> None:
    net, x = Net(), inputs()
    found = record(net, x, GradientRequest(keep=True))
    weights = torch.rand(7, generator=torch.Generator().manual_seed(3))
    net.zero_grad()
    (losses(net, x) * weights).sum().backward()
    for name, total in weighted_sum(found.kept, weights).items():
        torch.testing.assert_close(total, net.get_parameter(name).grad, rtol=1e-5, atol=1e-8)


def test_hooks_are_gone_after_the_pass() -> None:
    net, x = Net(), inputs()
    recorder = Recorder(GradientRequest(norms=True), len(x), x.device)
    with capture(find_sites(net), recorder):
        losses(net, x).sum().backward()
    assert sorted(recorder.seen) == ["body.0.bias", "body.0.weight", "body.3.weight"]
    recorder.seen.clear()
    losses(net, x).sum().backward()
    assert not recorder.seen


class Direct(nn.Module):
    """A parameter that a module uses itself, beside layers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.layer = nn.Linear(4, 4)


def test_only_what_trains_is_covered_and_the_rest_is_named() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3), nn.Linear(3, 2).requires_grad_(False))
    sites = find_sites(net)
    assert sites.covered == ["0.weight", "1.weight", "1.bias", "2.weight", "2.bias"]
    assert sites.linear == ["2.weight", "2.bias"] and not sites.outside
    tied = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    tied[1].weight = tied[0].weight
    assert find_sites(tied).covered == ["0.weight"] and not find_sites(tied).linear
    assert find_sites(Direct()).outside == ["scale"]
    only = find_sites(net).only(["2.weight"])
    assert only.outside == ["0.weight", "1.weight", "1.bias", "2.bias"] and len(only.found) == 1


def test_sketches_keep_dot_products_on_average() -> None:
    g = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    g[1] += g[0]
    ratios = []
    for seed in range(200):
        out = torch.zeros(2, 256)
        SignHash(256, seed).add("w", g, out)
        ratios.append((out[0] @ out[1]) / (g[0] @ g[1]))
    assert abs(torch.stack(ratios).mean() - 1) < 0.05


def test_sketches_depend_on_names_and_not_on_batch_or_order() -> None:
    g = torch.randn(3, 40, 5, generator=torch.Generator().manual_seed(0))
    whole, single, other = (torch.zeros(n, 64) for n in (3, 1, 3))
    hashing = SignHash(64, 1)
    hashing.add("a", g, whole)
    hashing.add("b", g, whole)
    SignHash(64, 1).add("b", g[1:2], single)
    SignHash(64, 1).add("a", g[1:2], single)
    torch.testing.assert_close(whole[1:2], single)
    SignHash(64, 2).add("a", g, other)
    SignHash(64, 2).add("b", g, other)
    assert not torch.allclose(whole, other)
    assert SignHash(1000, 7)._draw("layer", 3, torch.device("cpu"))[0].tolist() == PINNED


class Twice(nn.Module):
    """A layer that is used twice, once under a checkpoint, and one that a head shares with the embeddings."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mode = mode
        self.embed = nn.Embedding(20, 6, padding_idx=0)
        self.layer = nn.Linear(6, 6)
        self.norm = nn.RMSNorm(6)
        self.head = nn.Linear(6, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(torch.tanh(self.layer(self.embed(ids))))
        if self.mode == "plain":
            x = self.norm(self.layer(x))
        else:
            x = checkpoint(lambda y: self.norm(self.layer(y)), x, use_reentrant=self.mode == "reentrant")
        return self.head(x.flatten(0, 1)).unflatten(0, ids.shape)


@pytest.mark.parametrize("mode", ["plain", "reentrant", "not reentrant"])
def test_the_uses_of_a_parameter_add_up_before_products(mode: str) -> None:
    net, ids = Twice(mode), torch.randint(0, 20, (5, 7), generator=torch.Generator().manual_seed(1))
    vectors = loop(net, ids)
    g = torch.stack([flat(blocks) for blocks in vectors])
    target = {name: torch.randn(p.shape) for name, p in net.named_parameters()}
    found = record(net, ids, GradientRequest(target=target, gram=True, norms=True))
    torch.testing.assert_close(found.gram, g @ g.T, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(found.squares, g.square().sum(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.dots, g @ flat(target), rtol=1e-5, atol=1e-6)
    kept = record(net, ids, GradientRequest(keep=True)).kept
    for name, block in kept.items():
        wanted = torch.stack([blocks[name] for blocks in vectors])
        assert (block - wanted).norm() < 1e-6 * wanted.norm()


class Shapes(nn.Module):
    """Layers whose inputs have other shapes than (samples, tokens, features), a convolution, and shared positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.positions = nn.Embedding(8, 6)
        self.flat, self.wide, self.norm = nn.Linear(6, 6), nn.Linear(3, 3), nn.LayerNorm(6)
        self.conv = nn.Conv1d(6, 6, 3, padding=1, groups=6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.positions(torch.arange(x.shape[1])[None])
        wide = self.wide(x.unflatten(-1, (2, 3)).transpose(1, 2)).transpose(1, 2).flatten(2)
        out = self.flat(x.flatten(0, 1))
        out += wide.flatten(0, 1)
        return self.norm(self.conv(out.view_as(x).mT).mT)


def test_inputs_of_other_shapes_are_divided_among_the_samples() -> None:
    net, x = Shapes(), torch.randn(5, 8, 6, generator=torch.Generator().manual_seed(1))
    vectors = loop(net, x)
    kept = record(net, x, GradientRequest(keep=True)).kept
    assert set(kept) == {name for name, _ in net.named_parameters()} and not find_sites(net).outside
    for name, block in kept.items():
        torch.testing.assert_close(block, torch.stack([blocks[name] for blocks in vectors]), rtol=1e-4, atol=1e-7)


def test_rows_that_cannot_be_divided_are_an_error() -> None:
    net, x = nn.Linear(6, 3), torch.randn(7, 6)
    recorder = Recorder(GradientRequest(norms=True), 2, x.device)
    with (
        pytest.raises(CaptureError, match=r"shape \(7, 3\) cannot be divided among 2"),
        capture(find_sites(net), recorder),
    ):
        recorder.backward(net(x).sum())
