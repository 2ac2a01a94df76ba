"""What a run will take in memory, told from the model's config before any weight is loaded.

Weights and adapters are counted, on a model that has shapes and no data. The rest are estimates, from what the layers
of a decoder keep for the backward pass; each says its formula. Nothing here asks a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import ModelError
from .load import ModelOptions, base_of
from .scoring_batch import bytes_per_token

FOUR_BITS = 0.516
"""Bytes of a weight in NF4, with its constants, which are quantised too (QLoRA, arXiv 2305.14314, section 3)."""


@dataclass(frozen=True)
class ModelShape:
    """What is counted of a model.

    Attributes:
        weights: N, parameters without what is trained beside them.
        linear: of them those in linear layers, the head apart: what 4 bits and casts to bfloat16 concern.
        trained: T, parameters that train: an adapter's, or N.
        width: bytes of a weight; trained_width: of one that trains (adapters are float32).
        layers, d, inner, kv, vocabulary: n, d, m, the width of keys, V.
        heads: attention heads where attention forms its L×L weights (eager), else 0.
        scored: bytes of a token while it is scored (`score_budget.bytes_per_token`).
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


@dataclass(frozen=True)
class Load:
    """What is asked of the model at once.

    Attributes:
        texts: of a training pass; length: their tokens at the most.
        scored_tokens: of a scoring pass, 0 without one.
        measured: texts of a backward pass that measures gradients, 0 without one; kept: gradients held of a step.
        chosen_by: bytes of the selector's own memory.
        bf16: computes in bfloat16 (autocast); checkpointing: recomputes activations; four_bits: base weights.
        logits_budget: bytes; slice_budget: bytes of logits that scoring forms at once.
    """

    texts: int
    length: int
    scored_tokens: int = 0
    measured: int = 0
    kept: int = 0
    chosen_by: int = 0
    bf16: bool = False
    checkpointing: bool = False
    four_bits: bool = False
    logits_budget: int = 64 << 20
    slice_budget: int = 64 << 20


