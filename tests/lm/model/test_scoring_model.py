"""A scoring pass gives each text the states that it has alone: no padding, no mask, no graph for a backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curate.errors import ModelError
from curate.lm.model.load import add_lora
from curate.lm.model.scoring_batch import bytes_per_token, default_score_tokens, fitting_tokens
from curate.lm.model.scoring_model import ScoringModel, make_scoring_model, verify_head
from curate.lm.packing.packed import Packed, can_pack
from curate.signals import Loss, ScoreBudget, Sketch, Utility, measure

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"num_key_value_heads": 1, "vocab_size": 200, "max_position_embeddings": 64, "pad_token_id": 0}


def model_of(kind: str = "llama", attention: str = "sdpa") -> nn.Module:
    import transformers

    torch.manual_seed(0)
    config: Any = {
        "llama": lambda: transformers.LlamaConfig(**SHAPE),
        "qwen2": lambda: transformers.Qwen2Config(**SHAPE),
        "gemma2": lambda: transformers.Gemma2Config(**SHAPE, head_dim=16, sliding_window=6),
        "gpt2": lambda: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=200, n_positions=64),
    }[kind]()
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)  # type: ignore[no-any-return]


def inputs_of(lengths: tuple[int, ...] = (20, 3, 11, 7, 16)) -> dict[str, Tensor]:
    mask = (torch.arange(20)[None] < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(3, 200, mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask.bool(), ids, -100)}


@torch.no_grad()
def alone(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Return the last hidden states of each text by itself: the slow reference."""
    backbone = make_scoring_model(model).backbone
    lengths = inputs["attention_mask"].sum(1).tolist()
    return [backbone(ids[None, :n]).last_hidden_state[0] for ids, n in zip(inputs["input_ids"], lengths, strict=True)]


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize(
    ("kind", "attention"),
    [("llama", "sdpa"), ("llama", "eager"), ("qwen2", "sdpa"), ("gemma2", "eager"), ("gpt2", "sdpa")],
)
@torch.no_grad()
def test_hidden_states_are_those_of_each_text_alone(kind: str, attention: str, packs: bool) -> None:
    model, inputs = model_of(kind, attention).eval(), inputs_of()
    scoring_model = verify_head(with_packing(make_scoring_model(model), packs))
    found = scoring_model.hidden(inputs["input_ids"], inputs["attention_mask"])
    for i, wanted in enumerate(alone(model, inputs)):
        torch.testing.assert_close(found[i, : len(wanted)], wanted, rtol=1e-4, atol=1e-5)


def with_packing(scoring_model: ScoringModel, packs: bool) -> ScoringModel:
    return ScoringModel(
        scoring_model.model,
        scoring_model.backbone,
        scoring_model.projection,
        scoring_model.head,
        scoring_model.autocast,
        packs,
    )


def test_packing_calls_the_model_with_real_tokens_only() -> None:
    model, inputs = model_of().eval(), inputs_of()
    scoring_model, seen = with_packing(make_scoring_model(model), True), []
    scoring_model.backbone.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True)
    measure(scoring_model.hidden, scoring_model.head, inputs, {"loss": Loss()}, ScoreBudget(tokens=1000))
    assert [kwargs["input_ids"].shape for kwargs in seen] == [(1, 57)]
    assert seen[0].get("attention_mask") is None
    assert seen[0]["cu_seq_lens_q"].tolist() == [0, 20, 36, 47, 54, 57]
    assert seen[0]["max_length_q"] == 20


def test_unpacking_puts_every_token_back_and_zeros_between() -> None:
    inputs = inputs_of()
    packed = Packed.of(inputs["input_ids"], inputs["attention_mask"])
    back = packed.unpack(packed.inputs["input_ids"][..., None].float())[..., 0]
    assert torch.equal(back, inputs["input_ids"].float())
    positions = torch.arange(20).expand(5, -1)[inputs["attention_mask"].bool()]
    assert torch.equal(packed.inputs["position_ids"][0], positions)


def test_only_flash_attention_and_nothing_but_attention_is_packed() -> None:
    config = model_of().config
    assert not can_pack(config)
    for name, kinds, wanted in [
        ("flash_attention_2", None, True),
        ("flash_attention_3", ["full_attention", "sliding_attention"], True),
        ("kernels-community/flash-attn2", None, True),
        ("flash_attention_2", ["full_attention", "linear_attention"], False),
        ("eager", None, False),
    ]:
        config._attn_implementation_internal = name
        config.layer_types = kinds
        assert can_pack(config) is wanted, name


