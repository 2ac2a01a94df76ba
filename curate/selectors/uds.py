"""UDS, Utility-Diversity Sampling: nuclear norm of a sample's logits plus distance to the samples trained on before.

Source: arXiv 2510.16882. The distance is that of the sample's sketch to a memory of sketches. UDS needs no reference
model, no validation set and no backward pass. This implementation does not form the logits either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..numerics.distances import pairwise_distances
from ..numerics.ranking import best
from ..numerics.srft import TwoSided
from ..signals import Sketch, Spectrum, Utility
from .base import CandidateBatch, Requirements, RunInfo, Scores, Selector
from .memory import Memory, Policy

Normalize = Literal["none", "sqrt_tokens", "tokens"]

CHOICES: Mapping[str, tuple[str, ...]] = {
    "alpha_units": ("paper", "isometric"),
    "memory_policy": get_args(Policy),
    "norm": ("nuclear", "frobenius"),
    "tokens": ("all", "completion"),
    "normalize": get_args(Normalize),
    "implementation": ("exact", "reference"),
    "spectrum": get_args(Spectrum),
}
"""Name of an argument -> its allowed values."""


class UDS(Selector):
    """Score = u_i + α·δ_i, utility plus weighted diversity.

    u_i = ‖Z_i‖_*,  δ_i = mean_m ‖S_i − S_m‖₂ over the memory (0 while it is empty),  S_i = S_L Z_i S_Rᵀ.

    Where we differ from the released code: padding does not enter the norm; Z is never formed; a selection is made per
    optimizer step instead of per micro-batch (`--scope micro:4` selects as the released code does); the memory is part
    of the checkpoint. Our sketches are isometric. The paper's are √(T·V)/2 times as long, so its α is multiplied by
    this factor here.

    Args:
        info: properties of the run.
        alpha: α, weight of the diversity. Published: 2.5e-3, and 1.5e-3 for MMLU with Qwen2.5-7B; tuned per model and
            data.
        alpha_units: `paper`: α as published. `isometric`: α multiplies distances in units of the logits.
        memory: M, number of rows of the memory, at least 1.
        memory_policy: `fifo` (published), `reservoir`, or `per_cluster`, which needs a clustering of the pool
            (`--clusters`).
        d1: number of rows of a sketch (token positions).
        d2: number of columns of a sketch (vocabulary).
        norm: `nuclear`, or `frobenius` as an ablation.
        tokens: `all` tokens without padding, or only those of the `completion`.
        normalize: divide the utility by `tokens` or `sqrt_tokens`, or not (`none`, as published). The utility grows
            with the length, so plain UDS prefers long texts. With `tokens: completion` the completion's tokens count.
        intra_batch: add the mean distance to the candidates of the same step (the paper's s_inter).
        greedy: pick one candidate after the other and count those already picked as memory. The score is then the
            pick order.
        implementation: `exact`, or `reference`, which forms full logits and uses singular values and FFTs.
        spectrum: algorithm for nuclear norms: `eigh`, `svdvals`, `newton`, `polar`, or `auto`, which chooses by device
            and size. All agree to 1e-5.
    """

    def __init__(
        self,
        *,
        info: RunInfo,
        alpha: float = 2.5e-3,
        alpha_units: Literal["paper", "isometric"] = "paper",
        memory: int = 1024,
        memory_policy: Policy = "fifo",
        d1: int = 8,
        d2: int = 128,
        norm: Literal["nuclear", "frobenius"] = "nuclear",
        tokens: Literal["all", "completion"] = "all",
        normalize: Normalize = "none",
        intra_batch: bool = False,
        greedy: bool = False,
        implementation: Literal["exact", "reference"] = "exact",
        spectrum: Spectrum = "auto",
    ) -> None:
        super().__init__(info=info)
        self.check(
            alpha_units=alpha_units,
            memory_policy=memory_policy,
            norm=norm,
            tokens=tokens,
            normalize=normalize,
            implementation=implementation,
            spectrum=spectrum,
        )
        self.normalize = normalize
        self.tokens = tokens
        self.intra_batch = intra_batch
        self.greedy = greedy
        self.srft = TwoSided.draw(d1=d1, d2=d2, max_length=info.max_length, vocab_size=info.vocab_size, seed=info.seed)
        self.alpha = alpha * (self.srft.paper_scale if alpha_units == "paper" else 1.0)
        self.memory = Memory(memory, self.srft.size, policy=memory_policy, seed=info.seed)
        self.resident = ("sketch",)
        self.features = ("cluster",) if memory_policy == "per_cluster" else ()
        self.signals = {
            "utility": Utility(norm=norm, tokens=tokens, implementation=implementation, spectrum=spectrum),
            "sketch": Sketch(self.srft, tokens=tokens, implementation=implementation),
        }

    @classmethod
    def check(cls, **args: Any) -> None:
        """Raise `ValueError` for a value that an argument does not allow."""
        for name in CHOICES.keys() & args.keys():
            if args[name] not in CHOICES[name]:
                raise ValueError(f"{name} must be one of {', '.join(CHOICES[name])}, not '{args[name]}'")

    @classmethod
    def requirements(cls, *, memory_policy: str = "fifo", **args: Any) -> Requirements:
        """Require the signals `utility` and `sketch`, and the feature `cluster` for a memory per cluster."""
        return Requirements(frozenset({"utility", "sketch"}), ("cluster",) if memory_policy == "per_cluster" else ())

    def score(self, batch: CandidateBatch) -> Scores:
        """Return u + α·δ as the score, with u and δ as parts."""
        utility = self._utility(batch)
        sketches = batch.values["sketch"]
        to_memory = self.memory.distances(sketches).sum(1).to(utility)
        between = pairwise_distances(sketches, sketches).to(utility) if self.intra_batch or self.greedy else None
        if self.greedy:
            assert between is not None
            return self._greedy(utility, to_memory, between, batch.chances(self.info.seed))
        diversity = to_memory / max(1, self.memory.filled)
        parts = {"utility": utility, "diversity": diversity}
        if between is not None:
            between = between.nan_to_num(nan=0.0)
            parts["intra_batch"] = between.mean(1)
            diversity = diversity + parts["intra_batch"]
        return Scores(utility + self.alpha * diversity, parts)

    def update(self, batch: CandidateBatch, kept: Tensor) -> None:
        """Add the sketches of the kept candidates to the memory."""
        clusters = batch.reference.get("cluster")
        self.memory.push(
            batch.values["sketch"][kept],
            batch.positions[kept],
            batch.step,
            None if clusters is None else clusters[kept],
        )

    def _utility(self, batch: CandidateBatch) -> Tensor:
        utility = batch.values["utility"].double()
        tokens = self._counted(batch).to(utility)
        if self.normalize == "tokens":
            return utility / tokens
        return utility / tokens.sqrt() if self.normalize == "sqrt_tokens" else utility

    def _counted(self, batch: CandidateBatch) -> Tensor:
        """Return the numbers of tokens whose logits the utility is computed from, (B,), at least 1."""
        if self.tokens == "all" or self.normalize == "none":
            return batch.tokens
        if batch.target_tokens is None:
            raise ValueError("tokens='completion' divides by the target tokens: give target_tokens to CandidateBatch")
        return batch.target_tokens.clamp_min(1)

    def _greedy(self, utility: Tensor, to_memory: Tensor, between: Tensor, chance: Tensor) -> Scores:
        """Pick by u + α·δ, with δ over the memory and all earlier picks; score = −(position in the pick order)."""
        count = self.memory.filled
        order = torch.full_like(utility, torch.nan)
        diversity = torch.zeros_like(utility)
        remaining = (utility + to_memory).isfinite()
        for rank in range(int(remaining.sum())):
            delta = to_memory / max(1, count)
            value = torch.where(remaining, utility + self.alpha * delta, -torch.inf)
            pick = best(value, chance)
            order[pick], diversity[pick] = -float(rank), delta[pick]
            remaining[pick] = False
            to_memory = to_memory + between[:, pick]
            count += 1
        return Scores(order, {"utility": utility, "diversity": diversity})
