"""The interface of prescreens: predict the value of each candidate, and learn from those that were scored."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..selectors import Scores

PREDICTED = ("alignment", "utility")
"""Parts of a score that are predicted in place of it: unlike the score, which may be the order of the selector's picks,
they say something about the sample in later steps."""


@dataclass(frozen=True)
class Candidates:
    """Candidates, with what is known of them before a pass.

    Attributes:
        rows: (B,) int64, rows of the token table.
        tokens: (B,) int64, numbers of tokens.
        target_tokens: (B,) int64, numbers of tokens that the loss trains on.
    """

    rows: Tensor
    tokens: Tensor
    target_tokens: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, index: Tensor) -> Candidates:
        """Return only these candidates, in this order; `index` is (b,) int64, or (B,) bool."""
        return Candidates(self.rows[index], self.tokens[index], self.target_tokens[index])


class Prescreen(nn.Module):
    """Base class of prescreens.

    What a prescreen learns is in buffers of the module, so that checkpoints contain it. Only `learn` writes them.
    """

    def predict(self, candidates: Candidates) -> Tensor:
        """Return the predicted values, (B,) float64; NaN for a candidate about which nothing is known."""
        raise NotImplementedError("an abstract prescreen predicts nothing")

    def learn(self, candidates: Candidates, values: Tensor) -> None:
        """Learn from the scored candidates of a step.

        Args:
            candidates: b candidates.
            values: (b,) float64, their values; all are finite.
        """
        raise NotImplementedError("an abstract prescreen learns nothing")


def predicted_part(scores: Scores) -> Tensor:
    """Return the values that prescreens predict, (B,) float64: a part in `PREDICTED`, else the score."""
    part = next((scores.parts[name] for name in PREDICTED if name in scores.parts), scores.total)
    return part.detach().cpu().double()
