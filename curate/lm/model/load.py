"""Load a model and its tokenizer as they are meant to be used: safetensors, no remote code, nothing guessed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ...errors import ModelError
from ...numerics.head import Head
from .packing import Packed, can_pack
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
        return files(__package__).joinpath(f"templates/{name}.jinja").read_text(encoding="utf-8")
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


@dataclass(frozen=True)
class Eyes:
    """A model as the signals see it: hidden states, and what turns them into logits.

    Attributes:
        model: the whole model, adapters included.
        backbone: it without its head.
        projection: the head as a module.
        head: the head's factors.
        autocast: lower precision to compute hidden states in, or None.
        packs: leave padding out of scoring passes (`packing.py`).
    """

    model: nn.Module
    backbone: nn.Module
    projection: nn.Module
    head: Head
    autocast: torch.dtype | None = None
    packs: bool = False

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states, (b, L, d): what the head is given.

        Where gradients are taken the model sees what training sees. Otherwise it sees no mask: padding is on the right
        and attention is causal, so no real token looks at it (`prove` makes sure), and attention without a mask is
        faster and waits for nothing. What stands at padded positions means nothing either way.

        Args:
            input_ids: (b, L), on the model's device.
            attention_mask: (b, L), there or on the CPU.
        """
        with torch.autocast(input_ids.device.type, self.autocast, enabled=self.autocast is not None):
            if torch.is_grad_enabled():
                return self._states(input_ids=input_ids, attention_mask=attention_mask.to(input_ids.device))
            if self.packs and not attention_mask.all():
                packed = Packed.of(input_ids, attention_mask)
                return packed.unpack(self._states(**packed.inputs))
            return self._states(input_ids=input_ids)

    def _states(self, **inputs: Any) -> Tensor:
        """The one call of the backbone. Layers that are gathered in inference mode could never be trained through."""
        inference, gradients = torch.is_inference_mode_enabled() and not self.sharded, torch.is_grad_enabled()
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):  # leaving the one turns on the other
            states: Tensor = self.backbone(**inputs, use_cache=False).last_hidden_state
        return states

    @property
    def sharded(self) -> bool:
        """Its layers are shared out over processes, all of which must call it equally often (`sharded.py`)."""
        return isinstance(self.backbone, FSDPModule)

    def project(self, rows: Tensor) -> Tensor:
        """Logits of hidden states through the head as it is, adapters and gradients included: (n, d) -> (n, V)."""
        z = self.projection(rows.to(self.head.weight.dtype)).float()
        if self.head.scale != 1.0:
            z = z * self.head.scale
        return z if self.head.softcap is None else self.head.softcap * torch.tanh(z / self.head.softcap)

    @contextmanager
    def open(self, *, refresh: bool = True) -> Iterator[None]:
        """Evaluation mode, and back to what each module was in.

        Args:
            refresh: look afresh at a head that trains; its factors cost V·d² (a frozen one's are made once).
        """
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        if refresh and not self.head.frozen:
            self.head.refresh(_weight_of(self.projection))
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training


def base_of(model: nn.Module) -> nn.Module:
    """The transformers model under an adapter."""
    get_base = getattr(model, "get_base_model", None)
    return get_base() if callable(get_base) else model


@torch.no_grad()
def look_into(model: nn.Module, *, autocast: torch.dtype | None = None) -> Eyes:
    """Factor a model's head.

    Known: a bias, a logit scale (`logit_scale`, `output_multiplier`, `lm_head_multiplier`; `logits_scaling` divides,
    and multiplies in hyperclovax), a final soft-cap. `prove` tells whether that is all the model does.
    """
    base = base_of(model)
    projection = base.get_output_embeddings()  # type: ignore[operator]
    if projection is None or not hasattr(projection, "weight"):
        raise ModelError(f"{type(base).__name__} has no language-model head that curate can factor.")
    config = base.config.get_text_config()  # type: ignore[union-attr, operator]
    head = Head(
        _weight_of(projection),
        getattr(projection, "bias", None),
        scale=_scale_of(config),
        softcap=getattr(config, "final_logit_softcapping", None),
        frozen=not any(p.requires_grad for p in projection.parameters()),
    )
    return Eyes(model, base.base_model, projection, head, autocast, can_pack(config))  # type: ignore[arg-type]


def _weight_of(projection: Any) -> Tensor:
    """The head's matrix as it is now, with any adapter's part added."""
    if hasattr(projection, "modules_to_save"):
        projection = projection.modules_to_save[projection.active_adapters[0]]
    if not getattr(projection, "base_layer", projection).weight.is_floating_point():
        raise ModelError("The language-model head is quantised, and signals need its matrix. Load one whose is not.")
    if not hasattr(projection, "base_layer"):
        weight: Tensor = projection.weight
        return weight
    if not hasattr(projection, "get_delta_weight"):
        raise ModelError(
            f"The adapter on the language-model head ({type(projection).__name__}) cannot be factored. Leave the head "
            "out of --lora-target-modules."
        )
    base: Tensor = projection.base_layer.weight.detach()
    for adapter in projection.active_adapters:
        base = base + projection.get_delta_weight(adapter).to(base.dtype)
    return base


def _scale_of(config: Any) -> float:
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling) if config.model_type == "hyperclovax" else 1.0 / float(scaling)


@torch.no_grad()
def prove(eyes: Eyes) -> Eyes:
    """Check on two short texts that hidden states and the head's factors give the model's own logits, whether or not
    the shorter one's padding is masked; `ModelError` where they do not.
    """
    config = base_of(eyes.model).config.get_text_config()  # type: ignore[operator, union-attr]
    device = eyes.head.weight.device
    ids = torch.arange(16, device=device).view(2, 8) % config.vocab_size
    mask = torch.arange(8, device=device) < torch.tensor([[8], [5]], device=device)
    with eyes.open():
        ours = eyes.head.logits(replace(eyes, autocast=None).hidden(ids, mask))[mask]
        theirs = eyes.model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[mask].float()
    exact = all(p.dtype == torch.float32 for p in eyes.model.parameters())
    same = ours.shape == theirs.shape and (ours - theirs).norm() <= (1e-4 if exact else 2e-2) * theirs.norm()
    if theirs.isfinite().all() and not same:
        raise ModelError(
            f"{type(base_of(eyes.model)).__name__} does something that curate does not know, so its logits cannot be "
            "had from hidden states. Selectors that need none work: --selector random or full."
        )
    return eyes


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