def test_a_text_that_fills_the_batch_is_not_packed() -> None:
    model, inputs = model_of().eval(), inputs_of((20, 20))
    scoring_model, seen = with_packing(make_scoring_model(model), True), []
    scoring_model.backbone.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True)
    with torch.no_grad():
        scoring_model.hidden(inputs["input_ids"], inputs["attention_mask"])
    assert seen[0]["input_ids"].shape == (2, 20)


def test_with_gradients_enabled_the_model_gets_the_mask() -> None:
    model, inputs = model_of(), inputs_of()
    scoring_model, seen = make_scoring_model(model), []
    scoring_model.backbone.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True)
    scoring_model.hidden(inputs["input_ids"], inputs["attention_mask"])
    assert torch.equal(seen[0]["attention_mask"], inputs["attention_mask"])


def test_a_model_that_is_not_causal_is_an_error() -> None:
    """Without a mask its real tokens would see padding."""
    model = model_of(attention="eager").eval()
    backbone = make_scoring_model(model).backbone
    own = backbone.forward

    def forward(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        out = own(*args, attention_mask=attention_mask, **kwargs)
        states = out.last_hidden_state
        weights = torch.ones(states.shape[:2]) if attention_mask is None else attention_mask.float()
        out.last_hidden_state = states + (states * weights[..., None]).sum(1, keepdim=True)
        return out

    backbone.forward = forward  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="Cannot compute the logits of"):
        verify_head(make_scoring_model(model))


def test_scoring_recomputes_nothing_and_keeps_nothing_for_a_backward_pass() -> None:
    model = add_lora(model_of(), r=2, alpha=4, dropout=0.5, target_modules="all-linear")
    model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    model.train()
    scoring_model, inputs, outputs = make_scoring_model(model), inputs_of(), []
    checkpointed = []
    for module in model.modules():
        if hasattr(module, "_gradient_checkpointing_func"):
            own = module._gradient_checkpointing_func
            module._gradient_checkpointing_func = lambda *a, own=own, **k: (checkpointed.append(1), own(*a, **k))[1]
    scoring_model.backbone.register_forward_hook(lambda m, args, out: outputs.append(out.last_hidden_state))
    with scoring_model.eval_mode():
        first = measure(scoring_model.hidden, scoring_model.head, inputs, {"u": Utility()})
        second = measure(scoring_model.hidden, scoring_model.head, inputs, {"u": Utility()})
    assert not checkpointed
    assert all(state.is_inference() and state.grad_fn is None for state in outputs)
    assert torch.equal(first["u"], second["u"])  # no dropout
    assert model.training
    model(**inputs).loss.backward()
    assert len(checkpointed) == 2  # both layers, in training


@pytest.mark.parametrize("sharded", [False, True])
def test_without_gradients_there_is_no_graph_in_any_mode(sharded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScoringModel, "sharded", sharded)
    model = add_lora(model_of(), r=2, alpha=4, dropout=0.0, target_modules="all-linear")
    scoring_model, inputs = make_scoring_model(model), inputs_of()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        assert not scoring_model.hidden(ids, mask).requires_grad
        assert torch.equal(scoring_model.hidden(ids, mask), scoring_model.hidden(ids, mask))
    with torch.inference_mode():
        states = scoring_model.hidden(ids, mask)
        assert not states.requires_grad
        assert states.is_inference() is not sharded
    assert scoring_model.hidden(ids, mask).requires_grad


def test_the_default_budget_is_a_power_of_two_that_a_tenth_of_the_memory_holds() -> None:
    model = model_of()
    assert default_score_tokens(model, torch.device("cpu")) == 4096
    per_token = bytes_per_token(model.config, 4, 512)
    assert per_token == 4 * (8 * 32 + 3 * 64) + 16 * 32 + 48 * 32
    for memory in (1 << 30, 5 << 30):
        tokens = fitting_tokens(memory, per_token)
        assert tokens & (tokens - 1) == 0
        assert tokens * per_token <= 0.1 * memory < 2 * tokens * per_token
    assert fitting_tokens(0, per_token) == 1024
    assert bytes_per_token(model.config, 2, 512) < per_token


def test_signals_do_not_depend_on_packing() -> None:
    from curate.numerics.srft import TwoSided

    model, inputs = model_of().eval(), inputs_of()
    srft = TwoSided.draw(d1=2, d2=4, max_length=20, vocab_size=200, seed=0)
    signals: dict[str, Any] = {"loss": Loss(), "utility": Utility(), "sketch": Sketch(srft)}
    plain, packed = (with_packing(make_scoring_model(model), packs) for packs in (False, True))
    wanted = measure(plain.hidden, plain.head, inputs, signals)
    found = measure(packed.hidden, packed.head, inputs, signals)
    for name in signals:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-4)
