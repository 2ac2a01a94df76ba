"""A model's head is factored correctly, or loading it is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from curate.errors import ModelError
from curate.lm.model.chunked_loss import NOT_OF_NEXT_TOKENS, ROUTER_LOSS, chunk_loss, own_loss_differs, summed_loss
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import add_lora, backbone_of, load_model, not_adaptable
from curate.lm.model.scoring_batch import size_in
from curate.lm.model.scoring_model import make_scoring_model, verify_head
from curate.numerics.spectral import nuclear_norm
from curate.signals import Entropy, Loss, MeanHidden, ScoreBudget, Utility, measure
from curate.training.run import _reuse

SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 200}
SIZE |= {
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def model_of(kind: str) -> nn.Module:
    """Return a tiny model with random weights and one kind of head: bias, scale, quotient, soft-cap or tied weights."""
    import transformers

    torch.manual_seed(0)
    config: Any = {
        "llama": lambda: transformers.LlamaConfig(**SIZE),
        "tied": lambda: transformers.Qwen3Config(**SIZE, head_dim=16, tie_word_embeddings=True),
        "bias": lambda: transformers.PhiConfig(**SIZE),
        "scale": lambda: transformers.CohereConfig(**SIZE, logit_scale=0.25),
        "quotient": lambda: transformers.GraniteConfig(**SIZE, logits_scaling=4.0),
        "softcap": lambda: transformers.Gemma2Config(**SIZE, head_dim=16, final_logit_softcapping=2.0),
    }[kind]()
    model = transformers.AutoModelForCausalLM.from_config(config)
    if kind == "bias":
        nn.init.normal_(model.lm_head.bias)
    return model  # type: ignore[no-any-return]


KINDS = ["llama", "tied", "bias", "scale", "quotient", "softcap"]


def inputs_of(n: int = 5, length: int = 20) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([20, 3, 11, 7, 16])[:n]
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    ids = torch.randint(3, 200, (n, length), generator=generator) * mask
    labels = torch.where(mask.bool() & (torch.arange(length)[None] > 0), ids, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_signals_equal_those_of_the_models_own_logits(kind: str) -> None:
    model = model_of(kind).eval()
    scoring_model, inputs = verify_head(make_scoring_model(model)), inputs_of()
    signals = {"loss": Loss(), "entropy": Entropy(), "utility": Utility(), "mean": MeanHidden()}
    with scoring_model.eval_mode():
        found = measure(scoring_model.hidden, scoring_model.head, inputs, signals, ScoreBudget(texts=2))
    for i, n in enumerate(inputs["attention_mask"].sum(1).tolist()):
        ids = inputs["input_ids"][i : i + 1, :n]
        out = model(input_ids=ids, labels=inputs["labels"][i : i + 1, :n], output_hidden_states=True)
        log_p = torch.log_softmax(out.logits[0, :-1].double(), -1)
        torch.testing.assert_close(found["loss"][i].double(), out.loss.double(), rtol=1e-4, atol=1e-5)
        wanted = -(log_p.exp() * log_p).sum(-1).mean()
        torch.testing.assert_close(found["entropy"][i].double(), wanted, rtol=1e-4, atol=1e-5)
        wanted = torch.linalg.svdvals(out.logits[0].double()).sum()
        torch.testing.assert_close(found["utility"][i], wanted, rtol=1e-4, atol=0)
        torch.testing.assert_close(found["mean"][i], out.hidden_states[-1][0].mean(0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_chunked_loss_has_the_models_loss_and_gradient(kind: str) -> None:
    model, inputs = model_of(kind), inputs_of()
    scoring_model = make_scoring_model(model)
    plain = model(**inputs, num_items_in_batch=1).loss
    plain.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    hidden = scoring_model.hidden(inputs["input_ids"], inputs["attention_mask"])
    total, count = summed_loss(scoring_model, hidden, inputs["labels"], budget=4 * 200 * 3)
    total.backward()
    assert count == (inputs["labels"][:, 1:] != -100).sum()
    torch.testing.assert_close(total, plain, rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        if name in wanted:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-4)


def test_a_trainable_head_is_factored_again_and_a_frozen_one_is_not() -> None:
    inputs = inputs_of()
    for train, changes in ((True, True), (False, False)):
        model = model_of("llama").requires_grad_(train)
        scoring_model = make_scoring_model(model)
        before = measure_utility(scoring_model, inputs)
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(3)  # type: ignore[operator]
        after = measure_utility(scoring_model, inputs)
        assert torch.allclose(after, before * 3) is changes


def measure_utility(scoring_model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with scoring_model.eval_mode():
        return measure(scoring_model.hidden, scoring_model.head, inputs, {"utility": Utility()})["utility"]


def test_an_adapter_on_the_head_counts() -> None:
    model = add_lora(model_of("llama"), r=2, alpha=4, dropout=0.0, target_modules="q_proj,lm_head")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    scoring_model = make_scoring_model(model)
    assert not scoring_model.head.frozen
    inputs = inputs_of(1)
    with torch.no_grad():
        logits = model.eval()(input_ids=inputs["input_ids"]).logits
    wanted = torch.linalg.svdvals(logits.double()).sum(-1)
    torch.testing.assert_close(measure_utility(scoring_model, inputs), wanted, rtol=1e-4, atol=0)


def test_eval_mode_restores_the_mode_of_every_module() -> None:
    model = model_of("llama").train()
    model.get_decoder().layers[0].eval()  # type: ignore[operator]
    before = [module.training for module in model.modules()]
    with make_scoring_model(model).eval_mode():
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before


def test_a_head_with_an_unknown_transformation_is_an_error() -> None:
    model = model_of("llama")
    own = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        out = own(*args, **kwargs)
        out.logits = out.logits.square()
        return out

    model.forward = forward  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="Cannot compute the logits of"):
        verify_head(make_scoring_model(model))


def test_a_text_that_is_not_finite_is_nan_and_leaves_the_others_alone() -> None:
    model, inputs = model_of("llama").eval(), inputs_of()
    clean = measure_utility(make_scoring_model(model), inputs)
    with torch.no_grad():
        model.get_input_embeddings().weight[inputs["input_ids"][2, 4]] = torch.nan  # type: ignore[operator]
    hit = (inputs["input_ids"] == inputs["input_ids"][2, 4]).any(1)
    found = measure_utility(make_scoring_model(model), inputs)
    assert found.isnan().tolist() == hit.tolist() and not hit.all()
    torch.testing.assert_close(found[~hit], clean[~hit])


def test_a_wrong_path_is_an_error_with_a_message() -> None:
    with pytest.raises(ModelError, match=r"Cannot load a model config from \./nothing-here"):
        load_model(ModelOptions("./nothing-here"))


def test_the_gram_matrix_is_taken_on_the_smaller_side() -> None:
    scoring_model = make_scoring_model(model_of("llama"))
    for length, side in ((5, 5), (40, 32)):
        gram = scoring_model.head.gram(torch.randn(2, length, 32))
        assert gram.shape == (2, side, side) and nuclear_norm(gram).shape == (2,)


def test_the_modules_of_an_adapter_are_saved_in_the_same_order_by_every_process(
    options: ModelOptions, tmp_path: Path
) -> None:
    model = add_lora(load_model(options), r=2, alpha=4, dropout=0.0, target_modules="all-linear")
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    saved = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert len(saved) > 2 and saved == sorted(saved)


def test_hidden_states_come_from_the_part_below_the_head_even_if_its_class_names_another() -> None:
    from transformers import LlamaForCausalLM

    class Misnamed(LlamaForCausalLM):  # like Llama 4
        base_model_prefix = "language_model"

    model = model_of("llama")
    model.__class__ = Misnamed
    assert model.base_model is model
    assert backbone_of(model) is model.model
    verify_head(make_scoring_model(model))
    model.model = nn.ModuleList([model.model])
    with pytest.raises(ModelError, match="no separate part below its head"):
        backbone_of(model)


def test_an_adapter_leaves_out_layers_whose_output_is_not_one_tensor() -> None:
    import transformers

    from tests.families.registry import build

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 1, "vocab_size": 200}
    model = transformers.PhimoeForCausalLM(transformers.PhimoeConfig(**sizes, **experts))
    assert not_adaptable(model) == ["model.layers.0.mlp.router"]
    assert not_adaptable(model_of("llama")) == []
    mamba = build("mamba")
    assert not_adaptable(mamba) == ["backbone.layers.0.mixer.out_proj", "backbone.layers.1.mixer.out_proj"]
    add_lora(mamba, r=2, alpha=4, dropout=0.0, target_modules="all-linear")
    adapted = add_lora(model, r=2, alpha=4, dropout=0.0, target_modules="all-linear")
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trained and not any("router" in name for name in trained)
    adapted(input_ids=torch.arange(8)[None])


def test_sizes_are_read_from_any_config() -> None:
    import transformers

    assert size_in(transformers.LlamaConfig(hidden_size=64), "hidden_size") == 64
    assert size_in(transformers.MambaConfig(), "num_attention_heads") == 0
    assert (
        size_in(transformers.Gemma3nTextConfig(num_hidden_layers=2, intermediate_size=[8, 16]), "intermediate_size")
        == 16
    )


@pytest.mark.parametrize("kind", ["recurrent_gemma", "xlstm"])
def test_a_soft_cap_of_any_name_is_read(kind: str) -> None:
    from tests.families.registry import build

    model = build(kind)
    scoring_model = make_scoring_model(model)
    assert scoring_model.head.softcap == 30.0
    verify_head(scoring_model)


def test_a_model_whose_own_loss_is_another_one_trains_on_the_next_tokens(caplog: pytest.LogCaptureFixture) -> None:
    from tests.families.registry import build

    assert own_loss_differs(model_of("llama")) is None
    model = build("bart")
    assert own_loss_differs(model) == NOT_OF_NEXT_TOKENS
    ids = torch.randint(5, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    logits = model(input_ids=ids, use_cache=False).logits
    wanted = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert abs(model(input_ids=ids, labels=ids, use_cache=False).loss - wanted) > 1e-3
    with caplog.at_level("WARNING", logger="curate"):
        chunk_loss(make_scoring_model(model), 64 << 20)
    assert "trains on the cross-entropy of the next tokens" in caplog.text
    torch.testing.assert_close(model(input_ids=ids, labels=ids).loss, wanted)
    assert own_loss_differs(model) is None, "it is now the cross-entropy of the next tokens"
    assert _reuse(True, make_scoring_model(model)) is True


def test_a_loss_of_routers_is_trained_on_and_told(caplog: pytest.LogCaptureFixture) -> None:
    import transformers

    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True}
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**SIZE, **experts))
    assert own_loss_differs(model) == ROUTER_LOSS
    ids = torch.randint(5, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    own = model(input_ids=ids, labels=ids, use_cache=False).loss
    chunk_loss(make_scoring_model(model), 64 << 20)
    torch.testing.assert_close(model(input_ids=ids, labels=ids).loss, own, rtol=0, atol=0)
    with caplog.at_level("INFO", logger="curate"):
        model(input_ids=ids, labels=ids, token_weights=torch.ones(2, 9))
    assert "The loss of the routers of MixtralForCausalLM is left out where losses have weights" in caplog.text
    scoring_model = make_scoring_model(model)
    assert _reuse(None, scoring_model) is False and _reuse(False, scoring_model) is False
    with pytest.raises(ModelError, match=r"adds one of the routers of its experts\. Give --update rerun"):
        _reuse(True, scoring_model)
    plain = make_scoring_model(model_of("llama"))
    assert _reuse(None, plain) is None and _reuse(True, plain) is True


def test_a_model_that_reads_padding_is_an_error() -> None:
    from tests.families.registry import build

    with pytest.raises(ModelError, match="reads padding: the logits of a text change by"):
        verify_head(make_scoring_model(build("cpmant")))
