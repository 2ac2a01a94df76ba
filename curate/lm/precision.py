"""The precision of a checkpoint's weights, and whether this machine computes in it at full speed.

A CPU without units for bfloat16 computes each product in float32 and converts its inputs and its result, so a training
step takes several times as long as in float32. `curate doctor` times both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .gguf.model_file import gguf_file
from .model.adapters import find_base, local_base
from .model.boundary import read_object
from .model.memory import file_dtype

UNITS = {"bfloat16": "bf16", "float16": "fp16"}
"""Half precision -> what the name of a CPU's capability contains if the CPU has units for it."""


def stored_precision(location: str) -> str | None:
    """Return the data type in which transformers loads the weights of a model: `float32`, `bfloat16` or `float16`.

    Args:
        location: folder, GGUF file or Hub id; of an adapter the base model counts.

    Returns:
        None if it is not known: there is no config, the weights are quantized, or a GGUF file unpacks to float32.

    Raises:
        ModelError: an adapter names no base model on this machine.
    """
    adapters, base = find_base(location)
    folder = Path(local_base(base, adapters[-1]) if adapters else base)
    if gguf_file(str(folder)) is not None:
        return None
    config = _config(folder, base)
    if config is None or "quantization_config" in config:
        return None
    texts = config.get("text_config")
    for part in (config, texts if isinstance(texts, Mapping) else {}):
        if isinstance(named := part.get("dtype") or part.get("torch_dtype"), str):
            return named.removeprefix("torch.")
    return file_dtype(str(folder))


def _config(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the config of a model, from its folder or the Hub; None if there is none: an error when it is loaded."""
    from huggingface_hub import hf_hub_download

    try:
        return read_object(
            (folder if folder.is_dir() else Path(hf_hub_download(name, "config.json")).parent) / "config.json"
        )
    except Exception:  # the Hub's client raises errors of its own, of its HTTP library and of the system
        return None


def is_slow_here(precision: str | None) -> bool:
    """Return whether this machine has neither an accelerator nor a CPU with units for a half precision."""
    return precision in UNITS and not torch.accelerator.is_available() and not cpu_has_units(precision)


def cpu_has_units(precision: str) -> bool:
    """Return whether the CPU has units for `bfloat16` or `float16`, by the capabilities that torch reads from it."""
    return any(UNITS[precision] in name and bool(has) for name, has in torch.cpu.get_capabilities().items())
