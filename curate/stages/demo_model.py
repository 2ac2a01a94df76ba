"""`curate demo-model`: pre-train a tiny Llama from scratch, for the demo and for tests. Nothing is downloaded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from ..config import Config
from ..store import Draft
from .stage import Stage

if TYPE_CHECKING:
    from .inputs import Inputs

EXAMPLES = """
curate demo-model --name demo-model
curate demo-model --name demo-model --seed 2 --steps 600
curate demo-model --name smallest --steps 20 --hidden-size 32 --layers 2 --heads 2 --vocab-size 512
"""


class DemoModelConfig(Config):
    """Configuration of `curate demo-model`: size of the model and its pre-training."""

    seed: int = Field(1, description="Seed of the training text and of the initial weights.")
    steps: int = Field(320, ge=1, description="Number of optimizer steps of pre-training.")
    batch_size: int = Field(8, ge=1, description="Number of sequences per step.")
    sequence_length: int = Field(128, ge=8, description="Number of tokens of a packed sequence.")
    learning_rate: float = Field(3e-3, gt=0, description="Peak learning rate of AdamW.")
    vocab_size: int = Field(2048, ge=300, description="Maximum number of tokens in the vocabulary.")
    hidden_size: int = Field(128, ge=8, description="Hidden size of the model.")
    layers: int = Field(4, ge=1, description="Number of decoder layers.")
    heads: int = Field(4, ge=1, description="Number of attention heads; keys and values have half as many.")
    positions: int = Field(512, ge=8, description="Maximum number of tokens that the model can read.")

    @model_validator(mode="after")
    def _divides(self) -> DemoModelConfig:
        if self.hidden_size % (2 * self.heads) or (self.heads > 1 and self.heads % 2):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of twice the {self.heads} (even) heads"
            )
        return self


def run(config: DemoModelConfig, inputs: Inputs, draft: Draft) -> None:
    """Train the tokenizer and the model, and save both in the format of transformers, in the artifact's files."""
    import torch

    from ..demo.model import build_model, pack, pretrain, save, train_tokenizer, unigram_entropy

    started = time.monotonic()
    tokenizer = train_tokenizer(config.seed, config.vocab_size)
    ids = pack(tokenizer, seed=config.seed, blocks=config.steps * config.batch_size, length=config.sequence_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_model(
            tokenizer,
            hidden_size=config.hidden_size,
            layers=config.layers,
            heads=config.heads,
            positions=config.positions,
        )
        losses = pretrain(model, ids, batch_size=config.batch_size, learning_rate=config.learning_rate)
    save(model, tokenizer, draft.files)
    last = losses[-10:]
    draft.summary = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": len(tokenizer),
        "tokens_seen": ids.numel(),
        "first_loss": round(losses[0], 3),
        "last_loss": round(sum(last) / len(last), 3),
        "unigram_entropy": round(unigram_entropy(ids), 3),
        "seconds": round(time.monotonic() - started, 1),
    }


STAGE = Stage(DemoModelConfig, run, EXAMPLES)
