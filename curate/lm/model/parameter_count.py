"""How many weights a model multiplies a token with, without loading them."""

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


def count_weights(place: str) -> int:
    """Weights of the model at `place`, of the base model where it is an adapter; input embeddings only where they are
    the head, too. The model is built on the meta device: no file of weights is read.

    Args:
        place: folder or Hub id.
    """
    adapter = Path(place) / ADAPTER
    if adapter.exists():
        place = str(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])
    try:
        config = AutoConfig.from_pretrained(place)
        with torch.device("meta"):
            model: nn.Module = cast(Any, AutoModelForCausalLM).from_config(config)
    except (OSError, ValueError) as error:
        raise ModelError(f"The weights of {place} cannot be counted: {' '.join(str(error).split())[:300]}") from None
    total = sum(parameter.numel() for parameter in model.parameters())
    table, head = cast(Any, model).get_input_embeddings(), cast(Any, model).get_output_embeddings()
    looked_up = table is not None and head is not None and table.weight is not head.weight
    return total - (int(table.weight.numel()) if looked_up else 0)


def count_adapter(folder: Path) -> int | None:
    """Weights of the adapter that a run has written; None where the run has trained all weights."""
    if not (folder / ADAPTER).exists():
        return None
    total = 0
    for file in folder.glob("adapter_model*.safetensors"):
        with safe_open(str(file), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                total += int(torch.Size(tensors.get_slice(name).get_shape()).numel())
    return total
