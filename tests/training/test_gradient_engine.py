"""Gradients measured on a language model equal a loop of autograd over the samples, in every metric and mode."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from curate.errors import ModelError, TrainingError
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import add_lora, load_model
from curate.lm.model.scoring_model import make_scoring_model
from curate.log import Stopwatch
from curate.selectors import GradientNeeds
from curate.training.gradients.engine import GradientEngine
from curate.training.gradients.optimizers import Moments, OptimizerState
from curate.training.target_sampler import TargetSampler
from tests.support.paths import SHARED

BASE2M = SHARED / "models/base2m"
GROUP = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}


def model_of(place: str, *, dropout: float = 0.0, checkpointing: str | None = None, full: bool = False) -> nn.Module:
    torch.manual_seed(0)
    model = load_model(ModelOptions(place, dtype="float32"))
    if not full:
        model = add_lora(model, r=4, alpha=8, dropout=dropout, target_modules="all-linear")
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.02)
    if checkpointing:
        kwargs = {"use_reentrant": checkpointing == "reentrant"}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)  # type: ignore[operator]
        model.enable_input_require_grads()  # type: ignore[operator]
    return model.train()


def batch_of(n: int = 6, length: int = 24) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([24, 9, 15, 24, 12, 20])[:n]
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    ids = torch.randint(5, 390, (n, length), generator=generator) * mask
    labels = torch.where(mask.bool() & (torch.arange(length)[None] >= 4), ids, -100)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    for value in batch.values():
        value[3] = value[0]
    return batch


def engine_of(model: nn.Module, adam: OptimizerState, **options: Any) -> GradientEngine:
    return GradientEngine(make_scoring_model(model), None, lambda: adam, **options)


def loop(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return per-sample gradients of the model's own loss, one sample after the other: the slow twin."""
    rows: dict[str, list[torch.Tensor]] = {}
    for i in range(len(batch["input_ids"])):
        n = int(batch["attention_mask"][i].sum())
        model.zero_grad()
        model(input_ids=batch["input_ids"][i : i + 1, :n], labels=batch["labels"][i : i + 1, :n]).loss.backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                rows.setdefault(name, []).append(p.grad.clone())
    model.zero_grad()
    return {name: torch.stack(parts) for name, parts in rows.items()}


