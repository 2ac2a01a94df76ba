"""Tiny models with random weights, one of each family that transformers can build as a causal language model.

Every size of a config's class is replaced by a small one (`SMALL`). Families whose sizes depend on each other have an
entry in `exceptions.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from .exceptions import EXCEPTIONS

VOCABULARY, HIDDEN, LENGTH = 96, 32, 12
"""Tokens, hidden size and longest text of the tiny models. Windows of attention are shorter than the longest text."""

SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "emb_dim", "embedding_dim", "dim_model", "attention_hidden_size"), HIDDEN
    ),
    **dict.fromkeys(("embedding_size", "input_embedding_size", "output_embedding_size", "word_embed_proj_dim"), HIDDEN),
    **dict.fromkeys(("lru_width",), HIDDEN),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "dff", "dim_ff", "d_inner", "ffn_hidden_size"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "feed_forward_size", "intermediate_size_mlp"), 48),
    **dict.fromkeys(("prefix_dense_intermediate_size", "dense_intermediate_size", "expert_ffn_hidden_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 24),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size"), 24),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads", "index_n_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "v_head_dim", "qk_nope_head_dim", "index_head_dim", "swa_head_dim"), 8),
    **dict.fromkeys(("dim_head", "linear_key_head_dim", "linear_value_head_dim", "linear_head_dim", "d_head"), 8),
    **dict.fromkeys(("global_head_dim", "attention_head_size"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_heads"), 2),
    "linear_num_value_heads": 4,
    "is_decoder": True,
    "qk_rope_head_dim": 4,
    "rotary_dim": 4,
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank", "laurel_rank", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers"), 1),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "local_attention"), 6),
    **dict.fromkeys(("window_size", "attention_chunk_size"), 6),
    "index_topk": 6,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 64),
    **dict.fromkeys(("max_target_positions", "max_source_positions", "original_max_position_embeddings"), 64),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size"), 8),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 4),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_head_dim",), 8),
    **dict.fromkeys(("mamba_n_groups", "n_groups"), 1),
    **dict.fromkeys(("pad_token_id",), 0),
    **dict.fromkeys(("bos_token_id", "cls_token_id", "decoder_start_token_id"), 1),
    **dict.fromkeys(("eos_token_id", "sep_token_id", "forced_eos_token_id"), 2),
    **dict.fromkeys(("attention_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout"), 0.0),
    **dict.fromkeys(("activation_dropout", "resid_pdrop", "attn_pdrop", "embd_pdrop", "hidden_dropout"), 0.0),
    **dict.fromkeys(("resid_dropout", "embed_dropout", "embedding_dropout", "emb_pdrop", "residual_dropout"), 0.0),
    **dict.fromkeys(
        ("router_jitter_noise", "input_jitter_noise", "local_attention_probs_dropout_prob", "mlp_dropout"), 0.0
    ),
    **dict.fromkeys(("lsh_attention_probs_dropout_prob", "dropout_p", "mask_time_prob"), 0.0),
}
"""Field of a config -> its value in a tiny model."""

KINDS = ("layer_types", "mlp_layer_types", "indexer_types")
"""Fields with the kind of each layer."""


def names() -> list[str]:
    """Return the families of transformers' mapping of causal language models, in its order."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def config_of(family: str) -> Any:
    """Return a small config of a family."""
    from transformers import CONFIG_MAPPING

    return small_config(CONFIG_MAPPING[family], family)


def small_config(cls: Any, family: str) -> Any:
    """Return a config of a class with small sizes, and so for the configs within it."""
    fields = {field.name for field in dataclasses.fields(cls)}
    values = {name: value for name, value in SMALL.items() if name in fields}
    if "kv_lora_rank" in fields and "num_key_value_heads" in fields:  # latent attention has no groups of heads
        values["num_key_value_heads"] = values["num_attention_heads"]
    for part, sub in cls.sub_configs.items():
        if dataclasses.is_dataclass(sub) and part in fields:
            values[part] = small_config(sub, f"{family}.{part}")
    own = EXCEPTIONS.get(family, EXCEPTIONS.get(cls.model_type, {}))
    return cls(**(values | layers_of(cls) | own))


def layers_of(cls: Any) -> dict[str, Any]:
    """Return the fields for one layer of each kind that a class's own default has, at most four of them."""
    try:
        default = cls()
    except Exception:  # some classes have no valid default; their entry in EXCEPTIONS names the layers
        return {}
    fields = {field.name for field in dataclasses.fields(cls)}
    kinds = {name: getattr(default, name, None) for name in KINDS if name in fields}
    kinds = {name: kind for name, kind in kinds.items() if isinstance(kind, list)}
    if not kinds:
        return {}
    unique = list(dict.fromkeys(zip(*kinds.values(), strict=False)))[:4]
    if len(unique) == 1:
        unique *= 2
    named = {name: [row[i] for row in unique] for i, name in enumerate(kinds)}
    return named | {"num_hidden_layers": len(unique)}


def build(family: str, *, seed: int = 0) -> nn.Module:
    """Return the tiny model of a family in float32, with weights from N(0, 0.1) and norms near 1."""
    from transformers import AutoModelForCausalLM

    config = config_of(family)
    torch.manual_seed(seed)
    model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=generator) * 0.1
            p.copy_(noise if p.dim() > 1 else p + noise)
    return model.eval()
