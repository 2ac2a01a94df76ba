"""Load a sentence encoder safely and encode texts with it: one of sentence-transformers, or a static one of model2vec.

Only safetensors are read, and only modules that sentence-transformers itself has: `modules.json` names classes, and a
class of another package would be code that a folder chooses. No code of the folder runs, and nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..version import pip_install
from .model.boundary import loading, read_list, read_object, require_regular_files
from .model.weight_files import header_of, weights_of

MODULES = {
    "Transformer": True,
    "StaticEmbedding": True,
    "Dense": True,
    "WeightedLayerPooling": True,
    "LayerNorm": True,
    "Pooling": False,
    "Normalize": False,
    "Dropout": False,
}
"""Class of a module of sentence-transformers that is loaded -> whether it has weights."""

TYPE = re.compile(r"sentence_transformers(?:\.\w+)*\.(\w+)")
"""A class of sentence-transformers in `modules.json`."""

KEYWORDS = ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")
"""Keys of a Transformer's config whose values become arguments of transformers."""


@dataclass(frozen=True)
class EncodedTexts:
    """Vectors of m texts.

    Attributes:
        vectors: (m, d) float32, as the encoder gives them; 0 for a text without a token that it knows.
        tokens: (m,) int64, tokens of each text that were read.
        truncated: (m,) bool, True if tokens were cut off.
    """

    vectors: npt.NDArray[np.float32]
    tokens: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]


class SentenceEncoder(Protocol):
    """An encoder that is loaded."""

    @property
    def dimension(self) -> int:
        """d, the numbers in a vector."""

    def __call__(self, texts: Sequence[str], batch_size: int) -> EncodedTexts:
        """Encode texts, `batch_size` at a time."""


def load_encoder(location: str, *, max_length: int, device: str = "cpu") -> SentenceEncoder:
    """Return the encoder in a folder, or of a Hub id that is in the cache of this machine.

    Args:
        location: folder or Hub id.
        max_length: maximum number of tokens of a text; an encoder with a lower limit keeps its own.
        device: device of a sentence-transformers encoder; a static one runs on the CPU.

    Raises:
        ModelError: the package of the encoder is not installed; there is no encoder; its weights are not in safetensors
            files; or it names code, files or modules that are not loaded.
    """
    folder = _folder_of(location)
    require_regular_files(str(folder))
    if is_static(folder):
        _require("model2vec", location)
        with loading("encoder", location):
            return _Static(folder, max_length)
    if not (folder / "modules.json").is_file():
        raise ModelError(
            f"{location} is no sentence encoder: it has no modules.json of sentence-transformers and no vectors of "
            "model2vec. A language model is given as --model."
        )
    _require("sentence_transformers", location)
    _check_modules(folder)
    with loading("encoder", location):
        return _SentenceTransformer(folder, max_length, device)


def is_static(folder: Path) -> bool:
    """Return whether a folder holds a model2vec model: it may be one of sentence-transformers, too."""
    files = [folder / name for name in ("config.json", "tokenizer.json", "model.safetensors")]
    return all(path.is_file() for path in files) and "embeddings" in header_of(files[-1])


def _folder_of(location: str) -> Path:
    if Path(location).is_dir():
        return Path(location)
    if Path(location).exists():
        raise ModelError(f"{location} is a file: an encoder is a folder.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(location, local_files_only=True))
    except Exception:  # the Hub's client raises errors of its own and of the system
        raise ModelError(
            f"The encoder '{location}' is not on this machine, and curate does not download one. Fetch it: "
            f"hf download {location}."
        ) from None


def _require(package: str, location: str) -> None:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise ModelError(f"The encoder {location} needs the package {name}: {pip_install('encoders')}.")


def _check_modules(folder: Path) -> None:
    """Raise `ModelError` if a folder of sentence-transformers has modules or weights that are not loaded."""
    modules = read_list(folder / "modules.json")
    for module in modules:
        kind, path = (module.get("type"), module.get("path")) if isinstance(module, dict) else (None, None)
        named = TYPE.fullmatch(str(kind))
        if named is None or named[1] not in MODULES:
            raise ModelError(
                f"{folder / 'modules.json'} names the module {str(kind)[:100]!r}: only {', '.join(MODULES)} of "
                "sentence-transformers are loaded, since another class may be code of a stranger."
            )
        if not isinstance(path, str) or not (folder / path).resolve().is_relative_to(folder.resolve()):
            raise ModelError(
                f"{folder / 'modules.json'} names the folder {str(path)[:100]!r}, which is outside its own."
            )
        inner = folder / path
        require_regular_files(str(inner))
        if named[1] == "Transformer":
            _check_transformer(inner)
        elif named[1] == "Dense":
            function = str(read_object(inner / "config.json").get("activation_function"))
            if not re.fullmatch(r"torch\.nn\.[\w.]+", function):
                raise ModelError(
                    f"{inner / 'config.json'} names the function {function[:100]!r}, which is not of torch.nn."
                )
        if MODULES[named[1]]:
            weights_of(inner, read_object(inner / "config.json") if named[1] == "Transformer" else {})


def _check_transformer(folder: Path) -> None:
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} has an adapter, whose base model lies elsewhere: merge it into its base model first."
        )
    settings = [read_object(path) for path in sorted(folder.glob("sentence_*_config.json"))]
    arguments = [given for each in settings for key in KEYWORDS if isinstance(given := each.get(key), dict)]
    values = [read_object(folder / "config.json"), *arguments]
    for key in ("attn_implementation", "_attn_implementation", "gguf_file", "adapter_kwargs"):
        if named := next((each[key] for each in values if "/" in str(each.get(key))), None):
            raise ModelError(
                f"{folder} names {str(named)[:100]!r} as {key}: only what comes with transformers is loaded."
            )


