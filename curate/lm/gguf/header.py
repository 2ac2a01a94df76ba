"""Read and check the header of a GGUF file, before a library reads the file.

A header holds metadata (named values), and name, shape, type and position of each tensor. Numbers in it decide what is
allocated, and anybody may have written them. So each one is compared with the size of the file or a limit first.
Source: the specification of GGUF, versions 2 and 3 (ggml-org/ggml, docs/gguf.md).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from ...errors import ModelError

COMPLETE = "Check that the file is complete, or download it again."

MAGIC = b"GGUF"
VERSIONS = (2, 3)

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type of a value -> its code in `struct`."""
STRING, ARRAY = 8, 9

MOST_VALUES, MOST_TENSORS, MOST_DIMENSIONS = 1 << 16, 1 << 20, 8
LONGEST_TOKEN = 4096
"""Bytes of the longest token: libraries try each place at which a token can be cut in two."""
KEPT = 4096
"""Length up to which an array of numbers is kept."""
LARGEST_ALIGNMENT = 1 << 20

SIZES = {
    **dict.fromkeys(("block_count", "attention.head_count", "attention.head_count_kv", "expert_count"), 1 << 14),
    **dict.fromkeys(("expert_used_count",), 1 << 14),
    **dict.fromkeys(("embedding_length", "attention.key_length", "attention.value_length"), 1 << 20),
    **dict.fromkeys(("feed_forward_length", "expert_feed_forward_length"), 1 << 24),
    "vocab_size": 1 << 26,
    "context_length": 1 << 40,
}
"""Key of a size, after the name of the architecture -> its largest possible value."""


@dataclass(frozen=True)
class GgufHeader:
    """The header of a GGUF file, checked.

    Attributes:
        path: the file.
        metadata: values by name; of an array of texts, or a long one, the number of its elements.
        shapes: shape of each tensor by its name in GGUF, as torch orders dimensions.
    """

    path: Path
    metadata: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def architecture(self) -> str:
        """The name of the architecture in GGUF, such as `llama`."""
        return str(self.metadata["general.architecture"])

    @property
    def templates(self) -> tuple[str, ...]:
        """The texts of the chat templates."""
        return tuple(
            str(value)
            for name, value in self.metadata.items()
            if name == "tokenizer.chat_template" or name.startswith("tokenizer.chat_template.")
        )


def read_header(path: Path) -> GgufHeader:
    """Return the header of a GGUF file, after all checks. About 0.1 s for a vocabulary of 50,000 tokens.

    Raises:
        ModelError: the file is damaged, cut off, no GGUF file of a language model, or says what no model has.
    """
    about = path.stat()
    return _read(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: Path, size: int, changed: int) -> GgufHeader:
    with path.open("rb") as file:
        reader = _Reader(file, size)
        try:
            header = _parse(reader, path)
        except _Damaged as error:
            raise ModelError(f"The GGUF file {path} cannot be read: {error}. {COMPLETE}") from None
        except (struct.error, UnicodeDecodeError, OverflowError):
            raise ModelError(f"The header of the GGUF file {path} is damaged. {COMPLETE}") from None
    return header


class _Damaged(Exception):
    """The header says what cannot be; the text is the reason."""