def adam_of(model: nn.Module) -> OptimizerState:
    generator = torch.Generator().manual_seed(2)
    states = {
        name: {"step": 7, "exp_avg_sq": torch.rand(p.shape, generator=generator) * 1e-3}
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    return OptimizerState.from_states(states, {key: GROUP for key in states})


def preconditioner(adam: OptimizerState, name: str, gradients: torch.Tensor) -> torch.Tensor:
    return adam.preconditioner(name, Moments(len(gradients), gradients.mean(0), gradients.square().mean(0)))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


MODES: list[dict[str, Any]] = [
    {},
    {"checkpointing": "reentrant"},
    {"checkpointing": "not reentrant"},
    {"full": True},
]


@pytest.mark.parametrize("mode", MODES, ids=["lora", "reentrant", "not reentrant", "full"])
@pytest.mark.parametrize("place", ["tiny", "base2m"])
def test_gram_and_alignment_equal_a_loop_in_every_metric(mode: dict[str, Any], place: str, tiny: str) -> None:
    if place == "base2m" and not BASE2M.exists():
        pytest.skip("the small real model is not available")
    model = model_of(tiny if place == "tiny" else str(BASE2M), **mode)
    batch, adam = batch_of(), adam_of(model)
    engine = engine_of(model, adam, micro_batch=4)
    vectors = loop(model, batch)
    kept = engine.pass_over(batch, wanted_all()).kept
    for name, block in kept.items():
        assert relative(block, vectors[name]) < 1e-5, name
    flat = torch.cat([vectors[name].flatten(1).double() for name in sorted(kept)], 1)
    kept_flat = torch.cat([kept[name].flatten(1).double() for name in sorted(kept)], 1)
    # float32 rounding of padded against unpadded passes; full weights sum over many more terms.
    assert relative(kept_flat, flat) < (3e-6 if mode.get("full") else 1e-6)
    target = {name: vectors[name][1:3].mean(0) for name in kept}
    engine.target_gradient = lambda step: target  # type: ignore[method-assign]
    g_t = torch.cat([target[name].flatten().double() for name in sorted(kept)])
    for metric, power in (("plain", 0), ("adam", 1), ("adam2", 2)):
        p = torch.cat([preconditioner(adam, n, vectors[n]).flatten().double() for n in sorted(kept)])
        q = p**power
        found = engine.measure(batch, GradientNeeds(metric=metric, target=True, gram=True), 1, Stopwatch())  # type: ignore[arg-type]
        assert relative(found.pairs["gram"], (flat * q) @ flat.T) < 1e-5
        assert relative(found.values["alignment"], (flat * q) @ g_t) < 1e-5
        assert abs(found.scalars["target_square"] / float((g_t * q) @ g_t) - 1) < 1e-5
    norms = engine.measure(batch, GradientNeeds(norms=True), 1, Stopwatch()).values["grad_norm"]
    assert relative(norms, flat.norm(dim=1)) < 1e-5


@pytest.mark.parametrize("sketch", [0, 1 << 15])
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_products_in_the_metric_of_opus_equal_a_loop_and_sketches_come_near(tiny: str, full: bool, sketch: int) -> None:
    model = model_of(tiny, full=full)
    batch, adam = batch_of(), adam_of(model)
    vectors = loop(model, batch)
    target = {name: block[1:3].mean(0) for name, block in vectors.items()}
    names = sorted(vectors)
    scale = {n: (1 - 0.9) * math.sqrt(1 - 0.999**7) / (1 - 0.9**7) for n in names}
    q = {
        n: scale[n]
        / (math.sqrt(vectors[n][0].numel()) if vectors[n].dim() > 2 else 1)
        / (adam.slots[n].state["exp_avg_sq"].sqrt() + 1e-8)
        for n in names
    }
    u = torch.cat([(q[n] * vectors[n]).flatten(1).double() for n in names], 1)
    g_t = torch.cat([target[n].flatten().double() for n in names])
    engine = engine_of(model, adam, micro_batch=4)
    engine.target_gradient = lambda step: target  # type: ignore[method-assign]
    needs = GradientNeeds("opus", target=True, gram=True, gram_metric="opus2", sketch=sketch)
    found = engine.measure(batch, needs, 1, Stopwatch())
    assert not found.kept if sketch else True
    lengths, wanted = u.norm(dim=1), u @ g_t
    tolerance = 5 / math.sqrt(sketch) if sketch else 1e-5  # of a count sketch, relative to the lengths
    gram_error = (found.pairs["gram"] - u @ u.T).abs() / (lengths[:, None] * lengths)
    assert float(gram_error.max()) < tolerance
    assert float(((found.values["alignment"] - wanted).abs() / (lengths * g_t.norm())).max()) < tolerance
    assert found.scalars["learning_rate"] == GROUP["lr"]


def test_products_have_the_rates_of_groups_as_in_lora_plus(tiny: str) -> None:
    """LoRA+ has a higher rate for B; the twin multiplies the gradients of a loop by the rates."""
    model, batch = model_of(tiny), batch_of()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [{"params": [p for name, p in trained.items() if f"lora_{part}" in name]} for part in "AB"]
    optimizer = torch.optim.AdamW([{**groups[0], "lr": 1e-4}, {**groups[1], "lr": 16e-4}], lr=1e-4)
    for p in trained.values():
        p.grad = 1e-2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    optimizer.step()
    state = OptimizerState.of(optimizer, model)
    engine = engine_of(model, state)
    vectors = loop(model, batch)
    target = {name: block[1:3].mean(0) for name, block in vectors.items()}
    engine.target_gradient = lambda step: target  # type: ignore[method-assign]
    names = sorted(vectors)
    flat, g_t = (
        torch.cat([each[n].flatten(dims).double() for n in names], -1) for each, dims in ((vectors, 1), (target, 0))
    )
    rho = torch.cat([torch.full_like(target[n], 1 / 16 if "lora_A" in n else 1.0).flatten() for n in names]).double()
    p = torch.cat([preconditioner(state, n, vectors[n]).flatten().double() for n in names])
    adam = torch.cat([(optimizer.state[trained[n]]["exp_avg_sq"] * 0.999).flatten().double() for n in names])
    adam = adam + 0.001 * torch.cat([vectors[n].square().mean(0).flatten().double() for n in names])
    assert relative(p, rho / ((adam / (1 - 0.999**2)).sqrt() + 1e-8)) < 1e-5
    needs = GradientNeeds("rate", target=True, gram=True, gram_metric="rate2")
    for wanted, q, of_gram in ((needs, rho, rho**2), (GradientNeeds("adam", target=True, gram=True), p, p)):
        found = engine.measure(batch, wanted, 1, Stopwatch())
        assert relative(found.pairs["gram"], (flat * of_gram) @ flat.T) < 1e-5
        assert relative(found.values["alignment"], (flat * q) @ g_t) < 1e-5
        assert abs(found.scalars["learning_rate"] / 16e-4 - 1) < 1e-9


def wanted_all() -> Any:
    from curate.numerics.gradients import GradientRequest

    return GradientRequest(keep=True)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_kept_gradients_sum_to_what_the_same_pass_leaves_in_the_parameters(tiny: str, dropout: float) -> None:
    model = model_of(tiny, dropout=dropout)
    engine, batch = engine_of(model, adam_of(model), micro_batch=99), batch_of()
    kept = engine.pass_over(batch, wanted_all(), step=3).kept
    with engine.passes.seeded_dropout(3):
        order = torch.argsort(batch["attention_mask"].sum(1), stable=True)
        engine.passes.losses({key: value[order] for key, value in batch.items()}).sum().backward()
    for name, total in engine.combine(kept, torch.arange(6), torch.ones(6)).items():
        assert relative(total, model.get_parameter(name).grad) < 1e-5  # type: ignore[arg-type]


def test_measuring_leaves_gradients_and_random_state_as_they_were(tiny: str) -> None:
    model = model_of(tiny, dropout=0.3)
    engine = engine_of(model, adam_of(model))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    engine.measure(batch_of(), GradientNeeds(gram=True), 1, Stopwatch())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())


