"""Quantise base weights to 4 bits, for models that do not fit into memory otherwise, and train an adapter on them.

Source: QLoRA, Dettmers et al., arXiv 2305.14314.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from ...errors import ModelError
from ...version import pip_install


def nf4_arguments() -> dict[str, Any]:
    """Return the `from_pretrained` arguments for NF4 with double quantisation.

    Products are computed in bfloat16 on a GPU that supports it, else in float32. By transformers' own rule, heads and
    embeddings are not quantised; signals need the head's matrix.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(f"--load-in-4bit needs the package bitsandbytes: {pip_install('quantized')}.")
    from transformers import BitsAndBytesConfig

    has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return {
        "quantization_config": BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if has_bfloat16 else torch.float32,
        )
    }


def keep_differentiable(model: nn.Module) -> nn.Module:
    """Prevent bitsandbytes from packing weights for inference on CPUs with AVX-512.

    It packs at the first pass in evaluation mode and never unpacks. The packed product has no gradient, so one scoring
    pass would break training.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return model


def is_quantized(model: nn.Module) -> bool:
    """Return whether some weights are not floating-point numbers."""
    return not all(p.is_floating_point() for p in model.parameters())
