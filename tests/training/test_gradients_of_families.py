"""Per-sample gradients of model families equal a loop of autograd over samples, whichever modules own the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from curate.errors import ModelError
from curate.lm.model.load import add_lora
from curate.lm.model.scoring_model import make_scoring_model
from curate.lm.packing.attention import RowAttention
from curate.lm.packing.packed import LossPacking, Packer
from curate.numerics.gradients import Blocks, GradientRequest, SignHash
from curate.training.batching import Batching
from curate.training.gradients.engine import GradientEngine
from curate.training.gradients.optimizers import OptimizerState

SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
MOE = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
MOE |= {"moe_intermediate_size": 16}
DROPOUTS = dict.fromkeys(("dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
MLA = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
DEEPSEEK = {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1, "num_key_value_heads": 4}
ZAMBA = {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4}
ZAMBA |= {"n_mamba_heads": 2, "attention_head_dim": 16, "attention_hidden_size": 64, "use_mamba_kernels": False}
FALCON = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MAMBA = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
PHIMOE = {"router_jitter_noise": 0.0, "input_jitter_noise": 0.0}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "gemma2": SIZES,
    "gpt2": GPT2 | DROPOUTS,
    "opt": SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
    "falcon": FALCON | {"hidden_dropout": 0.0},
    "mixtral": SIZES | MOE,
    "qwen3_moe": SIZES | MOE,
    "qwen2_moe": SIZES | MOE | {"shared_expert_intermediate_size": 16},
    "gpt_oss": SIZES | MOE | {"sliding_window": 16},
    "deepseek_v3": SIZES | MOE | MLA | DEEPSEEK,
    "phimoe": SIZES | MOE | PHIMOE,
    "zamba": SIZES | ZAMBA,
    "mamba": MAMBA,
}
CASES = [
    *(("llama", "full"), ("gemma2", "full"), ("gpt2", "full"), ("opt", "full"), ("falcon", "lora"), ("opt", "lora")),
    *(("mixtral", "lora"), ("qwen3_moe", "lora"), ("qwen3_moe", "full"), ("qwen2_moe", "lora"), ("gpt_oss", "full")),
    *(("gpt_oss", "lora"), ("deepseek_v3", "lora"), ("deepseek_v3", "full"), ("phimoe", "full"), ("zamba", "lora")),
    *(("mamba", "full"), ("llama", "dora"), ("gpt_oss", "experts")),
]
ONE_BY_ONE = {("gpt_oss", "full"), ("mamba", "full")}
"""Cases with weights that their parent uses itself."""


def model_of(family: str, mode: str) -> nn.Module:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**FAMILIES[family], pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model: nn.Module = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.15)
    if mode == "experts":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("experts" in name)
    if mode == "dora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=2, use_dora=True, target_modules="all-linear"))  # type: ignore[arg-type]
    elif mode == "lora":
        model = add_lora(model, r=2, alpha=4, dropout=0.0, target_modules="all-linear")  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.train()


def batch_of(vocabulary: int = 96) -> dict[str, torch.Tensor]:
    lengths = torch.tensor([20, 9, 15, 20, 12])
    mask = (torch.arange(20)[None] < lengths[:, None]).long()
    ids = torch.randint(5, vocabulary, (5, 20), generator=torch.Generator().manual_seed(1)) * mask
    labels = torch.where(mask.bool() & (torch.arange(20)[None] >= 4), ids, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loop(model: nn.Module, batch: dict[str, torch.Tensor]) -> Blocks:
    """Return autograd's gradient of the model's own loss, one sample after the other, without padding."""
    found: list[Blocks] = []
    for ids, mask, labels in zip(*batch.values(), strict=True):
        n = int(mask.sum())
        model.zero_grad()
        model(input_ids=ids[None, :n], labels=labels[None, :n], use_cache=False).loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    model.zero_grad()
    names = [name for name, _ in model.named_parameters() if any(name in each for each in found)]
    shapes = dict(model.named_parameters())
    return {name: torch.stack([each.get(name, torch.zeros_like(shapes[name])) for each in found]) for name in names}


def engine_of(model: nn.Module, **options: Any) -> GradientEngine:
    nothing = OptimizerState.of(torch.optim.AdamW(model.parameters(), lr=1e-3), model)
    return GradientEngine(make_scoring_model(model), None, lambda: nothing, micro_batch=3, **options)


def flat(blocks: Blocks, names: list[str]) -> torch.Tensor:
    return torch.cat([blocks[name].flatten(1).double() for name in names], 1)


def near(found: torch.Tensor, wanted: torch.Tensor, *, part_of: float = 0.0) -> None:
    assert float((found.double() - wanted.double()).norm()) < 1e-5 * max(float(wanted.double().norm()), part_of)


def check(engine: GradientEngine, batch: dict[str, torch.Tensor], wanted: Blocks) -> Blocks:
    """Compare everything that a pass can measure with the loop, and return the kept gradients."""
    kept = engine.pass_over(batch, GradientRequest(keep=True)).kept
    names = list(wanted)
    assert list(kept) == names
    g = flat(wanted, names)
    for name in names:  # a bias before a softmax has no gradient but rounding
        near(kept[name], wanted[name], part_of=0.01 * float(g.norm()))
    near(flat(kept, names), g)
    generator = torch.Generator().manual_seed(3)
    target = {name: torch.randn(block.shape[1:], generator=generator) for name, block in wanted.items()}
    found = engine.pass_over(batch, GradientRequest(target=target, gram=True, norms=True))
    near(found.pairs["gram"], g @ g.T)
    near(found.values["alignment"], g @ flat({name: t[None] for name, t in target.items()}, names)[0])
    near(found.values["grad_norm"], g.norm(dim=1))
    hashing, sketch = SignHash(256, 0), torch.zeros(5, 256)
    for name, block in wanted.items():
        hashing.add(name, block, sketch)
    near(engine.pass_over(batch, GradientRequest(sketch=hashing)).values["sketch"], sketch)
    return kept


@pytest.mark.parametrize(("family", "mode"), CASES, ids=lambda value: str(value))
def test_all_that_is_measured_equals_a_loop_of_autograd(family: str, mode: str) -> None:
    model, batch = model_of(family, mode), batch_of()
    engine = engine_of(model)
    kept = check(engine, batch, loop(model, batch))
    assert engine.passes.one_by_one == ((family, mode) in ONE_BY_ONE)
    # one step of reuse is one step of rerun: the kept gradients give that of the weighted loss, for every parameter
    rows, weights = torch.tensor([0, 2, 4]), torch.tensor([0.5, 0.2, 0.3])
    reused = engine.combine(kept, rows, weights)
    model.zero_grad()
    (engine.passes.losses({name: value[rows] for name, value in batch.items()}) @ weights).backward()
    rerun = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(reused) == set(rerun)
    norm = float(torch.stack([gradient.norm() for gradient in rerun.values()]).norm())
    for name, gradient in rerun.items():
        assert float((reused[name] - gradient).norm()) < 2e-6 * max(float(gradient.norm()), 0.01 * norm), name


def test_a_model_that_takes_no_such_texts_or_cuts_gradients_off_is_one_sentence() -> None:
    from tests.families.registry import build

    batch = {"input_ids": torch.arange(5, 15).view(2, 5), "attention_mask": torch.ones(2, 5, dtype=torch.int64)}
    batch["labels"] = batch["input_ids"]
    model = build("reformer")
    with pytest.raises(ModelError, match=r"ReformerModelWithLMHead cannot be trained on these texts: .*chunk_length"):
        engine_of(model.train()).pass_over(batch, GradientRequest(keep=True))
    adapted = add_lora(model, r=2, alpha=4, dropout=0.0, target_modules="all-linear").eval()
    with pytest.raises(ModelError, match="No gradient reaches the trained weights of ReformerModelWithLMHead"):
        engine_of(adapted).pass_over(batch, GradientRequest(keep=True))


IN_A_ROW = {"llama", "gemma2", "gpt2", "mixtral", "qwen3_moe", "qwen2_moe", "gpt_oss", "deepseek_v3", "phimoe", "opt"}
"""Families whose attention can keep the texts of a row apart."""


@pytest.mark.parametrize(("family", "mode"), CASES, ids=lambda value: str(value))
def test_gradients_from_a_packed_row_equal_a_loop_and_else_texts_are_sorted(family: str, mode: str) -> None:
    model, batch = model_of(family, mode), batch_of()
    engine = engine_of(model, batching=packed_batching(model, tokens=35))
    wanted = loop(model, batch)
    check(engine, batch, wanted)
    passes = engine.passes
    packs = family in IN_A_ROW and (family, mode) not in ONE_BY_ONE
    assert (passes.packer is not None) == packs
    assert passes.one_by_one == ((family, mode) in ONE_BY_ONE)
    assert passes.batching.route == ("packed" if packs or passes.one_by_one else "sorted")
    sums = passes.sum_of_gradients(batch, 0.5, 16, step=1)
    near(flat({n: g[None] for n, g in sums.items()}, list(wanted)), 0.5 * flat(wanted, list(wanted)).sum(0)[None])


def test_a_text_that_is_not_finite_does_not_touch_the_others_of_its_row() -> None:
    model, batch = model_of("llama", "full"), batch_of()
    wanted = loop(model, batch)
    engine = engine_of(model, batching=packed_batching(model, tokens=None))
    engine.pass_over(batch, GradientRequest(norms=True))
    with torch.no_grad():
        bad = int(batch["input_ids"][1, 0])
        assert not (batch["input_ids"][[0, 2, 3, 4]] == bad).any()
        model.get_input_embeddings().weight[bad] = torch.nan  # type: ignore[operator]
    kept = engine.pass_over(batch, GradientRequest(keep=True)).kept
    names = [name for name in wanted if "embed" not in name]
    near(flat(kept, names)[[0, 2, 3, 4]], flat(wanted, names)[[0, 2, 3, 4]])
    assert flat(kept, names)[1].isnan().any()


def packed_batching(model: nn.Module, tokens: int | None) -> Batching:
    packing = LossPacking()
    packing.packer = Packer(RowAttention(model))
    return Batching("packed", tokens, packing)
