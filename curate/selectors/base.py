"""What every batch selector is: signals it wants, a score, and a memory. It gets numbers, never the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..signals import Signal


@dataclass(frozen=True)
class RunInfo:
    """What a selector may know of the run.

    Attributes:
        vocab_size: V of the model's head.
        max_length: T, the most tokens of a text.
        seed: of the run.
        keep: k, how many are kept of a step.
        total_steps: optimizer steps of the run; 0 when not known.
    """

    vocab_size: int
    max_length: int
    seed: int = 0
    keep: int = 1
    total_steps: int = 0


@dataclass(frozen=True)
class GradientNeeds:
    """What a selector wants of the candidates' gradients g_i and of a target batch's mean gradient g_T.

    The metric Q is elementwise: `plain` is 1, `adam` is P = 1 / (√v̄ + ε), Adam's preconditioner at the coming step up
    to a constant, and `adam2` is P².

    Attributes:
        metric: Q.
        target: values["alignment"] = ⟨g_i, Q∘g_T⟩ and scalars["target_square"] = ⟨g_T, Q∘g_T⟩.
        gram: pairs["gram"] = ⟨g_i, Q∘g_j⟩.
        norms: values["grad_norm"] = √⟨g_i, Q∘g_i⟩.
        warmup_steps: up to this step the metric is `plain`: Adam's v says little yet.
    """

    metric: Literal["plain", "adam", "adam2"] = "plain"
    target: bool = False
    gram: bool = False
    norms: bool = False
    warmup_steps: int = 0


@dataclass(frozen=True)
class Requirements:
    """Everything a selector needs of a run, known from its arguments alone.

    Attributes:
        signals: names of the signals that it measures each step; empty: no scoring pass.
        features: stored features that it needs of each candidate, by name.
        gradients: gradient products that it needs, or None.
    """

    signals: frozenset[str] = frozenset()
    features: tuple[str, ...] = ()
    gradients: GradientNeeds | None = None

    @property
    def target(self) -> bool:
        """True if it needs batches of a target."""
        return self.gradients is not None and self.gradients.target


@dataclass(frozen=True)
class CandidateBatch:
    """B candidates of one step and what is known of them.

    Attributes:
        step: the optimizer step, from 1.
        positions: (B,) int64, rows of the pool: unlike sample ids, they tell copies apart.
        tokens: (B,) int64.
        values: the signals asked for, (B,) or (B, d) each.
        reference: stored features asked for, (B,) each.
        pairs: (B, B) each: what gradient needs ask for.
        scalars: of the step: learning_rate, and what gradient needs ask for.
    """

    step: int
    positions: Tensor
    tokens: Tensor
    values: Mapping[str, Tensor] = field(default_factory=dict)
    reference: Mapping[str, Tensor] = field(default_factory=dict)
    pairs: Mapping[str, Tensor] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.positions)

    def rows(self, index: Tensor) -> CandidateBatch:
        """Only those candidates."""
        return CandidateBatch(
            self.step,
            self.positions[index],
            self.tokens[index],
            {name: value[index] for name, value in self.values.items()},
            {name: value[index] for name, value in self.reference.items()},
            {name: value[index][:, index] for name, value in self.pairs.items()},
            self.scalars,
        )


@dataclass(frozen=True)
class Scores:
    """What a selector says of B candidates.

    Attributes:
        total: (B,); the k highest are kept; NaN is never kept.
        parts: named terms, (B,) each: they become entries of the ledger's `parts`.
        weights: (B,) loss weights of the kept, for methods that reweight, or None.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Tensor | None = None


class Selector(nn.Module):
    """A batch selector: no parameters; its buffers are its memory, so torch saves, loads and moves it.

    Subclasses take keyword arguments only, `info` first, and set `signals` (what to measure each step; none: no
    scoring pass), `features` (what to join from the store) and `gradients` (what to measure in a backward pass).
    """

    signals: Mapping[str, Signal] = MappingProxyType({})
    features: Sequence[str] = ()
    gradients: GradientNeeds | None = None
    resident: Sequence[str] = ()
    """Signals that stay on the model's device: wide ones, for the memory. The rest comes as CPU tensors."""
    keeps_all: bool = False
    """Nothing is ever left out: the loop then leaves the batches as they came."""

    def __init__(self, *, info: RunInfo) -> None:
        super().__init__()
        self.info = info

    @classmethod
    def requirements(cls, **args: Any) -> Requirements:
        """Return what a selector with these arguments needs, without building it.

        The default reads the class attributes `signals`, `features` and `gradients`. A selector whose needs depend on
        its arguments overrides it.

        Args:
            args: keyword arguments of the constructor, without `info`.
        """
        return Requirements(frozenset(cls.signals), tuple(cls.features), cls.gradients)

    @classmethod
    def check(cls, **args: Any) -> None:
        """Raise `ValueError` for values of arguments that no run allows. Called before any model is loaded."""

    def score(self, batch: CandidateBatch) -> Scores:
        """Score the candidates; reads the state, never writes it."""
        raise NotImplementedError("an abstract selector scores nothing")

    def update(self, batch: CandidateBatch, kept: Tensor) -> None:
        """Take note of which candidates were kept: the only place that writes the state.

        Args:
            batch: the candidates scored.
            kept: (k,) int64, rows of the batch, ascending.
        """


def choose(total: Tensor, k: int) -> Tensor:
    """Rows of the k highest scores, ascending; ties go to the earlier row; NaN is never chosen: (B,) -> (≤ k,)."""
    ranked = torch.argsort(total.nan_to_num(nan=-torch.inf), descending=True, stable=True)
    ranked = ranked[total[ranked].isnan().logical_not()]
    return ranked[:k].sort().values
