"""Choose the number of tokens in a scoring micro-batch.

The rule is fixed and does not look at free memory, so that a resumed run makes the same micro-batches.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from .load import base_of

CPU_TOKENS = 4096
"""Tokens of a micro-batch on a CPU. Matrix products of this many rows keep its cores busy; more gains nothing."""

MEMORY_SHARE = 0.1
"""Share of a GPU's total memory for scoring. Weights and optimizer may hold most of the rest.

Free memory is not measured, because the measurement would change from run to run.
"""

MIN_TOKENS, MAX_TOKENS = 1024, 262_144


def default_score_tokens(model: nn.Module, device: torch.device, *, max_length: int = 512) -> int:
    """Return the padded tokens of a scoring micro-batch.

    On a GPU it is a power of two that depends on the model's shape and the device's total memory. On a CPU it is
    `CPU_TOKENS`.

    Args:
        model: model with or without adapters.
        device: device that scores.
        max_length: length of the longest text; the spectrum's matrices grow with its square.
    """
    if device.type != "cuda":
        return CPU_TOKENS
    memory = torch.cuda.get_device_properties(device).total_memory
    width = next(p.element_size() for p in model.parameters() if p.is_floating_point())
    config = base_of(model).config.get_text_config()  # type: ignore[operator, union-attr]
    return fitting_tokens(memory, bytes_per_token(config, width, max_length))


def fitting_tokens(memory: int, per_token: int) -> int:
    """Return the largest power of two of tokens that fits into `MEMORY_SHARE` of the memory, within the limits."""
    return min(MAX_TOKENS, max(MIN_TOKENS, 1 << int(math.log2(max(1.0, MEMORY_SHARE * memory / per_token)))))


def bytes_per_token(config: Any, width: int, max_length: int) -> int:
    """Return an upper bound of the memory that scoring needs per token.

    It sums the activations of one layer, and the hidden states and spectrum in float32 and float64. A layer holds its
    input and output, the queries, keys, values and their attention (8·d), and the two branches of the MLP with their
    product (3·m), in the precision of the weights. Scoring holds four copies of the hidden states in float32, and six
    n×n matrices (n = min(L, d)) of the spectrum in float64.

    Args:
        config: config of the text model.
        width: bytes of a weight.
        max_length: length of the longest text.
    """
    d = size_in(config, "hidden_size")
    inner = size_in(config, "intermediate_size") or 4 * d
    return width * (8 * d + 3 * inner) + 4 * 4 * d + 6 * 8 * min(max_length, d)


def size_in(config: Any, name: str) -> int:
    """Return a size from a config: the largest of its layers where they differ, and 0 if the config has no such field.

    State-space models have no attention heads, and some models have layers of several widths.
    """
    try:
        value = getattr(config, name, None)
    except RuntimeError:  # transformers: the layers have their own values
        value = [getattr(layer, name, None) for layer in config.per_layer_config]
    sizes = [int(size) for size in (value if isinstance(value, (list, tuple)) else [value]) if size is not None]
    return max(sizes, default=0)
