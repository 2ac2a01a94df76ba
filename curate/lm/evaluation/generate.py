"""Generate the assistant's next turn by greedy decoding, for many prompts in a batch.

An answer ends at an end-of-text token, or where the chat template ends an assistant turn.
"""

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
from ..input_limits import InputLimits
from ..model.load import base_of
from ..tokens.chat import render_messages

Ids = npt.NDArray[np.int32]

ANSWER_PLACEHOLDER = "ANSWER"
"""Text that is rendered in place of an answer, to find what the chat template writes after one."""


class Generator:
    """Answer prompts by greedy decoding. The model's own generation settings (temperature, penalties) are ignored.

    Args:
        model: causal language model in evaluation mode, on its device. Its generation settings are replaced.
        tokenizer: the model's tokenizer, with a chat template.
        max_new_tokens: maximum length of an answer in tokens; a longer answer is cut.
        batch_size: number of prompts in a batch. It is halved when memory runs out.
    """

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, max_new_tokens: int, batch_size: int
    ) -> None:
        self.limits = InputLimits.of(model)
        self.limits.require_padding(tokenizer)
        self.model: Any = model
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.turn_end = turn_end_of(tokenizer)
        self.stop_tokens = _stop_tokens(model, tokenizer, self.turn_end)
        self.max_positions: int | None = getattr(_config(model), "max_position_embeddings", None)
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(self.stop_tokens) or None,
            pad_token_id=tokenizer.pad_token_id,
        )
        modules: tuple[Any, Any] = (model, base_of(model))
        for module in modules:  # the wrapper of an adapter has its own settings
            module.generation_config = settings

    def has_room(self, prompt: Ids) -> bool:
        """Return whether the prompt and the longest answer fit into the model's position embeddings."""
        return self.max_positions is None or len(prompt) + self.max_new_tokens <= self.max_positions

    def __call__(self, prompts: Sequence[Ids], *, advance: Callable[[int], object]) -> list[str]:
        """Return the answers in the order of the prompts.

        Prompts of similar length share a batch, which is padded on the left.

        Args:
            prompts: token ids of each prompt, (L,) int32.
            advance: called with the number of prompts that a finished batch has answered.

        Raises:
            ModelError: memory does not suffice for a single prompt.
        """
        self.limits.require(max((int(prompt.max(initial=-1)) for prompt in prompts), default=-1), 0, "The evaluation")
        order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
        answers = [""] * len(prompts)
        start = 0
        while start < len(order):
            batch = order[start : start + self.batch_size]
            texts = self._answer_or_none([prompts[row] for row in batch])
            if texts is None:
                self._halve_batch_size(len(batch))
                continue
            for row, text in zip(batch, texts, strict=True):
                answers[row] = text
            start += len(batch)
            advance(len(batch))
        return answers

    def _halve_batch_size(self, count: int) -> None:
        if count == 1:
            raise ModelError("Out of memory while answering a single prompt. Lower --max-new-tokens or --max-length.")
        self.batch_size = count // 2
        torch.cuda.empty_cache()
        LOGGER.warning(
            f"Out of memory while answering {count} prompts at once. Continuing with batches of {self.batch_size}. "
            f"Give --generate-batch-size {self.batch_size} to start with this size."
        )

    def _answer_or_none(self, prompts: Sequence[Ids]) -> list[str] | None:
        """Return the answers, or None when memory runs out."""
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
        end = next((index for index, token in enumerate(ids) if token in self.stop_tokens), len(ids))
        text = str(self.tokenizer.decode(ids[:end], skip_special_tokens=True))
        return text.partition(self.turn_end)[0] if self.turn_end else text


def turn_end_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that the chat template writes after an answer, without white space; "" if there is none.

    For ChatML this is `<|im_end|>`.
    """
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": ANSWER_PLACEHOLDER}]
    rendered = render_messages(tokenizer, messages)
    return rendered.rpartition(ANSWER_PLACEHOLDER)[2].strip() if ANSWER_PLACEHOLDER in rendered else ""


def _stop_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase, turn_end: str) -> set[int]:
    """Return the tokens that end an answer: the model's and the tokenizer's end-of-text tokens, and the end of a turn.

    The end of a turn counts only if it is a single token.
    """
    configured = getattr(getattr(base_of(model), "generation_config", None), "eos_token_id", None)
    stops = set(configured if isinstance(configured, list) else [configured]) | {tokenizer.eos_token_id}
    if turn_end:
        tokens = tokenizer(turn_end, add_special_tokens=False)["input_ids"]
        stops |= set(tokens) if len(tokens) == 1 else set()
    return stops - {None}


def _config(model: nn.Module) -> Any:
    return base_of(model).config.get_text_config()  # type: ignore[operator, union-attr]
