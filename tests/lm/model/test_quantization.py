"""Base weights in 4 bits: an adapter trains on them, signals see through them, and scoring does not break training."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curate.errors import ModelError
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import add_lora, load_model, train_all
from curate.lm.model.quantization import is_quantized, nf4_arguments
from curate.lm.model.scoring_model import make_scoring_model, verify_head
from curate.selectors import SELECTORS, GradientNeeds, RunInfo, make_selector
from curate.signals import Loss, measure

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
pytestmark = pytest.mark.filterwarnings("ignore:Failed to load CPU")


def inputs_of() -> dict[str, Tensor]:
    mask = (torch.arange(16)[None] < torch.tensor([16, 9, 12])[:, None]).long()
    ids = torch.randint(3, 300, mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask.bool(), ids, -100)}


@pytest.fixture
def adapted(options: ModelOptions) -> nn.Module:
    """The tiny model in 4 bits with an adapter whose weights are not zero."""
    torch.manual_seed(0)
    model = load_model(replace(options, load_in_4bit=True))
    adapted = add_lora(model, r=2, alpha=4, dropout=0.0, target_modules="all-linear")
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return adapted


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.train()
    model.zero_grad()
    model(**inputs_of()).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@needs_bitsandbytes
def test_the_layers_are_quantised_and_the_head_is_not(adapted: nn.Module) -> None:
    kinds = {type(module).__name__ for module in adapted.modules()}
    assert "Linear4bit" in kinds
    assert is_quantized(adapted)
    assert make_scoring_model(adapted).head.weight.is_floating_point()


@needs_bitsandbytes
def test_signals_see_the_quantised_models_own_logits(adapted: nn.Module) -> None:
    scoring_model, inputs = verify_head(make_scoring_model(adapted)), inputs_of()
    with scoring_model.eval_mode():
        found = measure(scoring_model.hidden, scoring_model.head, inputs, {"loss": Loss()})["loss"]
    adapted.eval()
    for i, n in enumerate(inputs["attention_mask"].sum(1).tolist()):
        ids = inputs["input_ids"][i : i + 1, :n]
        with torch.no_grad():
            torch.testing.assert_close(found[i], adapted(input_ids=ids, labels=ids).loss, rtol=1e-4, atol=1e-5)


@needs_bitsandbytes
def test_scoring_leaves_the_gradients_of_training_as_they_were(adapted: nn.Module) -> None:
    before = gradients(adapted)
    scoring_model = make_scoring_model(adapted)
    with scoring_model.eval_mode():
        measure(scoring_model.hidden, scoring_model.head, inputs_of(), {"loss": Loss()})
    after = gradients(adapted)
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any("layers.0" in name and grad.abs().max() > 0 for name, grad in after.items())


@needs_bitsandbytes
def test_every_selector_has_what_it_asks_for(adapted: nn.Module) -> None:
    from curate.log import Stopwatch
    from curate.training.gradients.engine import GradientEngine
    from curate.training.gradients.optimizers import OptimizerState

    scoring_model, inputs = verify_head(make_scoring_model(adapted)), inputs_of()
    info = RunInfo(vocab_size=scoring_model.head.vocab_size, max_length=16, keep=1, total_steps=10)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad])
    engine = GradientEngine(scoring_model, None, lambda: OptimizerState.of(optimizer, adapted))
    for name in SELECTORS:
        selector = make_selector(name, {}, info)
        if selector.signals:
            with scoring_model.eval_mode():
                found: Any = measure(scoring_model.hidden, scoring_model.head, inputs, selector.signals)
            assert all(value.isfinite().all() for value in found.values()), name
        if selector.gradients is not None:
            needs = replace(selector.gradients, target=False, gram=True, norms=True)
            found = engine.measure(inputs, needs, 1, Stopwatch())
            assert (found.values["grad_norm"] > 0).all(), name
    wanted = gradients(adapted)
    sums = engine.measure(inputs, GradientNeeds(norms=True), 1, Stopwatch())
    assert torch.isfinite(sums.values["grad_norm"]).all() and wanted


@needs_bitsandbytes
def test_full_fine_tuning_is_an_error_that_names_the_flags(options: ModelOptions) -> None:
    with pytest.raises(ModelError, match=r"--full .* --load-in-4bit"):
        train_all(load_model(replace(options, load_in_4bit=True)))
    assert all(p.requires_grad for p in train_all(load_model(options)).parameters())


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'pip install "curate-sft\[quantized\]"'):
        nf4_arguments()


def test_a_quantised_head_is_an_error(options: ModelOptions) -> None:
    model = load_model(options)
    head = model.get_output_embeddings()  # type: ignore[operator]
    head.weight = nn.Parameter(torch.zeros(4, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ModelError, match="head is quantised"):
        make_scoring_model(model)
