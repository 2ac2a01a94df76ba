"""Check a model's config before anything is built from it, and build models that have shapes and no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ...errors import ModelError
from ..gguf.model_file import READABLE, config_of, gguf_file, header_of_model
from .boundary import COMPLETE, loading, read_object, require_regular_files
from .weight_files import compare_shapes, weights_of

LAYERS, WIDTH, HEADS = (1, 2_000), (1, 1 << 20), (0, 1 << 14)
LIMITS = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), WIDTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_key_value_heads", "num_kv_heads"), HEADS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "head_dim"), HEADS),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "n_inner", "ffn_dim"), (0, 1 << 24)),
    "vocab_size": (1, 1 << 26),
    "max_position_embeddings": (0, 1 << 40),
}
"""Field of a config -> its smallest and largest possible value. No model comes near the largest ones."""

IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
"""Fields that may name code on the Hub."""


def read_config(options: ModelOptions, *, local_files_only: bool = False) -> Any:
    """Return a model's config, from a folder, the Hub cache or the Hub.

    Raises:
        ModelError: there is no config, it cannot be read, or no model can have such values.
    """
    from transformers import AutoConfig, PreTrainedConfig

    location = options.location
    flags: dict[str, Any] = {"local_files_only": True} if local_files_only else {}
    require_regular_files(location)
    if (file := gguf_file(location)) is not None:
        with loading("model config", location, READABLE):
            config = config_of(file)
        config._name_or_path = location
        check_values(config.to_dict(), location)
        return config
    with loading("model config", location):
        raw = _raw_config(location) or PreTrainedConfig.get_config_dict(location, **flags)[0]
        check_values(raw, location)
        if not options.trust_remote_code:
            _check_implementations(raw, location)
        return AutoConfig.from_pretrained(location, trust_remote_code=options.trust_remote_code, **flags)


def _raw_config(location: str) -> dict[str, Any] | None:
    return read_object(Path(location) / "config.json") if Path(location).is_dir() else None


def check_values(config: Mapping[str, Any], location: str, depth: int = 0) -> None:
    """Check the sizes in a config and in the configs within it.

    Raises:
        ModelError: a size is no whole number, or no model has that size.
    """
    for name, (smallest, largest) in LIMITS.items():
        value = config.get(name)
        for size in value if isinstance(value, list) else [value]:
            whole = type(size) is int or (isinstance(size, float) and size.is_integer())
            if size is not None and not (whole and smallest <= size <= largest):
                raise ModelError(
                    f"The config of {location} cannot be right: {name} is {str(size)[:40]!r}, and must be a whole "
                    f"number from {smallest} to {largest:,}. Download the model again."
                )
    for part in config.values():
        if isinstance(part, Mapping) and depth < 8:
            check_values(part, location, depth + 1)


def _check_implementations(config: Mapping[str, Any], location: str) -> None:
    """Raise `ModelError` if a config names code on the Hub that transformers would download and run."""
    for name in IMPLEMENTATIONS:
        value = config.get(name)
        if any("/" in str(part) for part in (value.values() if isinstance(value, Mapping) else [value])):
            raise ModelError(
                f"The config of {location} asks for code from the Hub: {name} is {str(value)[:80]!r}. Remove it from "
                "config.json, or give --trust-remote-code."
            )


def build_without_data(config: Any, options: ModelOptions) -> nn.Module:
    """Return the model of a config on the meta device. About a second for a hundred layers.

    Raises:
        ModelError: the config is not that of a causal language model, or cannot be built.
    """
    from transformers import AutoModelForCausalLM

    remedy = "Give a causal language model."
    with loading("causal language model", options.location, remedy), torch.device("meta"):
        model: nn.Module = cast(Any, AutoModelForCausalLM).from_config(
            config, trust_remote_code=options.trust_remote_code
        )
    return model


def build_with_random_weights(config: Any, options: ModelOptions, dtype: str) -> nn.Module:
    """Return the model of a config with random weights of a data type, on the CPU.

    Raises:
        ModelError: the config is not that of a causal language model, or cannot be built.
    """
    from transformers import AutoModelForCausalLM

    with loading("causal language model", options.location, "Give a causal language model."):
        model: nn.Module = cast(Any, AutoModelForCausalLM).from_config(
            config, dtype=getattr(torch, dtype), trust_remote_code=options.trust_remote_code
        )
    return model


def check_folder(options: ModelOptions) -> None:
    """Check a model before it is loaded: the values of its config, its weight files, and whether the two fit.

    The weights of a Hub model are checked only when they are loaded, because they may not be on this machine yet.

    Raises:
        ModelError: the model cannot be loaded as it is.
    """
    config = read_config(options)
    folder = Path(options.location)
    if (file := gguf_file(options.location)) is not None:
        raw, found = {}, dict(header_of_model(file).shapes)
    elif folder.is_dir():
        raw = read_object(folder / "config.json")
        found = weights_of(folder, raw)
    else:
        return
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > len(found):  # known at once; building the layers takes a while
        raise ModelError(
            f"The config of {folder} does not fit its weights: it describes {layers:,} layers, and the files hold "
            f"{len(found):,} tensors. {COMPLETE}"
        )
    own_code = options.trust_remote_code and "auto_map" in raw
    if not own_code and "quantization_config" not in raw:
        compare_shapes(build_without_data(config, options), found, options.location)


@dataclass(frozen=True)
class ModelOptions:
    """Options for loading a model and its tokenizer.

    Attributes:
        location: folder, GGUF file or Hub id. An adapter in a folder is loaded on its base model.
        dtype: data type of the weights; `auto` keeps the data type of the checkpoint.
        attn_implementation: attention implementation as in transformers, or None for its default.
        chat_template: `chatml`, `plain`, `thinking`, or a Jinja file; None keeps the tokenizer's own template.
        date: day that the chat template writes when it asks for today's, as YYYY-MM-DD; None is today.
        pad_token: token of the vocabulary to pad with; None keeps the tokenizer's own.
        trust_remote_code: run code that comes with the model.
        load_in_4bit: quantise the base weights to 4 bits (`quantization.py`). Head and adapters are not quantised.
    """

    location: str
    dtype: str = "auto"
    attn_implementation: str | None = None
    chat_template: str | None = None
    date: str | None = None
    pad_token: str | None = None
    trust_remote_code: bool = False
    load_in_4bit: bool = False
