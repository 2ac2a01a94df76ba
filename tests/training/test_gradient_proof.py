"""Captured gradients that are not those of single texts are found out; the texts are then measured one at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import add_lora, load_model
from curate.lm.model.scoring_model import make_scoring_model
from curate.numerics.gradients import GradientRequest
from curate.training.gradients import proof
from curate.training.gradients.passes import GradientPasses, by_pattern
from tests.training.test_gradients_of_families import batch_of, check, engine_of, loop, model_of


def tokens_first(block: nn.Module) -> None:
    """Give the layers of a block their input as (tokens, samples, features)."""
    forward = block.forward
    block.forward = lambda x: forward(x.transpose(0, 1)).transpose(0, 1)


def used_by_the_parent(block: nn.Module) -> None:
    """Use the weight of a layer once more, without calling the layer."""
    forward = block.forward
    weight = block.down_proj.weight
    block.forward = lambda x: forward(x) + linear(linear(x, weight.T), weight)  # type: ignore[arg-type]


def only_used_by_the_parent(block: nn.Module) -> None:
    """Use the weight of a layer without calling the layer."""
    layer = block.up_proj

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = nn.ModuleList([layer])

        def forward(self, x: Tensor) -> Tensor:
            return linear(x, layer.weight)  # type: ignore[arg-type]

    block.up_proj = Bare()


def across_texts(block: nn.Module) -> None:
    """Let a text see the others of its batch."""
    forward = block.forward
    block.forward = lambda x: forward(x) + x.detach().mean((0, 1), keepdim=True)


CHANGES: list[tuple[Callable[[nn.Module], None], str]] = [
    (tokens_first, "are not those of single texts"),
    (used_by_the_parent, "down_proj.weight are not those of single texts"),
    (only_used_by_the_parent, "up_proj.held.0.weight are not those of single texts"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_model_that_sites_do_not_describe_is_measured_one_text_at_a_time(
    change: Callable[[nn.Module], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, batch = model_of("llama", "full"), batch_of()
    change(model.model.layers[1].mlp)  # type: ignore[union-attr, index, arg-type]
    engine = engine_of(model)
    with caplog.at_level("WARNING", logger="curate"):
        check(engine, batch, loop(model, batch))
    assert engine.passes.one_by_one and caplog.text.count("one text at a time") == 1
    assert reason in caplog.text


def test_a_model_in_which_texts_see_each_other_is_measured_one_text_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    model, batch = model_of("llama", "lora"), batch_of()
    across_texts(model.base_model.model.model.layers[0].mlp)  # type: ignore[union-attr, index, arg-type]
    with caplog.at_level("WARNING", logger="curate"):
        check(engine_of(model), batch, loop(model, batch))
    assert "the loss of a text depends on the texts in its batch" in caplog.text


def test_names_are_grouped_by_layer() -> None:
    names = ["embed.weight", "layers.0.norm.weight", "layers.1.norm.weight"]
    assert by_pattern(names) == "embed.weight, layers.*.norm.weight (2)"


def test_the_comparison_leaves_gradients_and_random_state_as_they_were() -> None:
    model, batch = model_of("qwen3_moe", "lora"), batch_of()
    parameter = next(p for p in model.parameters() if p.requires_grad)
    parameter.grad = torch.ones_like(parameter)
    engine, before = engine_of(model), torch.get_rng_state()
    engine.pass_over(batch, GradientRequest(norms=True))
    assert torch.equal(parameter.grad, torch.ones_like(parameter)) and torch.equal(torch.get_rng_state(), before)
    assert not engine.passes.one_by_one and "forward" not in vars(model.base_model.model.model.layers[0].mlp.experts)  # type: ignore[union-attr, index, operator]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounding_of_half_precision_weights_is_allowed_below_an_adapter_in_float32(
    dtype: str, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = add_lora(
        load_model(ModelOptions(tiny, dtype=dtype)), r=4, alpha=8, dropout=0.0, target_modules="all-linear"
    )
    passes = GradientPasses(make_scoring_model(model.train()))
    assert {p.dtype for p in passes.measured.values()} == {torch.float32}
    rounded = (torch.tensor([2.0, 3.0]), torch.tensor([2.005, 3.0]))  # as of bfloat16
    monkeypatch.setattr(proof, "_losses_alone", lambda passes, pair: rounded)
    passes.check(batch_of(), 1)
    assert passes.one_by_one == (dtype == "float32")
