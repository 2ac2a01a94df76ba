"""Tiny random models of several families, for tests of rows that hold several texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

SHAPE: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"num_key_value_heads": 1, "vocab_size": 200, "max_position_embeddings": 64, "pad_token_id": 0},
    **{"bos_token_id": 1, "eos_token_id": 2},
}
SMALL: dict[str, Any] = {key: SHAPE[key] for key in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
WINDOW = 6


def _configs() -> dict[str, Callable[[], Any]]:
    import transformers as t

    head = {"head_dim": 16}
    moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    opt = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    mpt = {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 64}
    windows = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
    return {
        "llama": lambda: t.LlamaConfig(**SHAPE),
        "qwen3": lambda: t.Qwen3Config(**SHAPE, **head, **windows),
        "gemma2": lambda: t.Gemma2Config(**SHAPE, **head, sliding_window=WINDOW),
        "gpt2": lambda: t.GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=2, n_positions=64),
        "opt": lambda: t.OPTConfig(**SMALL, **opt, max_position_embeddings=64, word_embed_proj_dim=32),
        "gpt_oss": lambda: t.GptOssConfig(**SHAPE, **head, num_local_experts=4, sliding_window=WINDOW),
        "moe": lambda: t.Qwen3MoeConfig(**SHAPE, **head, **moe),
        "router loss": lambda: t.MixtralConfig(
            **SHAPE, num_local_experts=4, output_router_logits=True, router_aux_loss_coef=1.0
        ),
        "mamba": lambda: t.MambaConfig(**SMALL, hidden_size=32, num_hidden_layers=2, state_size=4),
        "bloom": lambda: t.BloomConfig(**SMALL, hidden_size=32, n_layer=2, n_head=2),
        "mpt": lambda: t.MptConfig(**SMALL, **mpt),
        "lfm2": lambda: t.Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"]),
    }


PACKED = ("llama", "qwen3", "gemma2", "gpt2", "opt", "gpt_oss", "moe")
"""Families that keep the texts of a row apart with attention by pieces."""

MIXED = ("mamba", "bloom", "mpt", "lfm2")
"""Families that do not."""


def family(name: str, attention: str | None = None) -> nn.Module:
    """Return a model with random weights that are large enough for texts to influence each other; no dropout."""
    import transformers

    torch.manual_seed(0)
    options = {"attn_implementation": attention} if attention else {}
    model: nn.Module = transformers.AutoModelForCausalLM.from_config(_configs()[name](), **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.12)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    return model.train()
