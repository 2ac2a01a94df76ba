"""A compiled backbone: the same numbers, the same names, one module for scoring and training, eager where captured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from curate.lm.model.compilation import compile_backbone
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import add_lora, load_model
from curate.lm.model.scoring_model import make_scoring_model, verify_head
from curate.numerics.gradients import GradientRequest
from curate.signals import Loss, ScoreBudget, Utility, measure
from curate.training.gradients.engine import GradientEngine
from curate.training.gradients.optimizers import OptimizerState

from .test_quantization import inputs_of


class Backend:
    """Compiles to the same graph and counts how often it ran."""

    def __init__(self) -> None:
        self.ran = 0

    def __call__(self, graph: Any, examples: Any) -> Any:
        def run(*args: Any) -> Any:
            self.ran += 1
            return graph(*args)

        return run


def adapted(options: ModelOptions) -> nn.Module:
    torch.manual_seed(0)
    model = add_lora(load_model(options), r=2, alpha=4, dropout=0.0, target_modules="all-linear")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_scoring_and_training_go_through_the_graph_and_agree_with_eager(options: ModelOptions, fresh: None) -> None:
    plain, backend, inputs = adapted(options), Backend(), inputs_of()
    model = compile_backbone(adapted(options), backend=backend)
    assert list(model.state_dict()) == list(plain.state_dict())
    signals: dict[str, Any] = {"loss": Loss(), "utility": Utility()}
    found = []
    for each in (plain, model):
        scoring_model = verify_head(make_scoring_model(each))
        with scoring_model.eval_mode():
            found.append(measure(scoring_model.hidden, scoring_model.head, inputs, signals, ScoreBudget(texts=2)))
    scored = backend.ran
    assert scored > 0
    for name in signals:
        torch.testing.assert_close(found[1][name], found[0][name], rtol=1e-5, atol=1e-6)
    for each in (plain, model):
        each.train()
        each(**inputs).loss.backward()
    assert backend.ran > scored
    wanted = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-6)


def test_captured_passes_run_eagerly_and_see_every_layer(options: ModelOptions, fresh: None) -> None:
    plain, backend, inputs = adapted(options), Backend(), inputs_of()
    model = compile_backbone(adapted(options), backend=backend)
    model.train()(**inputs)
    ran = backend.ran
    assert ran > 0
    nothing = OptimizerState.from_states({}, {})
    kept = []
    for each in (plain, model):
        engine = GradientEngine(make_scoring_model(each.train()), None, lambda: nothing)
        kept.append(engine.pass_over(inputs, GradientRequest(keep=True)).kept)
    assert backend.ran == ran
    assert set(kept[0]) == set(kept[1])
    for name, block in kept[0].items():
        torch.testing.assert_close(kept[1][name], block, rtol=1e-4, atol=1e-6)
