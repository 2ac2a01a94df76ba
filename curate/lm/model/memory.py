"""Estimate the memory of a run from the model's config, before any weight is loaded.

Weights and adapters are counted exactly, on a model that has shapes but no data. All other parts are estimates from
what the layers of a decoder keep for the backward pass, with a documented formula. Nothing here uses the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from ...errors import ModelError
from .adapters import find_base
from .boundary import loading, reason_of
from .config_checks import ModelOptions, build_without_data, read_config
from .load import base_of
from .row_proof import seems_to_pack
from .scoring_batch import bytes_per_token, size_in

NF4_BYTES = 0.516
"""Bytes of a weight in NF4, including its constants, which are also quantised (QLoRA, arXiv 2305.14314, section 3)."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes and counts of a model that its memory depends on.

    Attributes:
        weights: N, number of parameters without an adapter.
        linear: number of parameters in linear layers without the head; 4 bits and casts to bfloat16 apply to these.
        trained: T, number of parameters that are trained: the adapter's, or N.
        width: bytes of a weight.
        trained_width: bytes of a trained weight (adapters are float32).
        layers: n, number of layers.
        d, inner, kv: hidden size, width m of the MLP, width of the keys (and of the values).
        vocabulary: V, vocabulary size.
        heads: number of attention heads if attention forms its L×L weights (eager), else 0.
        scored: bytes of a token while it is scored (`scoring_batch.bytes_per_token`).
        packs: whether all layers attend by segments of a row (`row_proof.py`); None: not known.
    """

    weights: int
    linear: int
    trained: int
    width: int
    trained_width: int
    layers: int
    d: int
    inner: int
    kv: int
    vocabulary: int
    heads: int
    scored: int
    packs: bool | None = None


@dataclass(frozen=True)
class Load:
    """Sizes of the passes that a run makes through the model.

    Attributes:
        texts: number of texts in a training pass.
        length: maximum number of tokens of a text.
        scored_tokens: number of tokens in a scoring pass; 0 without one.
        measured: number of texts in a backward pass that measures gradients; 0 without one.
        kept: number of per-sample gradients that a step holds.
        selector_bytes: bytes of the selector's own memory.
        bf16: compute in bfloat16 (autocast).
        checkpointing: recompute activations in the backward pass (gradient checkpointing).
        four_bits: base weights are in 4 bits.
        logits_budget: maximum bytes of the logits of the training loss.
        slice_budget: maximum bytes of the logits that scoring forms at once.
    """

    texts: int
    length: int
    scored_tokens: int = 0
    measured: int = 0
    kept: int = 0
    selector_bytes: int = 0
    bf16: bool = False
    checkpointing: bool = False
    four_bits: bool = False
    logits_budget: int = 64 << 20
    slice_budget: int = 64 << 20


def config_of(options: ModelOptions) -> Any:
    """Return the model's config from a folder or the Hub cache; for an adapter, the config of its base model.

    Raises:
        ModelError: there is no config in a folder or in the cache.
    """
    _, base = find_base(options.location)
    try:
        folder = base if Path(base).exists() else _cached_folder(base)
    except (OSError, ValueError) as error:
        raise ModelError(f"Cannot read a model config for {base}: {reason_of(error)}.") from None
    return read_config(replace(options, location=folder), local_files_only=True)


def _cached_folder(repo: str) -> str:
    """Return the folder of a Hub model in the cache; raise `OSError` if it is not there.

    The cache is checked before AutoConfig is called, because AutoConfig asks the Hub about a missing model even with
    `local_files_only`.
    """
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repo, "config.json")
    if not isinstance(path, str):
        raise OSError("it is not in the Hub cache")
    return str(Path(path).parent)


def count(options: ModelOptions, adapt: Callable[[nn.Module], nn.Module] | None, max_length: int) -> ModelShape:
    """Return a model's shape from its config alone. The model is built on torch's meta device, without data.

    Cost: about a second for a hundred layers or more, and the import of transformers.

    Args:
        options: options for loading the model.
        adapt: function that adds the adapter to the model; None if all weights are trained.
        max_length: length of the longest text, which determines the size of the spectrum's matrices.

    Raises:
        ModelError: the config cannot be read, or is not that of a causal language model.
    """
    config = config_of(options)
    model = build_without_data(config, options)
    packs = seems_to_pack(model)
    with torch.device("meta"):
        head = model.get_output_embeddings()  # type: ignore[operator]
        weights = sum(p.numel() for p in model.parameters())
        layers = [m for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D") and m is not head]
        linear = sum(p.numel() for m in layers for p in m.parameters())
        if adapt is not None:
            model = adapt(model)
    trained = weights if adapt is None else sum(p.numel() for p in model.parameters() if p.requires_grad)
    width = _weight_bytes(options, config)
    text_config = base_of(model).config.get_text_config()  # type: ignore[operator, union-attr]
    shape = _shape_of(text_config, weights, linear, trained, width, adapt is not None, options, max_length)
    return replace(shape, packs=packs)


def _shape_of(
    config: Any, weights: int, linear: int, trained: int, width: int, adapter: bool, options: ModelOptions, length: int
) -> ModelShape:
    d, heads = size_in(config, "hidden_size"), size_in(config, "num_attention_heads")
    inner = size_in(config, "intermediate_size") or 4 * d
    if active_experts := size_in(config, "num_experts_per_tok"):
        inner = (size_in(config, "moe_intermediate_size") or inner) * active_experts
    head_dim = size_in(config, "head_dim") or (d // heads if heads else 0)
    return ModelShape(
        weights=weights,
        linear=linear,
        trained=trained,
        width=width,
        trained_width=4 if adapter else width,
        layers=size_in(config, "num_hidden_layers"),
        d=d,
        inner=inner,
        kv=head_dim * (size_in(config, "num_key_value_heads") or heads),
        vocabulary=size_in(config, "vocab_size"),
        heads=heads if options.attn_implementation == "eager" else 0,
        scored=bytes_per_token(config, width, length),
    )


def _weight_bytes(options: ModelOptions, config: Any) -> int:
    """Return the bytes of a weight: from the requested dtype, else the config, else the first weights file, else 4."""
    named = options.dtype if options.dtype != "auto" else getattr(config, "dtype", None) or file_dtype(options.location)
    dtype = getattr(torch, named) if isinstance(named, str) else named
    return int(dtype.itemsize) if isinstance(dtype, torch.dtype) else 4


def file_dtype(folder: str) -> str | None:
    """Return the data type of a folder's weights from the header of the first safetensors file, or None."""
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with loading("data type", str(path)), safe_open(path, framework="pt") as file:
            return names.get(file.get_slice(next(iter(file.keys()))).get_dtype())
    return None