class _Reader:
    """Reads values from a file of a known size, and never more than it has.

    Args:
        file: the file, at its start.
        size: number of its bytes.
    """

    def __init__(self, file: Any, size: int) -> None:
        self.file, self.size, self.at = file, size, 0

    def take(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise _Damaged(f"it is cut off: its header reaches beyond its {self.size:,} bytes")
        content: bytes = self.file.read(count)
        self.at += count
        return content

    def numbers(self, code: str, count: int = 1) -> tuple[Any, ...]:
        width = struct.calcsize(f"<{code}")
        if count > (self.size - self.at) // width:
            raise _Damaged(f"it is cut off: its header reaches beyond its {self.size:,} bytes")
        return struct.unpack(f"<{count}{code}", self.take(width * count))

    def text(self, most: int | None = None) -> bytes:
        (length,) = self.numbers("Q")
        if most is not None and length > most:
            raise _Damaged(f"a name or token in it has {length:,} bytes, and {most:,} are the most")
        return self.take(length)

    def value(self, kind: int, name: str) -> Any:
        if kind in NUMBERS:
            return self.numbers(NUMBERS[kind])[0]
        if kind == STRING:
            return self.text().decode()
        if kind != ARRAY:
            raise _Damaged(f"the value of '{name[:80]}' has the unknown type {kind}")
        inner, count = self.numbers("I")[0], self.numbers("Q")[0]
        if inner in NUMBERS:
            values = self.numbers(NUMBERS[inner], count)
            return list(values) if count <= KEPT else count
        if inner != STRING:
            raise _Damaged(f"the value of '{name[:80]}' is a list of the type {inner}, which no model needs")
        if count > (self.size - self.at) // 8:
            raise _Damaged(f"it is cut off: '{name[:80]}' should have {count:,} texts")
        for _ in range(count):
            self.text(LONGEST_TOKEN)
        return count


def _parse(reader: _Reader, path: Path) -> GgufHeader:
    if reader.size < 24 or reader.take(4) != MAGIC:
        raise _Damaged("it does not begin as a GGUF file does")
    (version,) = reader.numbers("I")
    if version not in VERSIONS:
        raise _Damaged(f"it says that it is of version {version}, and versions 2 and 3 are read (little-endian)")
    tensors, values = reader.numbers("Q", 2)
    if values > MOST_VALUES or tensors > MOST_TENSORS:
        raise _Damaged(f"it says that it has {values:,} values and {tensors:,} tensors")
    metadata: dict[str, Any] = {}
    for _ in range(values):
        name = reader.text(LONGEST_TOKEN).decode()
        (kind,) = reader.numbers("I")
        metadata[name] = reader.value(kind, name)
    _check_metadata(metadata, path)
    shapes, positions = _tensors(reader, tensors)
    _check_positions(reader, metadata, positions)
    return GgufHeader(path, metadata, shapes)


def _check_metadata(metadata: Mapping[str, Any], path: Path) -> None:
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise _Damaged("it does not name an architecture (general.architecture)")
    kind = metadata.get("general.type", "model")
    if kind == "mmproj" or architecture == "clip":
        raise ModelError(
            f"The GGUF file {path} is the projector of a model that sees or hears (mmproj), not a language model: give "
            "the file with the language model."
        )
    if kind != "model":
        raise ModelError(
            f"The GGUF file {path} holds no model: it says that it is of the type {str(kind)[:40]!r}. Give the file "
            "with the language model."
        )
    parts = metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise ModelError(
            f"The GGUF file {path} is one of {parts} parts of a model, and transformers reads whole files: join them "
            "with llama-gguf-split --merge, and give the result."
        )
    for name, largest in SIZES.items():
        value = metadata.get(f"{architecture}.{name}")
        for size in value if isinstance(value, list) else [value]:
            if size is not None and not (type(size) is int and 0 <= size <= largest):
                raise _Damaged(f"its {name} is {str(size)[:40]}, and a model has at most {largest:,}")


def _tensors(reader: _Reader, count: int) -> tuple[dict[str, tuple[int, ...]], list[tuple[int, int]]]:
    """Return the shapes of all tensors by name, and for each one where its bytes begin and end."""
    from gguf import GGML_QUANT_SIZES

    blocks = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    shapes: dict[str, tuple[int, ...]] = {}
    positions: list[tuple[int, int]] = []
    for _ in range(count):
        name = reader.text(LONGEST_TOKEN).decode()
        (dimensions,) = reader.numbers("I")
        if dimensions > MOST_DIMENSIONS:
            raise _Damaged(f"its tensor '{name[:80]}' has {dimensions:,} dimensions")
        shape = tuple(reversed(reader.numbers("Q", dimensions)))
        (kind,), (start,) = reader.numbers("I"), reader.numbers("Q")
        if kind not in blocks:
            raise _Damaged(f"its tensor '{name[:80]}' has the type {kind}, which the package gguf does not know")
        if name in shapes:
            raise _Damaged(f"it has two tensors '{name[:80]}'")
        in_block, width = blocks[kind]
        if shape and shape[-1] % in_block:
            raise _Damaged(f"a row of its tensor '{name[:80]}' has {shape[-1]:,} numbers, and blocks have {in_block}")
        shapes[name] = shape
        positions.append((start, start + prod(shape) // in_block * width))
    return shapes, positions


def _check_positions(reader: _Reader, metadata: Mapping[str, Any], positions: list[tuple[int, int]]) -> None:
    """Check that the tensors lie within the file, and none on another: their sizes then add up to no more than it."""
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise _Damaged(f"its alignment is {str(alignment)[:40]}")
    first = -(-reader.at // alignment) * alignment
    reached = 0
    for start, end in sorted(positions):
        if start < reached:
            raise _Damaged("two of its tensors lie on each other")
        reached = end
    if first + reached > reader.size and positions:
        raise _Damaged(f"it is cut off: it has {reader.size:,} bytes and should have {first + reached:,}")
