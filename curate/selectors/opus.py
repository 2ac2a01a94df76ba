"""OPUS: draw candidates whose optimizer steps lower a target's loss and differ from those that are drawn already.

Source: Wang et al., OPUS: Towards Efficient and Principled Data Selection in Large Language Model Pre-training in Every
Iteration, arXiv 2602.05400 (ICML 2026), and its code (MIT). The paper selects blocks for pre-training; the formula is
the same here.
"""

from __future__ import annotations

from typing import Any

import torch

from ..numerics.ranking import gumbel, pick_in_turn
from .base import CandidateBatch, GradientNeeds, Requirements, RunInfo, Scores, Selector


class OPUS(Selector):
    """Draw candidates one by one, i with a probability ∝ exp(U_i|S / τ), U_i|S = ⟨u_i, g_T⟩ − c·⟨u_i, Σ_{j∈S} u_j⟩.

    u_i = η Q g_i is the part of the next step that candidate i decides, with the optimizer's state as it is
    (`GradientNeeds`, metric `opus`), η the learning rate, g_T the mean gradient of a target batch, and S the candidates
    that are drawn already. The score is the position in this order, negated; the noise of the draws is hashed from
    (seed, step, position, number of the draw).

    Where we differ from the published code: U is divided by the standard deviation of ⟨u_i, g_T⟩ over the candidates of
    the step unless `standardize` is false. The code divides by τ alone; at learning rates of fine-tuning the U of all
    candidates then differ by far less than τ, and the draw is uniform. Embeddings, norms and other trained parameters
    count, not only linear layers. Texts are whole, not windows of 512 tokens. In Muon's first step S is the identity,
    and the rate counts.

    At η = 0, as in the first step of a warm-up, the limit of U / η for η → 0 is taken, and the part `zero_rate` is 1.
    Without `standardize` all candidates are then equal.

    Args:
        info: properties of the run.
        temperature: τ, 0 or more; 0 picks the highest U each time. Published: 0.9.
        redundancy: c, factor of the second term, 0 or more; published: 1.
        standardize: True to divide U by the standard deviation of its first term.
        sketch: length of a count sketch of all parameters' gradients (published: 8192 or 16384 for each layer); 0: the
            products are exact. With a sketch a full fine-tuning need not hold the gradients of all candidates.
    """

    def __init__(
        self,
        *,
        info: RunInfo,
        temperature: float = 0.9,
        redundancy: float = 1.0,
        standardize: bool = True,
        sketch: int = 0,
    ) -> None:
        super().__init__(info=info)
        self.check(temperature=temperature, redundancy=redundancy, sketch=sketch)
        self.temperature = temperature
        self.redundancy = redundancy
        self.standardize = standardize
        self.gradients = _needs(sketch)

    @classmethod
    def check(cls, *, temperature: float = 0.9, redundancy: float = 1.0, sketch: int = 0, **args: Any) -> None:
        """Raise `ValueError` for a number out of its range."""
        for name, value in (("temperature", temperature), ("redundancy", redundancy), ("sketch", sketch)):
            if value < 0:
                raise ValueError(f"{name} must be 0 or more, not {value}")
        if sketch != int(sketch):
            raise ValueError(f"sketch must be a whole number, not {sketch}")

    @classmethod
    def requirements(cls, *, sketch: int = 0, **args: Any) -> Requirements:
        """Require the Gram matrix of the gradients and their alignment with a target, in the metric of OPUS."""
        return Requirements(gradients=_needs(sketch))

    def score(self, batch: CandidateBatch) -> Scores:
        """Score by the order of the draws. Parts: ⟨u_i, g_T⟩ / η, U_i|S / η when i was drawn, and zero_rate."""
        rate = batch.scalars["learning_rate"]
        alignment, gram = batch.values["alignment"].double(), batch.pairs["gram"].double()
        chance, positions = batch.chances(self.info.seed), batch.positions.tolist()
        usable = alignment.isfinite() & gram.diagonal().isfinite()
        unit = self._unit(alignment[usable], rate)

        def drawn(value: torch.Tensor, number: int) -> torch.Tensor:
            if not self.temperature:
                return value / unit
            key = f"opus:{self.info.seed}:{batch.step}:{number}"
            noise = [gumbel(f"{key}:{position}") for position in positions]
            return value / unit / self.temperature + torch.tensor(noise, dtype=torch.float64)

        order, utility = pick_in_turn(alignment, self.redundancy * rate * gram, usable, chance, drawn)
        zero_rate = torch.full_like(alignment, float(not rate))
        return Scores(-order, {"alignment": alignment, "utility": utility, "zero_rate": zero_rate})

    def _unit(self, alignment: torch.Tensor, rate: float) -> float:
        """Return the number by which U / η is divided before it is divided by τ."""
        if self.standardize:
            return float(alignment.std(correction=0)) if len(alignment) > 1 and alignment.std(correction=0) > 0 else 1.0
        return 1 / rate if rate else float("inf")


def _needs(sketch: int) -> GradientNeeds:
    return GradientNeeds("opus", target=True, gram=True, gram_metric="opus2", sketch=int(sketch))
