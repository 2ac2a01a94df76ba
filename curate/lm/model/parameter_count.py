"""Count the weights that a model multiplies a token with, without loading them.

The counts are the basis of FLOP estimates.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from ...errors import ModelError

ADAPTER = "adapter_config.json"


def count_weights(location: str) -> int:
    """Return the number of weights of a model; for an adapter, those of its base model.

    Input embeddings count only if they are also the head. The model is built on the meta device, so no weights file is
    read.

    Args:
        location: folder or Hub id.

    Raises:
        ModelError: the config cannot be read, or is not that of a causal language model.
    """
    adapter = Path(location) / ADAPTER
    if adapter.exists():
        location = str(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])
    try:
        config = AutoConfig.from_pretrained(location)
        with torch.device("meta"):
            model: nn.Module = cast(Any, AutoModelForCausalLM).from_config(config)
    except (OSError, ValueError) as error:
        raise ModelError(f"Cannot count the weights of {location}: {' '.join(str(error).split())[:300]}") from None
    total = sum(parameter.numel() for parameter in model.parameters())
    embeddings, head = cast(Any, model).get_input_embeddings(), cast(Any, model).get_output_embeddings()
    separate = embeddings is not None and head is not None and embeddings.weight is not head.weight
    return total - (int(embeddings.weight.numel()) if separate else 0)


def count_adapter(folder: Path) -> int | None:
    """Return the number of weights of the adapter that a run has written, or None if the run trained all weights."""
    if not (folder / ADAPTER).exists():
        return None
    total = 0
    for file in folder.glob("adapter_model*.safetensors"):
        with safe_open(str(file), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is not a mapping
                total += int(torch.Size(tensors.get_slice(name).get_shape()).numel())
    return total