class _SentenceTransformer:
    """An encoder of sentence-transformers, in float32."""

    def __init__(self, folder: Path, max_length: int, device: str) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        arguments = {"use_safetensors": True, "dtype": torch.float32}
        model: Any = SentenceTransformer(
            str(folder), device=device, trust_remote_code=False, local_files_only=True, model_kwargs=arguments
        )
        self.model: Any = model.eval()
        self.prompt = str(model.prompts.get(model.default_prompt_name) or "") if model.default_prompt_name else ""
        self._static = hasattr(model.tokenizer, "no_truncation")  # a StaticEmbedding has a tokenizer of `tokenizers`
        if self._static:
            self._unlimited = _without_limit(model.tokenizer)
            model.tokenizer.enable_truncation(max_length)
            self.limit = max_length
        else:
            self.limit = min(max_length, model.max_seq_length or max_length)
            model.max_seq_length = self.limit
        self.dimension = int(model.get_embedding_dimension())

    def __call__(self, texts: Sequence[str], batch_size: int) -> EncodedTexts:
        counts = self._counts([self.prompt + text for text in texts])
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        known = np.flatnonzero(counts)  # a model cannot read no token at all
        if len(known):
            vectors[known] = self.model.encode(
                [texts[row] for row in known.tolist()],
                batch_size=batch_size,
                show_progress_bar=False,
                normalize_embeddings=False,
            )
        return EncodedTexts(vectors, counts.clip(max=self.limit), counts > self.limit)

    def _counts(self, texts: list[str]) -> npt.NDArray[np.int64]:
        """Return the number of tokens of each text before it is cut, (m,)."""
        if self._static:
            return _token_counts(self._unlimited, texts)
        encoded = self.model.tokenizer(texts, truncation=False, return_attention_mask=False, verbose=False)
        return np.array([len(ids) for ids in encoded["input_ids"]], np.int64)


class _Static:
    """A model2vec encoder: the mean of the vectors of a text's tokens."""

    def __init__(self, folder: Path, max_length: int) -> None:
        from model2vec import StaticModel

        self.model: Any = StaticModel.from_pretrained(folder, force_download=False)
        self.limit = max_length
        self.dimension = int(self.model.dim)
        self._unlimited = _without_limit(self.model.tokenizer)

    def __call__(self, texts: Sequence[str], batch_size: int) -> EncodedTexts:
        vectors = self.model.encode(
            list(texts), batch_size=batch_size, max_length=self.limit, use_multiprocessing=False
        )
        counts = self._counts(list(texts))
        read = self.limit * self.model.median_token_length  # model2vec cuts a text to so many characters first
        seen = np.minimum(self._counts([text[:read] for text in texts]), self.limit)
        return EncodedTexts(np.asarray(vectors, np.float32), seen, seen < counts)

    def _counts(self, texts: list[str]) -> npt.NDArray[np.int64]:
        return _token_counts(self._unlimited, texts, self.model.unk_token_id)


def _without_limit(tokenizer: Any) -> Any:
    """Return a copy of a tokenizer that neither cuts nor pads."""
    copy = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _token_counts(tokenizer: Any, texts: list[str], unknown: int | None = None) -> npt.NDArray[np.int64]:
    """Return the number of tokens of each text, (m,), without the unknown ones."""
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return np.array([sum(token != unknown for token in each.ids) for each in encoded], np.int64)
