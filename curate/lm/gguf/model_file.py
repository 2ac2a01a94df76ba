"""Find the GGUF file of a model, and let transformers read it: config, tokenizer, and weights in full precision.

transformers reads a GGUF file as a name within a folder, and would also read other files of that folder. So it is given
a new folder with a link to the file and nothing else: what the file holds is all that counts.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import ModelError
from ...version import pip_install
from .header import MAGIC, GgufHeader, read_header

OTHER_MODELS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "adapter_config.json")
"""Files of a folder that holds a model in another form."""

READABLE = "Give a GGUF file of a language model that transformers reads, or the model as a folder with safetensors."


def gguf_file(location: str) -> Path | None:
    """Return the GGUF file that a location is, or that a folder holds instead of other weights; None if there is none.

    Raises:
        ModelError: a folder holds several GGUF files.
    """
    path = Path(location)
    if path.is_file():
        return path if path.suffix.lower() == ".gguf" or _begins_as_gguf(path) else None
    if not path.is_dir() or any(found for pattern in OTHER_MODELS for found in path.glob(pattern)):
        return None
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".gguf" and file.is_file())
    if len(files) > 1:
        raise ModelError(
            f"The folder {location} holds {len(files)} GGUF files, so which one is the model is not known. Give one: "
            f"--model {files[0]}"
        )
    return files[0] if files else None


def _begins_as_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def header_of_model(path: Path) -> GgufHeader:
    """Return the header of a GGUF file.

    Raises:
        ModelError: the package gguf is missing, or the file cannot be used.
    """
    if find_spec("gguf") is None:
        raise ModelError(f"{path} is a GGUF file, and to read it the package gguf is needed: {pip_install('gguf')}.")
    return read_header(path)


@contextmanager
def alone(path: Path) -> Iterator[dict[str, Any]]:
    """Check a GGUF file, and yield the arguments with which `from_pretrained` reads it and no other file."""
    header_of_model(path)
    with tempfile.TemporaryDirectory(prefix="curate-gguf-") as folder:
        name = f"{Path(folder).name}.gguf"  # a name that the working folder does not have: it would be read instead
        os.symlink(os.path.abspath(path), Path(folder) / name)
        yield {"pretrained_model_name_or_path": folder, "gguf_file": name}


def config_of(path: Path) -> Any:
    """Return the config of the model in a GGUF file. Some seconds, once for each process; errors are transformers'."""
    header_of_model(path)
    about = path.stat()
    return deepcopy(_config(path, about.st_size, about.st_mtime_ns))


@lru_cache(maxsize=2)
def _config(path: Path, size: int, changed: int) -> Any:
    from transformers import AutoConfig

    with alone(path) as arguments:
        return AutoConfig.from_pretrained(**arguments)


def dequantized() -> dict[str, Any]:
    """Return the arguments that make `from_pretrained` unpack the weights of a GGUF file, so that they can be trained.

    A model whose weights are left packed can neither be trained nor saved.
    """
    from transformers import GgufConfig

    return {"quantization_config": GgufConfig(dequantize=True)}
