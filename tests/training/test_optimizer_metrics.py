"""The metric of each optimizer is the one of its own next step, and what has none is refused by name."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from curate.errors import ModelError
from curate.training.gradients.features import state_of
from curate.training.gradients.optimizers import Moments, OptimizerState, cross_of, require_metric
from curate.training.gradients.optimizers.kinds import TRAINER, rule_of

Make = Callable[[Any], Any]


def of(module: str, name: str, **settings: Any) -> Make:
    """Return a function that builds an optimizer, or skips where its package is absent."""

    def make(parameters: Any) -> Any:
        try:
            kind = getattr(importlib.import_module(module), name)
        except ImportError:
            pytest.skip(f"{module} is not installed")
        return kind(parameters, **settings)

    return make


def torch_of(name: str, **settings: Any) -> Make:
    return of("torch.optim", name, **settings)


OPTIMIZERS: dict[str, Make] = {
    "AdamW": torch_of("AdamW", lr=1e-2, weight_decay=0.1),
    "AdamW fused": torch_of("AdamW", lr=1e-2, fused=True),
    "AdamW amsgrad": torch_of("AdamW", lr=1e-2, amsgrad=True),
    "Adam with L2": torch_of("Adam", lr=1e-2, weight_decay=0.1),
    "NAdam": torch_of("NAdam", lr=1e-2, weight_decay=0.1, decoupled_weight_decay=True),
    "RAdam": torch_of("RAdam", lr=1e-2),
    "Adamax": torch_of("Adamax", lr=1e-2),
    "SGD": torch_of("SGD", lr=1e-2, weight_decay=0.1),
    "SGD momentum": torch_of("SGD", lr=1e-2, momentum=0.9, dampening=0.3),
    "SGD Nesterov": torch_of("SGD", lr=1e-2, momentum=0.9, nesterov=True),
    "RMSprop": torch_of("RMSprop", lr=1e-2, momentum=0.5),
    "Adagrad": torch_of("Adagrad", lr=1e-2, lr_decay=0.1),
    "Adadelta": torch_of("Adadelta", lr=1.0),
    "Adafactor": torch_of("Adafactor", lr=1e-2),
    "Adafactor of transformers": of(
        "transformers.optimization", "Adafactor", lr=1e-2, scale_parameter=False, relative_step=False
    ),
    "Adafactor, relative, with momentum": of("transformers.optimization", "Adafactor", beta1=0.9),
    "StableAdamW": of("optimi", "StableAdamW", lr=1e-2),
    "AdamW of optimi": of("optimi", "AdamW", lr=1e-2),
    "schedule-free AdamW": of("schedulefree", "AdamWScheduleFree", lr=1e-2, warmup_steps=8),
    "schedule-free RAdam": of("schedulefree", "RAdamScheduleFree", lr=1e-2),
    "schedule-free SGD": of("schedulefree", "SGDScheduleFree", lr=1e-2),
    "AdamW32bit": of("bitsandbytes.optim", "AdamW32bit", lr=1e-2),
    "AdamW8bit": of("bitsandbytes.optim", "AdamW8bit", lr=1e-2),
    "PagedAdamW8bit": of("bitsandbytes.optim", "PagedAdamW8bit", lr=1e-2),
    "AdEMAMix": of("bitsandbytes.optim", "AdEMAMix", lr=1e-2, t_alpha=20, t_beta3=20),
    "AdEMAMix8bit": of("bitsandbytes.optim", "AdEMAMix8bit", lr=1e-2),
    "RMSprop of bitsandbytes": of("bitsandbytes.optim", "RMSprop32bit", lr=1e-2),
}


class World:
    """A model of two matrices, and an optimizer after some steps with random gradients."""

    def __init__(self, make: Make, steps: int, *, groups: bool = False, bias: bool = True) -> None:
        self.make, self.groups = make, groups
        self.model = nn.Sequential(nn.Linear(96, 64, bias=False), nn.Linear(64, 70, bias=bias))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in self.model.parameters():
                p.normal_(std=0.02, generator=generator)  # steps of 1e-2 are then far above float32 rounding
        self.optimizer = self.optimizer_for(self.model)
        for seed in range(steps):
            self.step(self.gradients(seed))

    def optimizer_for(self, model: nn.Module) -> Any:
        one, two = model.children()
        parts = [{"params": list(one.parameters())}, {"params": list(two.parameters()), "lr": 4e-2}]
        optimizer = self.make(parts if self.groups else list(model.parameters()))
        if hasattr(optimizer, "train"):
            optimizer.train()
        return optimizer

    def gradients(self, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(100 + seed)
        return {
            name: 0.1 * torch.randn(p.shape, generator=generator) * (1 + 3 * torch.rand(p.shape, generator=generator))
            for name, p in self.model.named_parameters()
        }

    def step(self, gradients: dict[str, torch.Tensor]) -> None:
        for name, p in self.model.named_parameters():
            p.grad = gradients[name].clone()
        self.optimizer.step()

    def steps_with(self, gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return how a copy of the optimizer changes the weights, by name, in float64."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        other.optimizer = self.optimizer_for(other.model)
        saved = copy.deepcopy(self.optimizer.state_dict())
        other.optimizer.load_state_dict(saved)
        before = {name: p.detach().clone().double() for name, p in other.model.named_parameters()}
        other.step(gradients)
        return {name: p.detach().double() - before[name] for name, p in other.model.named_parameters()}

    def state(self) -> OptimizerState:
        return OptimizerState.of(self.optimizer, self.model)


def highest_rate(state: OptimizerState) -> float:
    return max(state.known.rate(slot) for slot in state.slots.values())


@pytest.mark.parametrize("steps", [0, 1, 3, 8])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_is_the_step_that_the_optimizer_takes_with_that_gradient(name: str, steps: int) -> None:
    """Compare differences of two steps: what does not depend on the gradient (decay, drift to averages) cancels."""
    world = World(OPTIMIZERS[name], steps)
    state, (one, two) = world.state(), (world.gradients(90), world.gradients(91))
    real = {n: world.steps_with(one)[n] - world.steps_with(two)[n] for n in one}
    for parameter, change in real.items():
        block = torch.stack([one[parameter], two[parameter]])
        found = state.update(parameter, block).double()
        expected = -highest_rate(state) * (found[0] - found[1])
        error = float((expected - change).norm() / change.norm().clamp_min(1e-12))
        assert error < (2e-3 if "bit" in name else 2e-4), (parameter, error)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_metric_with_the_square_of_the_step_is_exact(name: str) -> None:
    world = World(OPTIMIZERS[name], 4)
    state, gradients = world.state(), world.gradients(90)
    for parameter, g in gradients.items():
        slot, rule = state.slots[parameter], state.known
        scale = rule.scale(slot, g, g.square())
        momentum = rule.momentum(slot, g)
        total = rule.factor(slot) * rule.gradient(slot, g) + (0 if momentum is None else momentum)
        update = rule.update(slot, g[None])[0]
        if name in ("RMSprop", "Adafactor, relative, with momentum"):  # momentum after the division
            bare = replace(slot, state={k: v for k, v in slot.state.items() if k not in ("momentum_buffer", "exp_avg")})
            update, total = rule.update(bare, g[None])[0], rule.factor(slot) * g
        torch.testing.assert_close(scale * total, update, rtol=1e-4, atol=1e-7)
        p = state.preconditioner(parameter, Moments(1.0, g, g.square()))
        torch.testing.assert_close(p, state.factors[parameter] * scale)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "schedule-free AdamW", "AdamW8bit"])
def test_rates_of_groups_are_those_of_the_step(name: str) -> None:
    """LoRA+ has two rates: the metric of the slower parameters is smaller by their ratio."""
    world = World(OPTIMIZERS[name], 12, groups=True)
    state = world.state()
    assert state.rates == pytest.approx({"0.weight": 0.25, "1.weight": 1.0, "1.bias": 1.0}) and not state.uniform
    assert state.rate == pytest.approx(4e-2)
    world.optimizer.param_groups[0]["lr"] = 0.0
    frozen = world.state()
    assert frozen.rates["0.weight"] == 0.0
    moments = {n: Moments(1.0, g, g.square()) for n, g in world.gradients(9).items()}
    for metric in ("rate", "rate2", "adam", "adam2"):
        assert not frozen.roots(moments, metric)["0.weight"](world.gradients(9)["0.weight"]).any()
    for group in world.optimizer.param_groups:
        group["initial_lr"], group["lr"] = group["lr"] or 1e-2, 0.0
    assert world.state().rates == pytest.approx(state.rates)
    assert world.state().rate == 0.0


def test_a_parameter_that_the_optimizer_does_not_have_has_no_part() -> None:
    world = World(OPTIMIZERS["AdamW"], 2)
    optimizer = torch.optim.AdamW(world.model[1].parameters(), lr=1e-2)
    state = OptimizerState.of(optimizer, world.model)
    g = world.gradients(0)["0.weight"]
    moments = {"0.weight": Moments(1.0, g, g.square())}
    assert not state.roots(moments, "adam")["0.weight"](g).any() and not state.update("0.weight", g[None]).any()


def test_the_square_of_a_mean_of_k_candidates_is_the_mean_over_all_draws() -> None:
    import itertools

    g = torch.randn(7, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cross = cross_of(g) / 7
    for k in (1, 2, 5, 7):
        means = torch.stack([g[list(rows)].mean(0) for rows in itertools.combinations(range(7), k)])
        moments = Moments(7.0, g.mean(0), g.square().mean(0), cross).of_batch(k)
        torch.testing.assert_close(moments.square, means.square().mean(0))
        assert moments.cross is not None
        torch.testing.assert_close(moments.cross, cross_of(means) / len(means))


def test_a_gradient_that_will_be_clipped_enters_the_metric_as_it_is_clipped() -> None:
    world = World(OPTIMIZERS["AdamW"], 3)
    g = {name: 50 * value for name, value in world.gradients(7).items()}
    norm = float(torch.cat([value.flatten() for value in g.values()]).norm())
    clipped = {name: value / norm for name, value in g.items()}
    state = OptimizerState.of(world.optimizer, world.model, clip=1.0)
    found = state.roots({n: Moments(1.0, v, v.square()) for n, v in g.items()}, "adam2", kept=1)
    expected = world.state().roots({n: Moments(1.0, v, v.square()) for n, v in clipped.items()}, "adam2")
    for name, value in g.items():
        torch.testing.assert_close(found[name](value), expected[name](value), rtol=1e-4, atol=0)


def test_muons_metric_is_the_orthogonal_factor_of_its_momentum() -> None:
    """Its Newton-Schulz iteration has an error of its own, so the twin is an exact factor by singular values."""
    world = World(torch_of("Muon", lr=1e-2, weight_decay=0.0), 3, bias=False)
    state, gradients = world.state(), world.gradients(9)
    for parameter, g in gradients.items():
        rule, slot = state.known, state.slots[parameter]
        x = rule.factor(slot) * g + rule.momentum(slot, g)  # type: ignore[operator]
        left, _, right = torch.linalg.svd(x, full_matrices=False)
        side = rule.side_metric(slot, g, cross_of(g[None]), -0.5)  # type: ignore[attr-defined]
        torch.testing.assert_close(side(x), left @ right, rtol=1e-3, atol=1e-4)
        half = rule.side_metric(slot, g, cross_of(g[None]), -0.25)  # type: ignore[attr-defined]
        torch.testing.assert_close(half(half(x)), left @ right, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(rule.update(slot, g[None])[0], left @ right, rtol=1e-3, atol=1e-4)
        real = -world.steps_with(gradients)[parameter] / rule.rate(slot)
        assert float((real - left @ right).norm() / real.norm()) < 0.3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (torch_of("Rprop"), r"torch.optim.Rprop has no metric .* a sign"),
        (torch_of("ASGD"), r"torch.optim.ASGD has no metric .* does not know"),
        (torch_of("RMSprop", centered=True), "centered=True"),
        (of("bitsandbytes.optim", "Lion8bit"), r"bitsandbytes.optim.Lion8bit has no metric"),
        (of("bitsandbytes.optim", "LAMB"), r"bitsandbytes.optim.LAMB has no metric"),
        (of("optimi", "Lion", lr=1e-3), r"optimi.lion.Lion has no metric"),
    ],
)
def test_an_optimizer_without_a_metric_is_named_with_its_package(make: Make, said: str) -> None:
    world = World(torch_of("SGD", lr=1e-2), 0)
    state = OptimizerState.of(make(list(world.model.parameters())), world.model)
    assert state.rate > 0 and state.uniform  # selectors that need no more than rates work
    moments = {n: Moments(1.0, g, g.square()) for n, g in world.gradients(9).items()}
    assert state.roots(moments, "rate")["0.weight"] is not None
    with pytest.raises(ModelError, match=said):
        state.roots(moments, "adam")
    with pytest.raises(ModelError, match="Use AdamW"):
        state.update("0.weight", world.gradients(9)["0.weight"][None])


def test_every_optimizer_of_the_trainer_has_a_rule_or_a_sentence() -> None:
    from transformers.training_args import OptimizerNames

    names = {each.value for each in OptimizerNames}
    assert set(TRAINER) <= names
    works = "adafactor ademamix ademamix_8bit sgd adagrad adamw_bnb_8bit adamw_8bit rmsprop stable_adamw"
    works += " adamw_torch adamw_torch_fused adamw_torch_xla adamw_torch_npu_fused paged_adamw_32bit paged_adamw_8bit"
    works += " paged_ademamix_32bit paged_ademamix_8bit rmsprop_bnb rmsprop_bnb_8bit rmsprop_bnb_32bit"
    works += " schedule_free_radam schedule_free_adamw schedule_free_sgd"
    assert names - set(TRAINER) == set(works.split())
    for name in TRAINER:
        with pytest.raises(ModelError, match=f"The optimizer {name} has no metric"):
            require_metric(name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_saved_state_is_recognized_by_its_names(name: str) -> None:
    world = World(OPTIMIZERS[name], 7)
    if name.startswith("RMSprop of"):
        assert "RMSprop, Adagrad or SGD" in str(rule_of(world.optimizer.state_dict()))
        return
    saved, live = world.optimizer.state_dict(), world.state()
    names = [n for n, _ in world.model.named_parameters()]
    groups = {n: saved["param_groups"][0] for n in names}
    states = {names[key]: state for key, state in saved["state"].items()}
    rule = rule_of(saved)
    found = OptimizerState.from_states(states, groups, dict(world.model.named_parameters()), rule)
    g = world.gradients(9)
    for n in names:
        torch.testing.assert_close(found.update(n, g[n][None]), live.update(n, g[n][None]))


@pytest.mark.parametrize("name", ["AdamW", "Adafactor of transformers", "SGD momentum", "NAdam"])
def test_the_state_of_a_checkpoint_gives_the_features_of_its_optimizer(name: str, tmp_path: Path) -> None:
    world = World(OPTIMIZERS[name], 5)
    torch.save(world.optimizer.state_dict(), tmp_path / "optimizer.pt")
    found, live, g = state_of(tmp_path, world.model), world.state(), world.gradients(9)
    for parameter, gradient in g.items():
        torch.testing.assert_close(found.update(parameter, gradient[None]), live.update(parameter, gradient[None]))
    if name != "AdamW":
        with pytest.raises(ModelError, match="--eps-mode less is a formula for Adam"):
            found.update("0.weight", g["0.weight"][None], eps_mode="less")


def test_a_checkpoint_of_an_optimizer_without_a_metric_is_one_sentence(tmp_path: Path) -> None:
    world = World(torch_of("Rprop"), 2)
    torch.save(world.optimizer.state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(ModelError, match=r"of none that curate knows. Train the warm-up run with AdamW"):
        state_of(tmp_path, world.model)
