"""Load a model and its tokenizer safely: safetensors only, no remote code unless requested, nothing guessed.

A tokenizer without a chat template is an error, because a guess would change what a run trains on. Padding is never
trained on, so a tokenizer without a padding token pads with its end token. An adapter without a tokenizer has its
base model's.
A model is checked before it is loaded (config_checks.py, weight_files.py), and errors of the libraries become sentences
(boundary.py).
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ...errors import ModelError
from ...garbage import search_as_usual
from ...log import LOGGER
from ..gguf.model_file import READABLE, alone, dequantized, gguf_file
from ..templates.clock import freeze_date
from ..templates.named import template_text
from ..tokens.rendering import RENDERER, RenderError
from ..tokens.special_tokens import SpecialTokens
from .adapters import CONFIG, find_base, load_adapter, local_base, merge_adapter, sort_targets
from .boundary import COMPLETE, loading, reason_of, require_regular_files
from .config_checks import ModelOptions, check_folder, read_config
from .quantization import is_quantized, keep_differentiable, nf4_arguments
from .weight_files import require_finite

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"),
    *("sentencepiece.bpe.model", "tekken.json"),
)
"""Files of which a folder with a tokenizer has at least one."""


def load_tokenizer(options: ModelOptions) -> PreTrainedTokenizerBase:
    """Return the tokenizer with a chat template and a padding token, padding on the right.

    Raises:
        ModelError: there is no tokenizer or no chat template, or neither a padding token nor an end token.
    """
    options = replace(options, location=_with_tokenizer(options.location))
    require_regular_files(options.location)
    tokenizer: PreTrainedTokenizerBase = _load_tokenizer(options)
    if options.chat_template:
        tokenizer.chat_template = template_text(options.chat_template)
    if not tokenizer.chat_template:
        raise ModelError(
            f"The tokenizer of {options.location} has no chat template. Give --chat-template chatml, plain, thinking, "
            "or a Jinja file."
        )
    _check_templates(tokenizer, options.location)
    with loading("tokenizer", options.location):
        _try(tokenizer)
    freeze_date(tokenizer, options.date)
    if options.pad_token:
        if options.pad_token not in tokenizer.get_vocab():
            raise ModelError(f"--pad-token {options.pad_token!r} is not in the vocabulary of {options.location}.")
        tokenizer.pad_token = options.pad_token
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"The tokenizer of {options.location} has neither a padding token nor an end token. Give --pad-token "
                "TOKEN: any token of its vocabulary will do, because padding is not trained on."
            )
        tokenizer.pad_token = tokenizer.eos_token
        say_once(
            f"The tokenizer of {options.location} has no padding token: it pads with its end token "
            f"{tokenizer.eos_token!r}. --pad-token gives another."
        )
    elif tokenizer.eos_token_id is None:
        say_once(
            f"The tokenizer of {options.location} has no end token: an answer ends as the chat template ends it, and a "
            "plain text has no end."
        )
    tokenizer.padding_side = "right"
    # curate truncates texts itself and reports how many. The tokenizer's own warning would report only the first.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def _load_tokenizer(options: ModelOptions) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase
    if (file := gguf_file(options.location)) is None:
        tokenizer = _load(AutoTokenizer, options, "tokenizer")
        return tokenizer
    with loading("tokenizer", options.location, READABLE), alone(file) as arguments:
        tokenizer = AutoTokenizer.from_pretrained(**arguments)
    tokenizer.name_or_path = options.location
    tokenizer.init_kwargs |= {"name_or_path": options.location}
    tokenizer.init_kwargs.pop("vocab_file", None)  # a link that is gone
    return tokenizer


def _try(tokenizer: PreTrainedTokenizerBase) -> None:
    """Use the tokenizer as curate does, so that values of a wrong type in its files raise here and not at a sample."""
    special_tokens = SpecialTokens(tokenizer)
    special_tokens.added_around_text()
    tokenizer(
        " ".join(["a", *special_tokens.names]), add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast
    )
    tokenizer.get_vocab()


def _with_tokenizer(location: str) -> str:
    """Return the location of a tokenizer: of an adapter without one it is the base model's."""
    folder = Path(location)
    if not (folder / CONFIG).exists() or any((folder / name).exists() for name in TOKENIZER_FILES):
        return location
    _, base = find_base(location)
    say_once(f"The adapter in {location} has no tokenizer: it takes that of its base model, {base}.")
    return local_base(base, location)


@cache
def say_once(text: str) -> None:
    """Log a line once in a process: a command loads its tokenizer several times."""
    LOGGER.info(text)


def _check_templates(tokenizer: PreTrainedTokenizerBase, location: str) -> None:
    """Compile the chat templates, so that a wrong one is one error and not one for each sample."""
    template: Any = tokenizer.chat_template
    for source in template.values() if isinstance(template, dict) else [template]:
        try:
            RENDERER.check(str(source))
        except RenderError as error:
            raise ModelError(
                f"Cannot use the tokenizer of {location}: {error.reason}. Give --chat-template chatml, plain, "
                "thinking, or a Jinja file."
            ) from None


def load_model(options: ModelOptions, *, trainable: bool = False) -> nn.Module:
    """Return the causal language model, with its adapter if the folder contains one. It is not moved to a device.

    An adapter may lie on another one: those below it are merged into the weights first.

    Args:
        options: options for loading.
        trainable: keep an adapter's weights trainable; by default they are frozen.

    Raises:
        ModelError: the model cannot be loaded.
    """
    adapters, base = find_base(options.location)
    if adapters:
        say_once(f"The adapter in {options.location} lies on the base model {base}.")
    model = _load_base(replace(options, location=local_base(base, adapters[-1]) if adapters else base))
    for lower, adapter in zip([base, *reversed(adapters)], reversed(adapters), strict=False):
        if lower != base:
            model = merge_adapter(model, lower)
        model = load_adapter(model, adapter, base=lower, trainable=trainable and adapter == options.location)
    require_finite(model, options.location)
    search_as_usual()
    return model