def config_of(options: ModelOptions) -> Any:
    """The model's config, from a folder or the cache; of an adapter its base model's. `ModelError` where it is neither.

    The second value of the error's text says whether the Hub would have to be asked.
    """
    from transformers import AutoConfig

    adapter = Path(options.place) / "adapter_config.json"
    if adapter.exists():
        from peft import PeftConfig

        base = PeftConfig.from_pretrained(options.place).base_model_name_or_path
        return config_of(ModelOptions(str(base), trust_remote_code=options.trust_remote_code))
    try:
        place = options.place if Path(options.place).exists() else _cached(options.place)
        return AutoConfig.from_pretrained(place, trust_remote_code=options.trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{options.place} has no config that can be read here: {_line(error)}") from None


def _cached(repo: str) -> str:
    """The folder of a Hub model in the cache. AutoConfig itself asks the Hub about one that is not there, whatever
    `local_files_only` says; hence this look beforehand.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "config.json")
    if not isinstance(found, str):
        raise OSError("it is not in the cache")
    return str(Path(found).parent)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def count(options: ModelOptions, adapt: Callable[[nn.Module], nn.Module] | None, max_length: int) -> ModelShape:
    """A model's shape, from its config alone: built on torch's meta device, where tensors have no data.

    Args:
        options: how the model would be loaded.
        adapt: puts the adapter on; None where all weights train.
        max_length: longest text, which the spectrum's matrices depend on.

    Cost: a second for some hundred layers, and the import of transformers.
    """
    from transformers import AutoModelForCausalLM

    config = config_of(options)
    with torch.device("meta"):
        try:
            model: nn.Module = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, trust_remote_code=options.trust_remote_code
            )
        except (ValueError, KeyError, ImportError) as error:
            raise ModelError(f"{options.place} is no causal language model: {_line(error)}") from None
        head = model.get_output_embeddings()  # type: ignore[operator]
        weights = sum(p.numel() for p in model.parameters())
        layers = [m for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D") and m is not head]
        linear = sum(p.numel() for m in layers for p in m.parameters())
        if adapt is not None:
            model = adapt(model)
    trained = weights if adapt is None else sum(p.numel() for p in model.parameters() if p.requires_grad)
    width = _width(options, config)
    text = base_of(model).config.get_text_config()  # type: ignore[operator, union-attr]
    return _shaped(text, weights, linear, trained, width, adapt is not None, options, max_length)


def _shaped(
    config: Any, weights: int, linear: int, trained: int, width: int, adapter: bool, options: ModelOptions, length: int
) -> ModelShape:
    d, heads = int(config.hidden_size), int(config.num_attention_heads)
    inner = int(getattr(config, "intermediate_size", None) or 4 * d)
    if routed := getattr(config, "num_experts_per_tok", None):
        inner = int(getattr(config, "moe_intermediate_size", None) or inner) * int(routed)
    head_dim = int(getattr(config, "head_dim", None) or d // heads)
    return ModelShape(
        weights=weights,
        linear=linear,
        trained=trained,
        width=width,
        trained_width=4 if adapter else width,
        layers=int(config.num_hidden_layers),
        d=d,
        inner=inner,
        kv=head_dim * int(getattr(config, "num_key_value_heads", None) or heads),
        vocabulary=int(config.vocab_size),
        heads=heads if options.attn_implementation == "eager" else 0,
        scored=bytes_per_token(config, width, length),
    )


def _width(options: ModelOptions, config: Any) -> int:
    """Bytes of a weight: as asked for, else as the config says, else as the first file of weights has it, else 4."""
    asked = options.dtype if options.dtype != "auto" else getattr(config, "dtype", None) or _stored(options.place)
    kind = getattr(torch, asked) if isinstance(asked, str) else asked
    return int(kind.itemsize) if isinstance(kind, torch.dtype) else 4


def _stored(place: str) -> str | None:
    """The precision of a folder's weights, from the header of the first file."""
    from safetensors import safe_open

    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    for path in sorted(Path(place).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            return names.get(file.get_slice(next(iter(file.keys()))).get_dtype())
    return None


def footprint(shape: ModelShape, load: Load) -> dict[str, int]:
    """Bytes on the device by part, each at its greatest; `peak` is the greatest sum that is there at once.

    weights      N·w, in 4 bits 0.516 for a weight of a linear layer; a trained adapter's 4·T
    casts        2·(weights of linear layers), where float32 weights compute in bfloat16
    gradients    T·w_T;  Adam's state: 2·T·w_T
    activations  see `activations`; with gradient checkpointing n·w·d a token and one layer's
    loss         4·min(tokens·V·4, logits budget): logits, their softmax, both gradients
    scoring      scored tokens · `bytes_per_token`, and 2·(slice of logits)
    measuring    activations and loss of the texts of a measuring pass, and 4·T for every gradient that is held
    peak         weights + Adam + selector + max(gradients + activations + loss + casts, scoring, measuring)
    """
    bits = FOUR_BITS if load.four_bits else shape.width
    weights = int(shape.linear * bits + (shape.weights - shape.linear) * shape.width)
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
        "selector": load.chosen_by,
    }
    if measured:
        parts["measuring"] = (
            activations(shape, load, measured) + _loss(shape, load, measured) + 4 * shape.trained * load.kept
        )
    training = parts["gradients"] + parts["activations"] + parts["loss"]
    passing = max(training, parts["scoring"], parts.get("measuring", 0))
    parts["peak"] = parts["weights"] + parts["optimizer"] + parts["selector"] + passing
    return {name: value for name, value in parts.items() if value}


def activations(shape: ModelShape, load: Load, tokens: int) -> int:
    """What is kept of `tokens` tokens for the backward pass, with the working set of one layer.

    A layer of a Llama-like decoder keeps a token's residual stream twice around its norms, queries, keys, values,
    attention's output, and the two sides of its MLP with their product:

        float32            4·(8.5·d + 2·kv + 4·m)
        16 bits            2·(11·d + 2·kv + 4·m)        norms work in float32
        bfloat16 autocast  32·d + 2·(2·kv + 4·m)        the stream stays float32
        16 bits, adapters  + 4·(6·d + m)                PEFT casts what its float32 adapters read
        eager attention    + 2·w·heads·L

    Fitted to what torch saves for backward in Llamas of 256 and 512 dimensions, within 15 %.
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
    """Bytes on disk: what trains, once as the result and in each checkpoint with Adam's two moments.

    Args:
        shape: of the model.
        checkpoints: how many there are at once, the one that is being written among them.
        extra: what else every checkpoint holds, by name.
    """
    one = shape.trained * shape.trained_width
    return {"model": one, "checkpoints": checkpoints * (3 * one + sum((extra or {}).values()))}
