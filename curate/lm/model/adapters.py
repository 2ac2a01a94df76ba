"""Find the base model of an adapter, and load the adapters on it: safetensors only, and no adapter is its own base.

The base is a name in a file that anybody may have written. So it is opened only if it is on this machine: a folder, a
GGUF file, or a model in the Hub cache. Nothing is downloaded for it, and it is read as any other model.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, cast

from torch import nn

from ...errors import ModelError
from .boundary import COMPLETE, loading, read_object, require_regular_files
from .quantization import is_quantized
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
        location = _found_from(location, _base_in(read_object(folder / CONFIG), location))
    return adapters, location


def _found_from(adapter: str, base: str) -> str:
    """Return a relative path of a base model from the folder of the adapter, if it is there and not here."""
    if not Path(base).exists() and (beside := Path(adapter) / base).exists():
        return os.path.abspath(beside)
    return base


def local_base(base: str, adapter: str) -> str:
    """Return the folder or file of the base model that an adapter names: for a Hub id, its folder in the Hub cache.

    Raises:
        ModelError: it is not on this machine.
    """
    from huggingface_hub import try_to_load_from_cache

    try:
        if Path(base).exists():
            return base
        cached = try_to_load_from_cache(base, "config.json")
    except (OSError, ValueError):  # neither a path nor an id
        cached = None
    if isinstance(cached, str):
        return str(Path(cached).parent)
    raise ModelError(
        f"The base model of the adapter in {adapter} is not on this machine: '{base[:200]}' is no folder and not in "
        "the Hub cache, and nothing is downloaded because an adapter asks for it. Download it (hf download ID), or set "
        f"base_model_name_or_path in its {CONFIG} to a folder."
    )


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


def load_adapter(model: nn.Module, folder: str, *, base: str, trainable: bool) -> nn.Module:
    """Return a model with the adapter in a folder.

    Args:
        model: the base model.
        folder: folder of the adapter.
        base: name of the base model; it is what the adapter names if it is saved again.
        trainable: train the adapter's weights on.

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
        adapted: Any = PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    config = adapted.peft_config["default"]
    if config.is_prompt_learning:
        raise ModelError(
            f"The adapter in {folder} puts learned tokens before the text ({config.peft_type.value}), which curate "
            "does not measure. Use an adapter that changes weights, such as LoRA."
        )
    config.base_model_name_or_path = os.path.abspath(base) if Path(base).exists() else base
    sort_targets(config)
    return cast(nn.Module, adapted)


def sort_targets(config: Any) -> None:
    """Sort the modules in an adapter's config: the order of a set differs from process to process, and is saved."""
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)


def merge_adapter(model: nn.Module, location: str) -> nn.Module:
    """Return the base model with its adapter added to its weights. The result is rounded to the type of the weights.

    Args:
        model: model with an adapter; it is used up.
        location: folder of the adapter, for messages.

    Raises:
        ModelError: the weights are in 4 bits, or the adapter cannot be added to them.
    """
    if is_quantized(model):
        raise ModelError(
            f"The adapter in {location} cannot be merged into weights of 4 bits without rounding them again: omit "
            "--load-in-4bit."
        )
    with loading("merged model", location, "Merge it with the library that made it, if that can do so."):
        merged: nn.Module = cast(Any, model).merge_and_unload(safe_merge=True)
    return merged.requires_grad_(False)


def adapt_without_data(model: nn.Module, folder: str) -> nn.Module:
    """Return a model on the meta device with an adapter as that in a folder, ready to be trained. Reads no weights.

    Raises:
        ModelError: the adapter's config cannot be used with the model.
    """
    from peft import PeftConfig, get_peft_model

    with loading("adapter", folder):
        config = PeftConfig.from_pretrained(folder)
        config.inference_mode = False
        if hasattr(config, "init_lora_weights"):
            config.init_lora_weights = True  # others compute something from the weights
        adapted: nn.Module = get_peft_model(model, config)
    return adapted


def adapter_shapes(model: nn.Module) -> Shapes:
    """Return the shapes of the tensors that a file of the model's adapter holds, by their names in the file."""
    from peft import get_peft_model_state_dict

    return {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
