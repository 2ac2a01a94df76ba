"""The size of scoring micro-batches: as many texts as a budget of tokens allows, and fewer after memory has run out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import TrainingError
from ..log import LOGGER


@dataclass
class ScoreBudget:
    """The size of a scoring micro-batch.

    The object is mutable: `tokens` is halved when memory runs out. A resumed run continues with the halved value,
    because other micro-batches would give results that differ by rounding.

    Attributes:
        tokens: maximum number of padded tokens in a micro-batch; a text that is longer is measured alone.
        texts: maximum number of texts in a micro-batch, or None for no maximum.
        fixed: whether every micro-batch has exactly `texts` texts, regardless of their length. This is for weights that
            are sharded over processes (FSDP): all processes must call the model equally often, so running out of memory
            is an error there.
    """

    tokens: int = 4096
    texts: int | None = None
    fixed: bool = False
    _warned: bool = field(default=False, compare=False, repr=False)

    def take(self, lengths: Tensor) -> int:
        """Return the number of texts to measure next, at least one.

        Args:
            lengths: (n,) on the CPU, token counts of the texts that are left, in their order.
        """
        padded = lengths.cummax(0).values * torch.arange(1, len(lengths) + 1)  # tokens of the first 1, 2, ... texts
        count = max(1, int((padded <= self.tokens).sum()))
        if self.texts is not None:
            count = self.texts if self.fixed else min(count, self.texts)
        return min(count, len(lengths))

    def halve(self, lengths: Tensor) -> None:
        """Allow half as many tokens from now on, because texts of these lengths did not fit in memory; warn once.

        Args:
            lengths: (b,) token counts of the micro-batch that did not fit.

        Raises:
            TrainingError: the micro-batch was a single text, or its size is fixed.
        """
        longest = int(lengths.max())
        if self.fixed and len(lengths) > 1:
            raise TrainingError(
                f"Out of memory while scoring {len(lengths)} texts of up to {longest} tokens. With sharded weights "
                "every process must score equally many texts at once, so the number is not lowered automatically. "
                "Lower --score-batch-size."
            )
        if len(lengths) == 1:
            raise TrainingError(
                f"Out of memory while scoring a single text of {longest} tokens. Lower --max-length, or make the model "
                "smaller with --dtype bfloat16 or --load-in-4bit."
            )
        self.tokens = longest * len(lengths) // 2
        if not self._warned:
            self._warned = True
            LOGGER.warning(
                f"Out of memory while scoring {len(lengths)} texts of up to {longest} tokens: from now on at most "
                f"{self.tokens} tokens are scored at once. Give --score-batch-tokens {self.tokens} to start with that."
            )
