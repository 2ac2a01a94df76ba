"""Prove at the start that a model gives the texts of one row the states and gradients that they have alone.

Families differ in ways that no list of names keeps up with, and some silently mix the texts of a row. So two short
texts with a common beginning go through the model alone and together, and a route is taken only if both agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import is_flash_attention_requested

from ...numerics.gradients import restored_gradients
from ...numerics.losses import IGNORE, next_token_labels
from ..packing.attention import RowAttention, RowError
from ..packing.packed import LEAST, LossPacking, Packed, Packer
from .load import backbone_of, base_of, say_once
from .scoring_model import ScoringModel

EXACT, ROUNDED = 1e-4, 2e-2
"""Largest relative difference if all weights are float32, and else. Where texts mix it is far larger."""

SHORT = 12
"""Tokens of the longer text of a proof, unless the model has a window that it must exceed."""

Texts = dict[str, Tensor]


def with_packing(scoring_model: ScoringModel, longest: int) -> ScoringModel:
    """Return the scoring model with the fastest proved way to score texts in one row; say so if there is none.

    Sharded and compiled models are not changed: in them each new shape of a row would cost too much.

    Args:
        scoring_model: the model.
        longest: number of tokens of the longest text. A window that it exceeds is part of the proof.
    """
    if scoring_model.sharded or is_compiled(scoring_model):
        return scoring_model
    texts = _texts(scoring_model, longest)
    found = next((p for p in _packers(scoring_model, LEAST) if _states_agree(scoring_model, p, texts)), None)
    if found is None:
        say_once(
            f"{type(base_of(scoring_model.model)).__name__} cannot keep the texts of one row apart: scoring computes "
            "padding, and a beginning that texts share for each of them."
        )
    return replace(scoring_model, packer=found, packs=False)


def packer_for_training(scoring_model: ScoringModel, packing: LossPacking, longest: int) -> Packer | None:
    """Return what packs batches of the training loss, or None if states or gradients differ from those of padded texts.

    Beginnings are shared on a CPU only, where sums have a fixed order, and only without dropout, which would draw once
    for all texts with the same beginning.

    Args:
        scoring_model: the model; `chunk_loss` has been called with `packing`.
        packing: packs the batches of the loss. Its packer is not changed.
        longest: number of tokens of the longest text.
    """
    if scoring_model.sharded or is_compiled(scoring_model):
        return None
    texts, before = _texts(scoring_model, longest), packing.packer
    on_cpu = scoring_model.head.weight.device.type == "cpu"
    for packer in _packers(scoring_model, LEAST if on_cpu and not _drops(scoring_model.model) else None):
        packing.packer = Packer(packer.attention, packer.least and 1)
        if _states_agree(scoring_model, packer, texts) and _gradients_agree(
            scoring_model, lambda: [texts], texts, packing.on
        ):
            packing.packer = before
            return packer
    packing.packer = before
    return None


def attention_of_rows(scoring_model: ScoringModel, longest: int) -> RowAttention | None:
    """Return the attention for rows of texts whose loss the model computes itself; None if its gradient differs.

    The model gets a row as it gets a batch of one text: by its own forward, with positions that begin again.

    Args:
        scoring_model: the model.
        longest: number of tokens of the longest text.
    """
    if scoring_model.sharded or is_compiled(scoring_model):
        return None
    texts, attention = _texts(scoring_model, longest), RowAttention(scoring_model.model)
    ids, mask = texts["input_ids"], texts["attention_mask"]
    packed = Packed.in_segments(ids, mask, ids.device, least=None)
    labels = texts["labels"].clone()
    labels[:, 0] = IGNORE
    row = {**packed.inputs, "labels": labels[mask.bool()][None], "use_cache": False}
    agree = _states_agree(scoring_model, Packer(attention, None), texts) and _gradients_agree(
        scoring_model, lambda: [row], texts, lambda: attention.over(packed.segments)
    )
    return attention if agree else None


def can_split(scoring_model: ScoringModel, longest: int) -> bool:
    """Return whether the gradients of texts in several batches add up to that of one padded batch.

    Args:
        scoring_model: the model.
        longest: number of tokens of the longest text.
    """
    if scoring_model.sharded:
        return False
    texts = _texts(scoring_model, longest)

    def alone() -> list[Texts]:
        lengths = texts["attention_mask"].sum(1).tolist()
        return [{name: value[i : i + 1, :n] for name, value in texts.items()} for i, n in enumerate(lengths)]

    return _gradients_agree(scoring_model, alone, texts, None)


def seems_to_pack(model: nn.Module) -> bool | None:
    """Return whether every layer of a model without data (on torch's meta device) attends by segments of a row.

    This is less than the proof, which compares numbers. None: the model needs data to be called.
    """
    base = base_of(model)
    config = base.config.get_text_config()  # type: ignore[union-attr, operator]
    ids = torch.arange(SHORT).repeat(2, 1) % config.vocab_size
    packed = Packed.in_segments(ids, torch.ones_like(ids), torch.device("meta"), least=1)
    try:
        with torch.no_grad(), RowAttention(model).over(packed.segments) as row:
            backbone_of(model)(**packed.inputs, use_cache=False)
    except (RowError, TypeError):
        return False
    except Exception:  # of any type: what a model does with its data
        return None
    return bool(row.layers == config.num_hidden_layers)


def is_compiled(scoring_model: ScoringModel) -> bool:
    """Return whether the backbone is compiled."""
    return getattr(scoring_model.backbone, "_compiled_call_impl", None) is not None


def _packers(scoring_model: ScoringModel, least: int | None) -> Iterator[Packer]:
    """Yield the routes of a row, the fastest first."""
    if is_flash_attention_requested(base_of(scoring_model.model).config.get_text_config()):  # type: ignore[union-attr, operator]
        yield Packer()
    yield Packer(RowAttention(scoring_model.model), least)


def _texts(scoring_model: ScoringModel, longest: int) -> Texts:
    """Return a padded batch of two texts that differ in their last tokens only, the first without its first targets."""
    config = base_of(scoring_model.model).config.get_text_config()  # type: ignore[union-attr, operator]
    count = _telling_length(config, longest)
    device = scoring_model.head.weight.device
    ids = (3 + 7 * torch.arange(count, device=device)).repeat(2, 1)
    ids[1, -4:] += 5
    ids = ids % config.vocab_size
    mask = torch.arange(count, device=device) < torch.tensor([[count], [count - 1]], device=device)
    labels = ids.where(mask, IGNORE)
    labels[0, : count // 2] = IGNORE
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def _telling_length(config: Any, longest: int) -> int:
    """Return a length at which windows that the longest text exceeds show, if the model has any."""
    values = config.to_dict().items()
    limits = [
        value for name, value in values if isinstance(value, int) and ("window" in name or "chunk" in name) and value
    ]
    return max(6, min(SHORT, longest), *(min(limit + SHORT, longest) for limit in limits if limit < longest))


def _limit(model: nn.Module) -> float:
    return EXACT if all(p.dtype == torch.float32 for p in model.parameters()) else ROUNDED


@torch.no_grad()
def _states_agree(scoring_model: ScoringModel, packer: Packer, texts: Texts) -> bool:
    """Return whether each text has the states in a row that it has alone."""
    plain = replace(scoring_model, autocast=None, packer=None, packs=False)
    ids, mask = texts["input_ids"], texts["attention_mask"]
    try:
        with scoring_model.eval_mode(refresh=False):
            together = replace(plain, packer=Packer(packer.attention, packer.least and 1)).hidden(ids, mask)
            alone = [
                plain.hidden(ids[i : i + 1, :n], mask[i : i + 1, :n])[0] for i, n in enumerate(mask.sum(1).tolist())
            ]
    except Exception:  # of any type: what a model does with an argument that it does not expect
        return False
    limit = _limit(scoring_model.model)
    off = [(found[: len(one)] - one).norm() <= limit * one.norm() for found, one in zip(together, alone, strict=True)]
    return all(map(bool, off))


def _gradients_agree(
    scoring_model: ScoringModel, parts: Callable[[], list[Texts]], whole: Texts, around: Callable[[], Any] | None
) -> bool:
    """Return whether the loss over parts has the gradient of the model's own loss over one padded batch.

    The second gradient is subtracted from the first one in location, so that only one is in memory.
    """
    model = scoring_model.model

    def backward(batch: Texts, factor: float) -> None:
        (factor * model(**batch).loss).backward()

    def square() -> float:
        return sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None)

    count = _targets(whole)
    try:
        with scoring_model.eval_mode(refresh=False), torch.enable_grad(), restored_gradients(model):
            backward(whole, 1.0)
            wanted = square()
            for part in parts():
                with around() if around else _nothing():
                    backward(part, -_targets(part) / count)
            return square() <= (5 * _limit(model)) ** 2 * wanted
    except Exception:
        return False


def _targets(batch: Texts) -> int:
    return int((next_token_labels(batch["labels"]) != IGNORE).sum())


def _drops(model: nn.Module) -> bool:
    """Return whether any part of the model drops values at random in training."""
    rates = (value for module in model.modules() for name, value in vars(module).items() if "drop" in name)
    modules = (module.p for module in model.modules() if isinstance(module, nn.Dropout))
    return any(isinstance(rate, (int, float)) and rate > 0 for rate in (*rates, *modules))


@contextmanager
def _nothing() -> Iterator[None]:
    yield
