"""Model of the demo: a tiny Llama with its own tokenizer, pre-trained from scratch on the generator's plain text.

Fine-tuning then starts from a realistic model: it knows the words, some answers and some facts of the invented world,
but it was never trained on a chat. Nothing is downloaded, and on one machine the seed determines the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from ..log import bar
from ..store.artifacts.safe_files import make_folder
from .families import FAMILIES
from .world import statement

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
"""Special tokens: padding; start of a message; end of a message and of every pre-training text."""

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
    """Yield plain text without end: facts of the world, and problems of all families (equally often) with answers."""
    rng = Random(f"curate demo pre-training {seed}")
    draws = [draw for draw, _ in FAMILIES.values()]
    while True:
        if rng.random() < WORLD_SHARE:
            yield statement(rng)
            continue
        problem = rng.choice(draws)(rng)
        yield "\n".join(part for part in (*rng.choice(problem.phrasings), problem.answer) if part)


def train_tokenizer(seed: int, vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with single digits, which can encode any text.

    Its ChatML template marks the assistant's tokens (`generation` tags).
    """
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
    """Return a Llama with random weights (torch's seed), `heads // 2` key-value heads and an untied LM head."""
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
    """Return new text as token ids of shape (blocks, length). Each text ends with END and repeats only by chance."""
    import torch

    stream = texts(seed)
    ids: list[int] = []
    while len(ids) < blocks * length:
        batch = [next(stream) for _ in range(1000)]
        for row in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            ids += [*row, tokenizer.eos_token_id]
    return torch.tensor(ids[: blocks * length]).view(blocks, length)


def unigram_entropy(ids: torch.Tensor) -> float:
    """Return the entropy of the token frequencies in nats: the best loss of a model without context."""
    counts = ids.flatten().bincount().double()
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * shares.log()).sum())


def pretrain(model: LlamaForCausalLM, ids: torch.Tensor, *, batch_size: int, learning_rate: float) -> list[float]:
    """Train for one pass over `ids` (AdamW, warm-up, cosine); return the loss of each step in nats per token."""
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
            progress.set_postfix_str(f"loss {losses[-1]:.2f}", refresh=False)
            progress.update()
    return losses


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save model (as safetensors) and tokenizer as transformers does, without a progress bar for one small file."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        make_folder(folder)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
