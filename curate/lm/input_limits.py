"""Check that a model has an embedding for every token and every position of the texts that it will read.

A tokenizer may have more tokens than its model has rows, and a model with learned positions reads texts of a limited
length. Torch then raises an error of an index, and on a GPU it ends the process. So this is checked before the first
step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..errors import ModelError
from .model.load import base_of

POSITIONS = re.compile(r"wpe|pos")
"""Part of the name of a learned position embedding."""


@dataclass(frozen=True)
class InputLimits:
    """The tokens and the positions that a model has embeddings for.

    Attributes:
        rows: number of rows of the token embedding.
        positions: number of learned positions; None if positions are not learned.
        model: name of the model's class.
    """

    rows: int
    positions: int | None
    model: str

    @classmethod
    def of(cls, model: nn.Module) -> InputLimits:
        """Return the limits of a model, with or without an adapter. It may be on the meta device."""
        base: Any = base_of(model)
        embedding = base.get_input_embeddings()
        learned = [
            module.num_embeddings - int(getattr(module, "offset", 0))
            for name, module in base.named_modules()
            if isinstance(module, nn.Embedding)
            and module is not embedding
            and POSITIONS.search(name.rpartition(".")[2])
        ]
        return cls(int(embedding.weight.shape[0]), min(learned, default=None), type(base).__name__)

    def require(self, largest_token: int, longest: int, name: str) -> None:
        """Check the tokens and lengths of texts.

        Args:
            largest_token: the largest token id; -1 without any token.
            longest: number of tokens of the longest text.
            name: what holds the texts, as the start of a sentence: `The pool`.

        Raises:
            ModelError: a token has no row, or a text has more tokens than the model has positions.
        """
        if largest_token >= self.rows:
            raise ModelError(
                f"{name}: a text has the token id {largest_token:,}, and the embedding of {self.model} has "
                f"{self.rows:,} rows (ids 0 to {self.rows - 1:,}). Use the tokenizer that belongs to the model, or add "
                "rows with resize_token_embeddings and save the model."
            )
        if self.positions is not None and longest > self.positions:
            raise ModelError(
                f"{name}: a text has {longest:,} tokens, and {self.model} has {self.positions:,} learned positions. "
                f"Give --max-length {self.positions}."
            )

    def require_table(self, table: Any, name: str) -> None:
        """Check all texts of a token table, as `require`."""
        self.require(table.largest_token, int(np.max(table.lengths, initial=0)), name)

    def require_padding(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise `ModelError` if the padding token of a tokenizer has no row."""
        token = int(tokenizer.pad_token_id)
        if token >= self.rows:
            raise ModelError(
                f"The padding token {tokenizer.pad_token!r} has the id {token:,}, and the embedding of {self.model} "
                f"has {self.rows:,} rows (ids 0 to {self.rows - 1:,}). Give another --pad-token, such as "
                f"'{tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)}'."
            )


def tokens_outside(tokenizer: PreTrainedTokenizerBase, rows: int) -> dict[str, int]:
    """Return the tokens of a tokenizer that an embedding has no row for: token -> id."""
    return {token: number for token, number in sorted(tokenizer.get_vocab().items()) if number >= rows}
