"""Count the weights that a model multiplies a token with, without loading them.

The counts are the basis of FLOP estimates.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

from .adapters import CONFIG, find_base, local_base
from .config_checks import ModelOptions, build_without_data, read_config
from .weight_files import header_of


def count_weights(location: str) -> int:
    """Return the number of weights of a model; for an adapter, those of its base model.

    Input embeddings count only if they are also the head. The model is built on the meta device, so no weights file is
    read.

    Args:
        location: folder or Hub id.

    Raises:
        ModelError: the config cannot be read, or is not that of a causal language model.
    """
    adapters, base = find_base(location)
    options = ModelOptions(local_base(base, adapters[-1]) if adapters else base)
    model = build_without_data(read_config(options), options)
    total = sum(parameter.numel() for parameter in model.parameters())
    embeddings, head = cast(Any, model).get_input_embeddings(), cast(Any, model).get_output_embeddings()
    separate = embeddings is not None and head is not None and embeddings.weight is not head.weight
    return total - (int(embeddings.weight.numel()) if separate else 0)


def count_adapter(folder: Path) -> int | None:
    """Return the number of weights of the adapter that a run has written, or None if the run trained all weights."""
    if not (folder / CONFIG).exists():
        return None
    total = 0
    for file in folder.glob("adapter_model*.safetensors"):
        total += sum(map(math.prod, header_of(file).values()))
    return total
