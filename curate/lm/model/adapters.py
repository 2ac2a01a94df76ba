"""Find the base model of an adapter, and load the adapters on it: safetensors only, and no adapter is its own base."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import ModelError
from .boundary import COMPLETE, loading, read_object, require_regular_files
from .weight_files import Shapes, header_of

CONFIG = "adapter_config.json"

MAX_ADAPTERS = 8
"""Maximum number of adapters that lie on each other."""


def find_base(location: str) -> tuple[list[str], str]:
    """Return the adapter folders from `location` down, and the folder or Hub id of the base model below them.

    Raises:
        ModelError: an adapter names no base model, or they name each other in a circle.
    """
    adapters: list[str] = []
    while (Path(location) / CONFIG).exists():
        folder = Path(location).resolve()
        if folder in (Path(adapter).resolve() for adapter in adapters):
            raise ModelError(
                f"The adapter in {location} is its own base model"
                f"{' by way of ' + ', '.join(adapters[1:]) if len(adapters) > 1 else ''}. Set "
                f"base_model_name_or_path in its {CONFIG} to the model that it was trained on."
            )
        if len(adapters) == MAX_ADAPTERS:
            raise ModelError(f"The adapter in {adapters[0]} lies on {MAX_ADAPTERS} others, and no more are read.")
        adapters.append(location)
        location = _base_in(read_object(folder / CONFIG), location)
    return adapters, location


def _base_in(config: dict[str, Any], location: str) -> str:
    base = config.get("base_model_name_or_path")
    if base is None or base == "":
        raise ModelError(
            f"The adapter in {location} does not name its base model. Set base_model_name_or_path in its {CONFIG}."
        )
    if not isinstance(base, str) or "\0" in base or len(base) > 4096:
        raise ModelError(
            f"The adapter in {location} does not name its base model: base_model_name_or_path is {str(base)[:80]!r}. "
            f"Set it in its {CONFIG}."
        )
    if config.get("megatron_config") is not None:
        raise ModelError(f"The adapter in {location} is for Megatron (megatron_config), which curate does not load.")
    return base


def load_adapter(model: nn.Module, folder: str, *, trainable: bool) -> nn.Module:
    """Return a model with the adapter in a folder.

    Raises:
        ModelError: the adapter has no safetensors weights, or does not fit the model.
    """
    from peft import PeftModel

    require_regular_files(folder)
    weights = Path(folder) / "adapter_model.safetensors"
    if not weights.exists() and (Path(folder) / "adapter_model.bin").exists():
        raise ModelError(
            f"The weights of the adapter in {folder} are a pickle (adapter_model.bin), which curate does not read: "
            "convert it to safetensors."
        )
    header_of(weights)
    remedy = f"Is its base model the one that it was trained on? {COMPLETE}"
    with loading("adapter", folder, remedy), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        adapted: nn.Module = PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    return adapted


def adapter_shapes(model: nn.Module) -> Shapes:
    """Return the shapes of the tensors that a file of the model's adapter holds, by their names in the file."""
    from peft import get_peft_model_state_dict

    return {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