def test_adams_preconditioner_is_the_one_of_its_next_step() -> None:
    model = nn.Linear(3, 2, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.0, 0.99), weight_decay=0.0)
    for seed in range(4):
        model.weight.grad = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed))
        if seed < 3:
            optimizer.step()
    adam = OptimizerState.of(optimizer, model)
    assert adam.steps == 3 and adam.rate == 0.01
    gradient = model.weight.grad
    assert gradient is not None
    p = preconditioner(adam, "weight", gradient[None])
    before = model.weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(before - model.weight.detach(), 0.01 * p * gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("eps_mode", ["adam", "less"])
def test_a_samples_update_is_the_step_that_adam_would_take_with_its_gradient(eps_mode: str) -> None:
    model = nn.Linear(3, 2, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0, eps=1e-6)
    for seed in range(3):
        model.weight.grad = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed))
        optimizer.step()
    adam = OptimizerState.of(optimizer, model)
    gradient = torch.randn(2, 3, generator=torch.Generator().manual_seed(9))
    found = adam.update("weight", gradient[None], eps_mode=eps_mode)[0]
    if eps_mode == "less":
        state = optimizer.state[model.weight]
        m, v = 0.9 * state["exp_avg"] + 0.1 * gradient, 0.999 * state["exp_avg_sq"] + 0.001 * gradient**2
        torch.testing.assert_close(found, m / (v + 1e-8).sqrt())
        return
    before = model.weight.detach().clone()
    model.weight.grad = gradient
    optimizer.step()
    torch.testing.assert_close(before - model.weight.detach(), 0.01 * found, rtol=1e-4, atol=1e-7)


def test_with_linear_coverage_the_other_parameters_are_named(tiny: str) -> None:
    model = model_of(tiny, full=True)
    engine = engine_of(model, adam_of(model), coverage="linear")
    trained = [name for name, _ in model.named_parameters()]
    left_out = engine.passes.left_out
    assert left_out == [name for name in trained if "embed" in name or "norm" in name]
    assert sorted(engine.pass_over(batch_of(), wanted_all()).kept) == sorted(set(trained) - set(left_out))
    with pytest.raises(ModelError, match=r"embed_tokens.weight.*--update rerun"):
        engine_of(model, adam_of(model), coverage="linear", keep=True)
    with pytest.raises(ModelError, match="No parameter of the model is trained"):
        engine_of(model.requires_grad_(False), adam_of(model))


def test_target_batches_are_even_over_subtasks_and_depend_on_the_step_alone() -> None:
    stream = TargetSampler(None, [range(5), range(5, 7)], size=4, seed=3, pad_token_id=0)  # type: ignore[arg-type]
    rows = [stream.rows(step) for step in range(10)]
    assert all(sum(row < 5 for row in batch) == 2 for batch in rows)
    assert [stream.rows(step) for step in reversed(range(10))] == rows[::-1]
    first = [row for batch in rows for row in batch if row < 5]
    assert all(set(first[i : i + 5]) == set(range(5)) for i in range(0, 20, 5))


def test_out_of_memory_halves_the_micro_batch_and_changes_no_number(
    tiny: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of(tiny)
    needs, batch = GradientNeeds(gram=True, norms=True), batch_of()
    expected = engine_of(model, adam_of(model), micro_batch=99).measure(batch, needs, 1, Stopwatch())
    engine = engine_of(model, adam_of(model), micro_batch=99)
    losses = engine.passes.losses

    def scarce(texts: dict[str, torch.Tensor]) -> torch.Tensor:
        if len(texts["input_ids"]) > 2:
            raise torch.OutOfMemoryError("no more")
        return losses(texts)

    monkeypatch.setattr(engine.passes, "losses", scarce)
    with caplog.at_level("WARNING", logger="curate"):
        found = engine.measure(batch, needs, 1, Stopwatch())
    assert engine.micro_batch == 1 and "Out of memory in a backward pass" in caplog.text
    assert relative(found.pairs["gram"], expected.pairs["gram"].double()) < 1e-5
    assert relative(found.values["grad_norm"], expected.values["grad_norm"].double()) < 1e-5
    monkeypatch.setattr(engine.passes, "losses", lambda texts: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    with pytest.raises(TrainingError, match="Lower --score-batch-size"):
        engine.measure(batch, needs, 2, Stopwatch())
