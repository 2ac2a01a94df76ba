"""How many texts are measured at once: as many as a budget of tokens holds, and fewer once memory has run out."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..errors import TrainingError
from ..log import LOGGER


@dataclass
class ScoreBudget:
    """The size of a scoring micro-batch. Mutable: `tokens` is halved where memory runs out, and a resumed run goes on
    with the halved one, for other micro-batches round otherwise.

    Attributes:
        tokens: padded tokens of a micro-batch at most; a text that is longer goes alone.
        texts: texts of a micro-batch at most, or None.
        fixed: always that many texts, whatever their length. Where weights are sharded over processes (FSDP) all of
            them must call the model equally often, so that memory running out is an error there.
    """

    tokens: int = 4096
    texts: int | None = None
    fixed: bool = False
    _told: bool = field(default=False, compare=False, repr=False)

    def take(self, lengths: Tensor) -> int:
        """How many of the texts to measure next, at least one.

        Args:
            lengths: (n,) on the CPU, of the texts that are left, longest first.
        """
        count = max(1, self.tokens // max(1, int(lengths[0])))
        if self.texts is not None:
            count = self.texts if self.fixed else min(count, self.texts)
        return min(count, len(lengths))

    def halve(self, lengths: Tensor) -> None:
        """Memory did not hold the texts of these lengths: half as many tokens from here on, which is told once.

        `TrainingError` where it was a single text, or where the micro-batch is fixed.
        """
        longest = int(lengths[0])
        if self.fixed and len(lengths) > 1:
            raise TrainingError(
                f"Out of memory while scoring {len(lengths)} texts of up to {longest} tokens, and with sharded weights "
                "every process must score equally many at once. Lower --score-batch-size."
            )
        if len(lengths) == 1:
            raise TrainingError(
                f"Out of memory while scoring a single text of {longest} tokens. Lower --max-length, or make the model "
                "smaller with --dtype bfloat16 or --load-in-4bit."
            )
        self.tokens = longest * len(lengths) // 2
        if not self._told:
            self._told = True
            LOGGER.warning(
                f"Out of memory while scoring {len(lengths)} texts of up to {longest} tokens: from here on at most "
                f"{self.tokens} tokens at once. --score-batch-tokens {self.tokens} spares the attempt."
            )
