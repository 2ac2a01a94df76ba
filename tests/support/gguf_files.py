"""Write the tiny Llama of the tests as a GGUF file, as llama.cpp's converter would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"},
    "self_attn.o_proj": "attn_output",
    **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
}


def write_gguf(model_folder: str, path: Path, **changes: Any) -> Path:
    """Write the model and the tokenizer of a folder with a Llama to a GGUF file, with float32 or Q8_0 weights.

    Args:
        model_folder: the folder.
        path: the new file.
        changes: `quantize`: True for Q8_0; `template`: another chat template; other metadata by name, as numbers.
    """
    import gguf
    from safetensors.numpy import load_file

    folder = Path(model_folder)
    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("model")
    writer.add_name("tiny")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    quantize, template = changes.pop("quantize", False), changes.pop("template", None)
    for name, value in changes.items():
        writer.add_uint32(name, value)
    _add_tokenizer(writer, folder, template)
    for name, values in load_file(folder / "model.safetensors").items():
        if ".q_proj." in name or ".k_proj." in name:
            values = _permuted(values, heads if ".q_proj." in name else kv_heads)
        kind = gguf.GGMLQuantizationType.Q8_0 if quantize and values.ndim == 2 else None
        raw = np.ascontiguousarray(values if kind is None else gguf.quants.quantize(values, kind))
        writer.add_tensor(_gguf_name(name), raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{IN_LAYER[rest.removesuffix('.weight')]}.weight"


def _permuted(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Order the rows of queries or keys as llama.cpp rotates them: neighbours instead of halves."""
    return values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def _add_tokenizer(writer: Any, folder: Path, template: str | None) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])]
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(template or tokenizer.chat_template)
