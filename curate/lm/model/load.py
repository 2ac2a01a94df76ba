"""Load a model and its tokenizer safely: safetensors only, no remote code unless requested, nothing guessed.

A tokenizer without a chat template or padding token is an error, because a guess would change what a run trains on.
A model is checked before it is loaded (config_checks.py, weight_files.py), and errors of the libraries become sentences
(boundary.py).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ...errors import ModelError
from ..tokens.clock import freeze_date
from ..tokens.rendering import RENDERER, RenderError
from ..tokens.templates import template_text
from .adapters import find_base, load_adapter
from .boundary import COMPLETE, loading, require_regular_files
from .config_checks import ModelOptions, check_folder
from .quantization import is_quantized, keep_differentiable, nf4_arguments
from .weight_files import require_finite


def load_tokenizer(options: ModelOptions) -> PreTrainedTokenizerBase:
    """Return the tokenizer with a chat template and a padding token, padding on the right.

    Raises:
        ModelError: there is no tokenizer, no chat template or no padding token.
    """
    require_regular_files(options.location)
    tokenizer: PreTrainedTokenizerBase = _load(AutoTokenizer, options, "tokenizer")
    if options.chat_template:
        tokenizer.chat_template = template_text(options.chat_template)
    if not tokenizer.chat_template:
        raise ModelError(
            f"The tokenizer of {options.location} has no chat template. Give --chat-template chatml, plain, or a "
            "Jinja file."
        )
    _check_templates(tokenizer, options.location)
    freeze_date(tokenizer, options.date)
    if options.pad_token:
        if options.pad_token not in tokenizer.get_vocab():
            raise ModelError(f"--pad-token {options.pad_token!r} is not in the vocabulary of {options.location}.")
        tokenizer.pad_token = options.pad_token
    if tokenizer.pad_token_id is None:
        hint = f" --pad-token '{tokenizer.eos_token}' is a common choice." if tokenizer.eos_token else ""
        raise ModelError(f"The tokenizer of {options.location} has no padding token. Give --pad-token TOKEN.{hint}")
    tokenizer.padding_side = "right"
    # curate truncates texts itself and reports how many. The tokenizer's own warning would report only the first.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def _check_templates(tokenizer: PreTrainedTokenizerBase, location: str) -> None:
    """Compile the chat templates, so that a wrong one is one error and not one for each sample."""
    template: Any = tokenizer.chat_template
    for source in template.values() if isinstance(template, dict) else [template]:
        try:
            RENDERER.check(str(source))
        except RenderError as error:
            raise ModelError(
                f"Cannot use the tokenizer of {location}: {error.reason}. Give --chat-template chatml, plain, or "
                "a Jinja file."
            ) from None


def load_model(options: ModelOptions, *, trainable: bool = False) -> nn.Module:
    """Return the causal language model, with its adapter if the folder contains one. It is not moved to a device.

    Args:
        options: options for loading.
        trainable: keep an adapter's weights trainable; by default they are frozen.

    Raises:
        ModelError: the model cannot be loaded.
    """
    adapters, base = find_base(options.location)
    model = _load_base(replace(options, location=base))
    for adapter in reversed(adapters):
        model = load_adapter(model, adapter, trainable=trainable and adapter == options.location)
    require_finite(model, options.location)
    return model


def _load_base(options: ModelOptions) -> nn.Module:
    check_folder(options)
    extra: dict[str, Any] = {"attn_implementation": options.attn_implementation} if options.attn_implementation else {}
    if options.load_in_4bit:
        extra |= nf4_arguments()
    arguments = {"dtype": options.dtype, "use_safetensors": True, "output_loading_info": True, **extra}
    model, info = _load(AutoModelForCausalLM, options, "model", **arguments)
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"The weights of {options.location} are incomplete: {len(missing)} tensors are missing, such as "
            f"'{missing[0]}'. {COMPLETE}"
        )
    return keep_differentiable(model) if options.load_in_4bit else model


def _load(loader: Any, options: ModelOptions, what: str, **kwargs: Any) -> Any:
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with loading(what, options.location):
        return loader.from_pretrained(options.location, trust_remote_code=options.trust_remote_code, **kwargs)


def base_of(model: nn.Module) -> nn.Module:
    """Return the transformers model below an adapter, or the model itself if it has none."""
    get_base = getattr(model, "get_base_model", None)
    return get_base() if callable(get_base) else model


def require_embeddings(model: nn.Module, largest_token: int) -> None:
    """Check that the model has an embedding for every token. On a GPU, a token without one ends the process.

    Args:
        model: the model, with or without an adapter.
        largest_token: largest token id that the model will read.

    Raises:
        ModelError: the model has fewer embeddings. Tokenizer and model are not of each other.
    """
    embeddings: Any = base_of(model).get_input_embeddings()  # type: ignore[operator]
    count = int(embeddings.weight.shape[0])
    if largest_token >= count:
        raise ModelError(
            f"The tokenizer gives the token {largest_token}, and {type(base_of(model)).__name__} has embeddings for "
            f"the tokens below {count} only. Use the tokenizer that belongs to the model, or another --pad-token."
        )


def train_all(model: nn.Module) -> nn.Module:
    """Make every weight trainable, for fine-tuning without an adapter.

    Raises:
        ModelError: the weights are quantised.
    """
    if is_quantized(model):
        raise ModelError(
            "--full trains the model's own weights, and weights in 4 bits cannot be trained. Omit --load-in-4bit, or "
            "omit --full to train an adapter."
        )
    return model.requires_grad_(True)


def add_lora(model: nn.Module, *, r: int, alpha: int, dropout: float, target_modules: str) -> nn.Module:
    """Add a LoRA adapter to the named modules and freeze all other weights.

    Args:
        model: the base model.
        r: rank of the adapter's matrices.
        alpha: scale of the adapter's output, which is multiplied by alpha / r.
        dropout: dropout probability of the adapter's input.
        target_modules: `all-linear`, or module names separated by commas.

    Raises:
        ModelError: the model has no such modules.
    """
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
