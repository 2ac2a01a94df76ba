"""Check the weights of a model folder before they are loaded, and loaded weights before they are used.

The header of a safetensors file gives the type, shape and place of each tensor. It is read without the tensors.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import ModelError
from .boundary import COMPLETE, read_object, reason_of

MAX_HEADER = 100_000_000
"""Maximum length of a header in bytes, as in the safetensors library."""

Shapes = dict[str, tuple[int, ...]]
"""Name of a tensor -> its shape."""


def weights_of(folder: Path, config: Mapping[str, Any]) -> Shapes:
    """Return the shapes of all tensors in the weight files of a model folder. Only headers are read.

    Args:
        folder: folder of the model.
        config: content of its config.json.

    Raises:
        ModelError: there are no safetensors weights, or a file is damaged.
    """
    shapes: Shapes = {}
    for name in _file_names(folder, config):
        shapes |= header_of(folder / name)
    return shapes


def _file_names(folder: Path, config: Mapping[str, Any]) -> list[str]:
    named = config.get("transformers_weights")
    if named is not None:
        return [_plain_name(named, folder / "config.json")]
    if (folder / "model.safetensors").exists():
        return ["model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        also = f" {pickles[0]} is a pickle, which curate does not read: convert it to safetensors." if pickles else ""
        raise ModelError(f"{folder} has no weights in safetensors files (model.safetensors).{also or ' ' + COMPLETE}")
    shards = read_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelError(f"{index} names no weight files (weight_map). {COMPLETE}")
    return list(dict.fromkeys(_plain_name(name, index) for name in shards.values()))


def _plain_name(name: Any, where: Path) -> str:
    """Return the name of a weight file, which must be a safetensors file in the folder itself."""
    if not isinstance(name, str) or not name.endswith(".safetensors") or Path(name).name != name or "\0" in name:
        raise ModelError(
            f"{where} names the weight file {str(name)[:100]!r}: only safetensors files in the same folder are read."
        )
    return name


def header_of(path: Path) -> Shapes:
    """Return the shapes of the tensors in a safetensors file, after comparing the header with the size of the file.

    Raises:
        ModelError: the file is missing, cut off, or not a safetensors file.
    """
    if not path.is_file():
        raise ModelError(f"The weight file {path} is missing. {COMPLETE}")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        (length,) = struct.unpack("<Q", start) if len(start) == 8 else (0,)
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise ModelError(
                f"{path} is cut off or not a safetensors file: its header should have {length:,} bytes, and the file "
                f"has {size:,}. {COMPLETE}"
            )
        content = file.read(length)
    try:
        header = json.loads(content)
        header.pop("__metadata__", None)
        shapes = {str(name): tuple(map(_count, entry["shape"])) for name, entry in header.items()}
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise ModelError(f"The header of {path} is damaged: {reason_of(error)}. {COMPLETE}") from None
    if 8 + length + end != size:
        problem = "is cut off" if 8 + length + end > size else "is damaged"
        raise ModelError(f"{path} {problem}: it has {size:,} bytes and should have {8 + length + end:,}. {COMPLETE}")
    return shapes


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} in a shape is not a count")
    return value


def compare_shapes(model: nn.Module, found: Shapes, location: str) -> None:
    """Check that a model without data has the shapes of the weights. Nothing is allocated.

    Names may differ: transformers renames and joins tensors of old files. So shapes are compared where the names agree,
    and the number of weights where they do not. Files may hold more than the model, as those of multimodal models do.

    Args:
        model: model on the meta device, built from the config.
        found: shapes of the tensors in the weight files.
        location: folder of the model.

    Raises:
        ModelError: a shape differs, or the config describes more than twice as many weights as there are.
    """
    for name, parameter in model.named_parameters():
        if name in found and found[name] != tuple(parameter.shape):
            raise ModelError(
                f"The config of {location} does not fit its weights: '{name}' is {_shape(parameter.shape)} by "
                f"the config and {_shape(found[name])} in the weights. {COMPLETE}"
            )
    described = sum(parameter.numel() for parameter in model.parameters())
    stored = sum(map(math.prod, found.values()))
    if described > 2 * stored:
        raise ModelError(
            f"The config of {location} does not fit its weights: it describes {described:,} weights, and the files "
            f"hold {stored:,}. {COMPLETE}"
        )


def _shape(shape: Any) -> str:
    return "×".join(map(str, shape)) or "a number"


def require_finite(model: nn.Module, location: str) -> None:
    """Check that all weights are finite. Reads every weight once, at the speed of the memory, without a copy.

    Raises:
        ModelError: a weight is NaN or infinite. The message names the first such tensor.
    """
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        if not values.numel() or not values.is_floating_point() or values.is_meta:
            continue
        values = values.float() if values.dtype.itemsize < 2 else values
        if not all(end.isfinite() for end in torch.aminmax(values)):
            bad = int(values.isfinite().logical_not().sum())
            raise ModelError(
                f"The model in {location} cannot be used: '{name}' has {bad:,} of {values.numel():,} weights that are "
                "NaN or infinite. Take a checkpoint from before its training diverged, or download it again."
            )
