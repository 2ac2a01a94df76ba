"""What a model answers: greedy decoding of the turn that comes next, many prompts at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from ...errors import ModelError
from ...log import LOGGER
from ..model.load import base_of

Ids = npt.NDArray[np.int32]

MARK = "ANSWER"
"""Stands for an answer where it is looked up what a template puts behind one."""


class Generator:
    """Answers prompts by greedy decoding, whatever the model's own generation settings are (temperature, penalties).

    Args:
        model: causal, in evaluation mode, on its device; its generation settings are replaced.
        tokenizer: with a chat template.
        max_new_tokens: an answer is cut there.
        batch_size: prompts at once; halved where memory runs out.
    """

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, max_new_tokens: int, batch_size: int
    ) -> None:
        self.model: Any = model
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.closing = closing_of(tokenizer)
        self.stops = _stops(model, tokenizer, self.closing)
        self.positions: int | None = getattr(_config(model), "max_position_embeddings", None)
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(self.stops) or None,
            pad_token_id=tokenizer.pad_token_id,
        )
        parts: tuple[Any, Any] = (model, base_of(model))
        for part in parts:  # an adapter's wrapper has settings of its own
            part.generation_config = settings

    def has_room(self, prompt: Ids) -> bool:
        """Whether the model has positions for the prompt and the longest answer."""
        return self.positions is None or len(prompt) + self.max_new_tokens <= self.positions

    def __call__(self, prompts: Sequence[Ids], *, advance: Callable[[int], object]) -> list[str]:
        """The answers, in the order of the prompts. Neighbours in length share a batch, padded on the left."""
        order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
        answers = [""] * len(prompts)
        at = 0
        while at < len(order):
            part = order[at : at + self.batch_size]
            said = self._if_it_fits([prompts[row] for row in part])
            if said is None:
                self._halve(len(part))
                continue
            for row, answer in zip(part, said, strict=True):
                answers[row] = answer
            at += len(part)
            advance(len(part))
        return answers

    def _halve(self, count: int) -> None:
        if count == 1:
            raise ModelError("Out of memory while answering a single prompt. Lower --max-new-tokens or --max-length.")
        self.batch_size = count // 2
        torch.cuda.empty_cache()
        LOGGER.warning(
            f"Out of memory while answering {count} prompts: from here on {self.batch_size} at once. "
            f"--generate-batch-size {self.batch_size} spares the attempt."
        )

    def _if_it_fits(self, prompts: Sequence[Ids]) -> list[str] | None:
        try:
            return self._answer(prompts)
        except torch.OutOfMemoryError:
            return None

    @torch.inference_mode()
    def _answer(self, prompts: Sequence[Ids]) -> list[str]:
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), self.tokenizer.pad_token_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
            mask[row, longest - len(prompt) :] = 1
        device = next(self.model.parameters()).device
        out = self.model.generate(input_ids=ids.to(device), attention_mask=mask.to(device))
        return [self._text(row) for row in out[:, longest:].tolist()]

    def _text(self, ids: list[int]) -> str:
        end = next((place for place, token in enumerate(ids) if token in self.stops), len(ids))
        text = str(self.tokenizer.decode(ids[:end], skip_special_tokens=True))
        return text.partition(self.closing)[0] if self.closing else text


def closing_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template puts behind an answer, without white space: `<|im_end|>`; "" where that is nothing."""
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": MARK}]
    whole = str(tokenizer.apply_chat_template(messages, tokenize=False))
    return whole.rpartition(MARK)[2].strip() if MARK in whole else ""


def _stops(model: nn.Module, tokenizer: PreTrainedTokenizerBase, closing: str) -> set[int]:
    """Tokens that end an answer: the model's, the tokenizer's, and what closes a turn where it is one token."""
    known = getattr(getattr(base_of(model), "generation_config", None), "eos_token_id", None)
    stops = set(known if isinstance(known, list) else [known]) | {tokenizer.eos_token_id}
    if closing:
        tokens = tokenizer(closing, add_special_tokens=False)["input_ids"]
        stops |= set(tokens) if len(tokens) == 1 else set()
    return stops - {None}


def _config(model: nn.Module) -> Any:
    return base_of(model).config.get_text_config()  # type: ignore[operator, union-attr]
