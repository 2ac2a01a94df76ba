"""The demo's model: a tiny Llama with a tokenizer of its own, pre-trained from scratch on the generator's plain text.

Fine-tuning then starts from something real: a model that knows the words, some answers and some facts of the little
world, but has never seen a chat. Nothing is downloaded, and a seed fixes everything on one machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from ..log import bar
from .families import FAMILIES
from .world import statement

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
"""Padding; the start of a message; the end of a message and of every pre-training text."""

CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{% generation %}{{- (message['content'] or '') + '<|im_end|>' }}{% endgeneration %}
{%- else %}
{{- (message['content'] or '') + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
TOKENIZER_TEXTS = 6000
WORLD_SHARE = 0.3


def texts(seed: int) -> Iterator[str]:
    """Plain text without end: problems of all families in equal shares with their answers, and facts of the world."""
    rng = Random(f"curate demo pre-training {seed}")
    draws = [draw for draw, _ in FAMILIES.values()]
    while True:
        if rng.random() < WORLD_SHARE:
            yield statement(rng)
            continue
        problem = rng.choice(draws)(rng)
        yield "\n".join(part for part in (*rng.choice(problem.phrasings), problem.answer) if part)


def train_tokenizer(seed: int, vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, a ChatML template that marks what the assistant says, and no unknown text."""
    from itertools import islice

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words = islice(texts(seed), TOKENIZER_TEXTS)
    tokenizer.train_from_iterator([*words, "user assistant system"], trainer)
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, additional_special_tokens=[START]
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(
    tokenizer: PreTrainedTokenizerFast, *, hidden_size: int, layers: int, heads: int, positions: int
) -> LlamaForCausalLM:
    """A Llama with half as many key-value heads as heads and an untied head, at random weights (torch's seed)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 2),
            max_position_embeddings=positions,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def pack(tokenizer: PreTrainedTokenizerFast, *, seed: int, blocks: int, length: int) -> torch.Tensor:
    """Fresh text as (blocks, length) token ids, each text followed by the end token, none seen twice on purpose."""
    import torch

    stream = texts(seed)
    ids: list[int] = []
    while len(ids) < blocks * length:
        batch = [next(stream) for _ in range(1000)]
        for row in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            ids += [*row, tokenizer.eos_token_id]
    return torch.tensor(ids[: blocks * length]).view(blocks, length)


def unigram_entropy(ids: torch.Tensor) -> float:
    """Entropy of the token frequencies in nats: what a model without context could reach."""
    counts = ids.flatten().bincount().double()
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * shares.log()).sum())


def pretrain(model: LlamaForCausalLM, ids: torch.Tensor, *, batch_size: int, learning_rate: float) -> list[float]:
    """One pass over `ids` by AdamW under a warmed-up cosine; returns the loss of each step, in nats a token."""
    import torch

    steps = len(ids) // batch_size
    warmup = min(20, max(1, steps // 5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1)

    def factor(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / max(1, steps - warmup)))
        return min((step + 1) / warmup, 0.05 + 0.95 * cosine)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    losses: list[float] = []
    model.train()
    with bar(total=steps, label="Pre-training", unit="step") as progress:
        for batch in ids[: steps * batch_size].view(steps, batch_size, -1):
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            progress.set_postfix(loss=f"{losses[-1]:.2f}")
            progress.update()
    return losses


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write both as transformers does, in safetensors; one small file needs no progress bar."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
