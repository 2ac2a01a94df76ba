"""Base weights in 4 bits, for models that do not fit otherwise; an adapter is trained on them.

Source: QLoRA, Dettmers et al., arXiv 2305.14314.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from ...errors import ModelError
from ...version import pip_install


def four_bits() -> dict[str, Any]:
    """How transformers is told: NF4, its constants quantised too, products in bfloat16 on a GPU that has it.

    Heads and embeddings stay as they are, which is transformers' own rule; signals need the head's matrix.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(f"--load-in-4bit needs the package bitsandbytes: {pip_install('quantized')}.")
    from transformers import BitsAndBytesConfig

    half = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return {
        "quantization_config": BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if half else torch.float32,
        )
    }


def keep_differentiable(model: nn.Module) -> nn.Module:
    """Keep bitsandbytes from packing weights for inference on CPUs with AVX-512: it does so at the first pass in
    evaluation mode, for good, and the packed product has no gradient. Scoring would break training.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return model


def is_quantized(model: nn.Module) -> bool:
    """Whether some weights are not floating-point numbers."""
    return not all(p.is_floating_point() for p in model.parameters())