def _load_base(options: ModelOptions) -> nn.Module:
    check_folder(options)
    extra: dict[str, Any] = {"attn_implementation": options.attn_implementation} if options.attn_implementation else {}
    if options.load_in_4bit:
        extra |= nf4_arguments()
    arguments = {"dtype": options.dtype, "use_safetensors": True, "output_loading_info": True, **extra}
    if (file := gguf_file(options.location)) is not None:
        model, info = _load_gguf(file, options, arguments)
    else:
        model, info = _load(AutoModelForCausalLM, options, "model", **arguments)
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"The weights of {options.location} are incomplete: {len(missing)} tensors are missing, such as "
            f"'{missing[0]}'. {COMPLETE}"
        )
    return keep_differentiable(model) if options.load_in_4bit else model


def _load_gguf(file: Path, options: ModelOptions, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the model in a GGUF file in full precision, and what was missing. It is named after the location."""
    if options.load_in_4bit:
        raise ModelError(
            f"{file} is a GGUF file, whose weights cannot be loaded in the 4 bits of --load-in-4bit: omit it, or give "
            "the model as a folder with safetensors."
        )
    config = read_config(options)
    shown = sys.stderr if sys.stderr.isatty() else io.StringIO()  # a progress bar that no option turns off
    with loading("model", options.location, READABLE), alone(file) as link, redirect_stderr(shown):
        loaded: Any = AutoModelForCausalLM.from_pretrained(**link, config=config, **arguments, **dequantized())
    model, info = loaded
    model.name_or_path = model.config._name_or_path = os.path.abspath(options.location)  # no name for PEFT to look up
    return model, info


def _load(loader: Any, options: ModelOptions, what: str, **kwargs: Any) -> Any:
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with loading(what, options.location):
        return loader.from_pretrained(options.location, trust_remote_code=options.trust_remote_code, **kwargs)


def base_of(model: nn.Module) -> nn.Module:
    """Return the transformers model below an adapter, or the model itself if it has none."""
    get_base = getattr(model, "get_base_model", None)
    return get_base() if callable(get_base) else model


def backbone_of(model: nn.Module) -> nn.Module:
    """Return the part of a transformers model below its head, which gives hidden states.

    Some classes (Llama 4) name a part that they do not have. It is then the only model within the model.

    Raises:
        ModelError: there is no such part, or more than one.
    """
    base = base_of(model)
    named: nn.Module = base.base_model  # type: ignore[assignment]
    if named is not base:
        return named
    parts = [child for child in base.children() if isinstance(child, PreTrainedModel)]
    if len(parts) != 1:
        raise ModelError(
            f"{type(base).__name__} has no separate part below its head, so curate cannot read its hidden states. Give "
            "a causal language model."
        )
    return parts[0]


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


MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
"""Models of which PEFT refuses to adapt `out_proj`: their fast path reads its weight and would pass by the adapter."""


@torch.no_grad()
def not_adaptable(model: nn.Module) -> list[str]:
    """Return the names of linear layers that do not map one row to one row, such as routers that give several tensors.

    They are classes of transformers' models with a `forward` of their own. PEFT would add the adapter's output to that
    of the layer. Each is called with one row of zeros. `out_proj` of `MAMBA` models counts too.
    """
    found = []
    mamba = getattr(base_of(model).config, "model_type", "") in MAMBA
    for name, module in model.named_modules():
        if mamba and name.endswith(".out_proj"):
            found.append(name)
        own = (
            type(module).__module__.startswith("transformers.models.") and type(module).forward is not nn.Linear.forward
        )
        if isinstance(module, nn.Linear) and own:
            row = torch.zeros(1, module.in_features, dtype=module.weight.dtype, device=module.weight.device)
            try:
                output = module(row)
            except (RuntimeError, ValueError, TypeError, IndexError):
                output = None
            if not isinstance(output, torch.Tensor) or output.shape != (1, module.out_features):
                found.append(name)
    return found


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
    excluded: list[str] = []
    if target_modules != "all-linear":
        targets = [name.strip() for name in target_modules.split(",")]
    elif excluded := not_adaptable(model):
        say_once(f"The adapter leaves out {len(excluded)} modules, which cannot have one, such as {excluded[0]}.")
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        exclude_modules=excluded or None,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(model, config)
    except (ValueError, NotImplementedError) as error:
        raise ModelError(f"--lora-target-modules {target_modules}: {reason_of(error)}.") from None
    sort_targets(config)
    return adapted


def load_to_train(options: ModelOptions, lora: Mapping[str, Any] | None) -> nn.Module:
    """Return the model with the weights that a run trains.

    A model with an adapter goes on with it, with its rank and modules: a second adapter on the same layers would take
    its place. With all weights trained it is merged into them first.

    Args:
        options: options for loading the model.
        lora: arguments of `add_lora` for a new adapter; None to train all weights.

    Raises:
        ModelError: the model cannot be loaded, or not be trained so.
    """
    model = load_model(options, trainable=lora is not None)
    adapted = hasattr(model, "peft_config")
    if lora is None:
        return train_all(merge_adapter(model, options.location) if adapted else model)
    if not adapted:
        return add_lora(model, **lora)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(f"The adapter in {options.location} has no weights to train.")
    say_once(
        f"The run continues the adapter in {options.location}: it keeps its own rank, scale, dropout and modules, and "
        "--lora-r, --lora-alpha, --lora-dropout and --lora-target-modules have no effect."
    )
    return model
