"""How many tokens a device can score at once: a fixed rule, so that a resumed run makes the same micro-batches."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from .load import base_of

CPU_TOKENS = 4096
"""On a CPU larger micro-batches gain nothing: products of this many rows keep its cores busy."""

SHARE = 0.1
"""Of a GPU's whole memory, for scoring: most of the rest may hold weights and optimizer, which nobody can ask for
without the answer changing from run to run."""

FEWEST, MOST = 1024, 262_144


def default_score_tokens(model: nn.Module, device: torch.device, *, max_length: int = 512) -> int:
    """Padded tokens of a scoring micro-batch: a power of two, from the model's shape and the device's whole memory.

    Args:
        model: with or without adapters.
        device: where it scores.
        max_length: longest text; the spectrum's matrices are as large as its square.
    """
    if device.type != "cuda":
        return CPU_TOKENS
    memory = torch.cuda.get_device_properties(device).total_memory
    width = next(p.element_size() for p in model.parameters() if p.is_floating_point())
    config = base_of(model).config.get_text_config()  # type: ignore[operator, union-attr]
    return fitting_tokens(memory, bytes_per_token(config, width, max_length))


def fitting_tokens(memory: int, per_token: int) -> int:
    """The power of two that `SHARE` of the memory holds, within reason."""
    return min(MOST, max(FEWEST, 1 << int(math.log2(max(1.0, SHARE * memory / per_token)))))


def bytes_per_token(config: Any, width: int, max_length: int) -> int:
    """What a scored token takes at the most: activations of one layer, or hidden states and spectrum in float32/64.

    A layer holds its input and output, queries, keys, values and their attention (8·d), and the two sides of the MLP
    with their product (3·m), in the weights' precision. Scoring holds four copies of the hidden states in float32, and
    of the n×n matrices (n = min(L, d)) of the spectrum six in float64.

    Args:
        config: the text model's.
        width: bytes of a weight.
        max_length: longest text.
    """
    d = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * d)
    return width * (8 * d + 3 * inner) + 4 * 4 * d + 6 * 8 * min(max_length, d)