def estimate_memory(shape: ModelShape, load: Load) -> dict[str, int]:
    """Return the maximum bytes on the device of each part of a run, and `peak`, the largest sum in use at one time.

    weights      N·w; in 4 bits 0.516 for each weight of a linear layer; plus 4·T for a trained adapter
    casts        2·(weights of linear layers), if float32 weights compute in bfloat16
    gradients    T·w_T;  Adam's state: 2·T·w_T
    activations  see `activations`; with gradient checkpointing n·w·d per token, plus those of one layer
    loss         4·min(tokens·V·4, logits budget): logits, their softmax, and the gradients of both
    scoring      scored tokens · `bytes_per_token`, plus 2·(slice of logits)
    measuring    activations and loss of the texts in a measuring pass, plus 4·T for every gradient that is held
    peak         weights + Adam + selector + max(gradients + activations + loss + casts, scoring, measuring)
    """
    linear_bytes = NF4_BYTES if load.four_bits else shape.width
    weights = int(shape.linear * linear_bytes + (shape.weights - shape.linear) * shape.width)
    adapter = (
        shape.trained * shape.trained_width
        if shape.trained_width != shape.width or shape.trained != shape.weights
        else 0
    )
    tokens, measured = load.texts * load.length, load.measured * load.length
    parts = {
        "weights": weights + adapter,
        "optimizer": 2 * shape.trained * shape.trained_width,
        "gradients": shape.trained * shape.trained_width,
        "activations": activations(shape, load, tokens),
        "loss": _loss(shape, load, tokens),
        "scoring": _scoring(shape, load),
        "selector": load.selector_bytes,
    }
    if measured:
        parts["measuring"] = (
            activations(shape, load, measured) + _loss(shape, load, measured) + 4 * shape.trained * load.kept
        )
    training = parts["gradients"] + parts["activations"] + parts["loss"]
    largest_pass = max(training, parts["scoring"], parts.get("measuring", 0))
    parts["peak"] = parts["weights"] + parts["optimizer"] + parts["selector"] + largest_pass
    return {name: value for name, value in parts.items() if value}


def activations(shape: ModelShape, load: Load, tokens: int) -> int:
    """Return the bytes that `tokens` tokens keep for the backward pass, plus the working set of one layer.

    For each token, a layer of a Llama-like decoder keeps the residual stream twice around its norms, the queries, keys
    and values, the output of attention, and the two branches of the MLP with their product. Bytes per token and layer:

        float32            4·(8.5·d + 2·kv + 4·m)
        16 bits            2·(11·d + 2·kv + 4·m)        norms compute in float32
        bfloat16 autocast  32·d + 2·(2·kv + 4·m)        the residual stream stays float32
        16 bits, adapters  + 4·(6·d + m)                PEFT casts the inputs of its float32 adapters
        eager attention    + 2·w·heads·L

    The factors are fitted to what torch saves for the backward pass in Llamas of 256 and 512 dimensions, within 15 %.
    """
    if not tokens:
        return 0
    d, kv, m = shape.d, shape.kv, shape.inner
    if load.bf16 and shape.width == 4:
        layer, width = 32 * d + 2 * (2 * kv + 4 * m), 2
    elif shape.width == 4:
        layer, width = int(4 * (8.5 * d + 2 * kv + 4 * m)), 4
    else:
        layer, width = 2 * (11 * d + 2 * kv + 4 * m), 2
        if shape.trained != shape.weights and not load.bf16:
            layer += 4 * (6 * d + m)
    layer += 2 * width * shape.heads * load.length
    casts = 2 * shape.linear if load.bf16 and shape.width == 4 and not load.checkpointing else 0
    working = tokens * layer
    if load.checkpointing:
        return tokens * shape.layers * shape.d * shape.width + 2 * working
    return shape.layers * working + working + casts


def _loss(shape: ModelShape, load: Load, tokens: int) -> int:
    return 4 * min(tokens * shape.vocabulary * 4, load.logits_budget)


def _scoring(shape: ModelShape, load: Load) -> int:
    if not load.scored_tokens:
        return 0
    slices = 2 * min(load.scored_tokens * shape.vocabulary * 4, load.slice_budget)
    return load.scored_tokens * shape.scored + slices


def saved(shape: ModelShape, checkpoints: int, extra: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return the bytes on disk: the trained weights as the result, and the checkpoints.

    Each checkpoint holds the trained weights and Adam's two moments.

    Args:
        shape: shape of the model.
        checkpoints: number of checkpoints that exist at one time, including the one being written.
        extra: bytes of other files in every checkpoint, by name.
    """
    one = shape.trained * shape.trained_width
    return {"model": one, "checkpoints": checkpoints * (3 * one + sum((extra or {}).values()))}
