"""Load a model and its tokenizer as they are meant to be used: safetensors, no remote code, nothing guessed."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ...errors import ModelError
from .quantization import four_bits, is_quantized, keep_differentiable

TEMPLATES = ("chatml", "plain")
"""Chat templates that come with curate, for models that have none."""


@dataclass(frozen=True)
class ModelOptions:
    """How to load.

    Attributes:
        place: folder or Hub id; a folder with an adapter is loaded on its base model.
        dtype: of the weights: `auto` keeps the checkpoint's.
        attn_implementation: as in transformers, or None for its default.
        chat_template: `chatml`, `plain`, or a Jinja file; None: the tokenizer's own.
        pad_token: a token of the vocabulary to pad with; None: the tokenizer's own.
        trust_remote_code: run code that comes with the model.
        load_in_4bit: the base weights in 4 bits (`quantized.py`); head and adapters are not.
    """

    place: str
    dtype: str = "auto"
    attn_implementation: str | None = None
    chat_template: str | None = None
    pad_token: str | None = None
    trust_remote_code: bool = False
    load_in_4bit: bool = False


def load_tokenizer(options: ModelOptions) -> PreTrainedTokenizerBase:
    """The tokenizer, with a chat template and a padding token, padding on the right."""
    tokenizer: PreTrainedTokenizerBase = _load(AutoTokenizer, options, "tokenizer")
    if options.chat_template:
        tokenizer.chat_template = _template(options.chat_template)
    if not tokenizer.chat_template:
        raise ModelError(
            f"The tokenizer of {options.place} has no chat template. Give --chat-template chatml, plain, or a Jinja "
            "file."
        )
    if options.pad_token:
        if options.pad_token not in tokenizer.get_vocab():
            raise ModelError(f"--pad-token {options.pad_token!r} is not in the vocabulary of {options.place}.")
        tokenizer.pad_token = options.pad_token
    if tokenizer.pad_token_id is None:
        hint = f" --pad-token '{tokenizer.eos_token}' is usual." if tokenizer.eos_token else ""
        raise ModelError(f"The tokenizer of {options.place} has no padding token. Give --pad-token TOKEN.{hint}")
    tokenizer.padding_side = "right"
    # Texts are cut by curate, which says how many; the tokenizer's own warning would only name the first.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def _template(name: str) -> str:
    if name in TEMPLATES:
        return files("curate.lm").joinpath(f"templates/{name}.jinja").read_text(encoding="utf-8")
    path = Path(name)
    if not path.is_file():
        raise ModelError(f"There is no chat template '{name}': give {', '.join(TEMPLATES)} or a Jinja file.")
    return path.read_text(encoding="utf-8")


def load_model(options: ModelOptions, *, trainable: bool = False) -> nn.Module:
    """The causal language model, adapter included where the folder is one; not moved to a device.

    Args:
        options: how.
        trainable: leave an adapter's weights trainable; by default they are frozen.
    """
    if (Path(options.place) / "adapter_config.json").exists():
        from peft import PeftConfig, PeftModel

        base = PeftConfig.from_pretrained(options.place).base_model_name_or_path
        if base is None:
            raise ModelError(f"The adapter in {options.place} does not say which model it is for.")
        model: nn.Module = load_model(replace(options, place=base))
        return PeftModel.from_pretrained(model, options.place, is_trainable=trainable)
    extra: dict[str, Any] = {"attn_implementation": options.attn_implementation} if options.attn_implementation else {}
    if options.load_in_4bit:
        extra |= four_bits()
    model = _load(AutoModelForCausalLM, options, "model", dtype=options.dtype, use_safetensors=True, **extra)
    return keep_differentiable(model) if options.load_in_4bit else model


def _load(loader: Any, options: ModelOptions, what: str, **kwargs: Any) -> Any:
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return loader.from_pretrained(options.place, trust_remote_code=options.trust_remote_code, **kwargs)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"No {what} could be loaded from {options.place}: {reason}") from None


def base_of(model: nn.Module) -> nn.Module:
    """The transformers model under an adapter."""
    get_base = getattr(model, "get_base_model", None)
    return get_base() if callable(get_base) else model


def train_all(model: nn.Module) -> nn.Module:
    """Make every weight trainable, for fine-tuning without an adapter."""
    if is_quantized(model):
        raise ModelError(
            "--full trains the weights themselves, and in 4 bits they cannot be. Leave out --load-in-4bit, or leave "
            "out --full and train an adapter."
        )
    return model.requires_grad_(True)


def add_lora(model: nn.Module, *, r: int, alpha: int, dropout: float, target_modules: str) -> nn.Module:
    """A LoRA adapter on the named modules (`all-linear`, or names with commas between them); the rest is frozen."""
    from peft import LoraConfig, get_peft_model

    targets: str | list[str] = target_modules
    if target_modules != "all-linear":
        targets = [name.strip() for name in target_modules.split(",")]
    config = LoraConfig(
        r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, bias="none", task_type="CAUSAL_LM"
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(f"--lora-target-modules {target_modules}: {str(error).splitlines()[0]}") from None
