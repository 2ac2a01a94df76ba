"""The interface of batch selectors: the data that a selector needs, its score, and its memory.

A selector receives numbers (`CandidateBatch`) and returns numbers (`Scores`). It never sees the model, the optimizer or
the training loop, so the same class works in `curate train` and in loops of users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..numerics.ranking import chances
from ..signals import Signal


@dataclass(frozen=True)
class RunInfo:
    """Properties of a run that a selector may use.

    Attributes:
        vocab_size: V, number of tokens in the vocabulary of the model's head.
        max_length: T, maximum number of tokens of a text.
        seed: seed of the run.
        keep: k, number of samples that a step keeps.
        total_steps: number of optimizer steps of the run; 0 if it is not known.
    """

    vocab_size: int
    max_length: int
    seed: int = 0
    keep: int = 1
    total_steps: int = 0


Metric = Literal["plain", "rate", "rate2", "adam", "adam2", "opus", "opus2"]


@dataclass(frozen=True)
class GradientNeeds:
    """Products that a selector needs of the candidates' gradients g_i and the mean gradient g_T of a target batch.

    The metric Q is elementwise:
    `plain` is 1;
    `rate` is ρ, the learning rate of each parameter relative to the highest, so 1 if all are the same; `rate2` is ρ²;
    `adam` is P, the part of the optimizer's next step that is linear in the gradient, up to a constant, for Adam
    ρ / (√v̄ + ε); `adam2` is P². Other optimizers have other P, and Muon's is a matrix
    (curate/training/gradients/optimizers);
    `opus` is that of the selector of this name, `opus2` its square, with the optimizer's state before the step.

    Attributes:
        metric: the metric Q of all products.
        target: True to measure values["alignment"] = ⟨g_i, Q∘g_T⟩ and scalars["target_square"] = ⟨g_T, Q∘g_T⟩.
        gram: True to measure pairs["gram"] = ⟨g_i, Q∘g_j⟩.
        norms: True to measure values["grad_norm"] = √⟨g_i, Q∘g_i⟩.
        warmup_steps: number of first steps in which the metric is `rate`, because Adam's v is not informative yet.
        gram_metric: metric of Gram matrix and norms, if it is another.
        kept: number of candidates that the step keeps: v̄ then has the square of a mean of so many gradients, clipped
            as the step is. 0: v̄ has E[G²] of single candidates, as if each were the gradient of the step.
        sketch: length of a count sketch; alignment and Gram matrix are then products of the sketches of Q∘g_i and of
            g_T, so the metrics must be `opus` and `opus2`. 0: they are exact.
    """

    metric: Metric = "plain"
    target: bool = False
    gram: bool = False
    norms: bool = False
    warmup_steps: int = 0
    gram_metric: Metric | None = None
    kept: int = 0
    sketch: int = 0

    @property
    def reads_state(self) -> bool:
        """True if the metric is made of the optimizer's state, and not only of its learning rates."""
        return self.metric not in ("plain", "rate", "rate2")

    def at(self, step: int) -> tuple[Metric, Metric]:
        """Return the metric of the alignment, and that of Gram matrix and norms, in a step."""
        if self.warmup_steps and step <= self.warmup_steps:
            return "rate", "rate"
        return self.metric, self.gram_metric or self.metric


@dataclass(frozen=True)
class Requirements:
    """The data that a selector needs in a run, derived from its arguments alone.

    Attributes:
        signals: names of the signals that are measured in each step; empty: no scoring pass.
        features: names of the stored features of each candidate.
        gradients: gradient products, or None if the selector needs no backward pass.
    """

    signals: frozenset[str] = frozenset()
    features: tuple[str, ...] = ()
    gradients: GradientNeeds | None = None

    @property
    def target(self) -> bool:
        """True if the selector needs batches of a target."""
        return self.gradients is not None and self.gradients.target

    def differences(self, selector: Selector) -> list[str]:
        """List what a built selector has instead of what these requirements state; empty if both are the same.

        `warmup_steps` and `kept` are not compared: they depend on the run, and requirements do not know the run.

        Returns:
            One phrase per difference, such as "signals ['loss'] instead of []".
        """
        built = Requirements(frozenset(selector.signals), tuple(selector.features), selector.gradients)
        pairs = {
            "signals": (sorted(built.signals), sorted(self.signals)),
            "features": (list(built.features), list(self.features)),
            "gradients": (_without_run(built.gradients), _without_run(self.gradients)),
        }
        return [f"{name} {has} instead of {states}" for name, (has, states) in pairs.items() if has != states]


@dataclass(frozen=True)
class CandidateBatch:
    """The B candidates of one step, with everything that the selector needs of them.

    Attributes:
        step: number of the optimizer step, from 1.
        positions: (B,) int64, positions in the pool. Unlike sample ids they differ between copies of a sample. For the
            answer in turn k of a conversation it is the conversation's position + (k + 1) 2⁴⁰, so answers differ, too.
        tokens: (B,) int64, number of tokens of each candidate.
        values: signals and per-candidate gradient products by name, (B,) or (B, d) each.
        reference: stored features by name, (B,) each.
        pairs: pairwise gradient products by name, (B, B) each.
        scalars: numbers of the step by name: `learning_rate`, and `target_square` if it is needed.
        target_tokens: (B,) int64, number of tokens of each candidate that the loss trains on; a training run always
            gives it.
    """

    step: int
    positions: Tensor
    tokens: Tensor
    values: Mapping[str, Tensor] = field(default_factory=dict)
    reference: Mapping[str, Tensor] = field(default_factory=dict)
    pairs: Mapping[str, Tensor] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)
    target_tokens: Tensor | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def chances(self, seed: int) -> Tensor:
        """Return numbers that decide between equal candidates, (B,) int64, hashed from (seed, step, position).

        They do not depend on the order of the candidates, and are the same after a resume and in all processes.

        Args:
            seed: seed of the run.
        """
        return chances(seed, self.step, self.positions)

    def rows(self, index: Tensor) -> CandidateBatch:
        """Return a batch of only these candidates, in this order; `index` is (b,) int64."""
        return CandidateBatch(
            self.step,
            self.positions[index],
            self.tokens[index],
            {name: value[index] for name, value in self.values.items()},
            {name: value[index] for name, value in self.reference.items()},
            {name: value[index][:, index] for name, value in self.pairs.items()},
            self.scalars,
            None if self.target_tokens is None else self.target_tokens[index],
        )


@dataclass(frozen=True)
class Scores:
    """Result of scoring B candidates.

    Attributes:
        total: (B,) scores; the k highest are kept, and NaN is never kept.
        parts: terms of the score by name, (B,) each; the ledger stores them in its column `parts`.
        weights: (B,) loss weights of the kept samples, for methods that reweight, or None. The loss of the step is
            then the mean of the samples' mean losses under these weights, also if they are equal; without weights it is
            the mean over the target tokens of all kept samples.
        token_masks: (B, T) bool, T at least the length of the longest candidate: False in column t if token t of the
            candidate is not to be trained on in this step; or None. Only target tokens count. The numbers of tokens in
            the loss are then those of the tokens that are left.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Tensor | None = None
    token_masks: Tensor | None = None

    @classmethod
    def joined(cls, groups: Sequence[Scores]) -> Scores:
        """Return the scores of groups of candidates as those of all, one group after the other."""
        first = groups[0]
        weights = [group.weights for group in groups if group.weights is not None]
        masks = [group.token_masks for group in groups if group.token_masks is not None]
        return cls(
            torch.cat([group.total for group in groups]),
            {name: torch.cat([group.parts[name] for group in groups]) for name in first.parts},
            None if first.weights is None else torch.cat(weights),
            None if first.token_masks is None else torch.cat(masks),
        )


class Selector(nn.Module):
    """Base class of batch selectors.

    A selector has no parameters. Its memory is in buffers of the module, so torch saves, loads and moves it.

    The constructor of a subclass takes keyword arguments only, `info` first. A subclass sets `signals` (measured in
    each step; empty: no scoring pass), `features` (stored values to join) and `gradients` (measured in a backward
    pass), as class attributes or in its constructor. In the latter case it overrides `requirements`, too.
    """

    signals: Mapping[str, Signal] = MappingProxyType({})
    features: Sequence[str] = ()
    gradients: GradientNeeds | None = None
    resident: Sequence[str] = ()
    """Names of signals that stay on the model's device: wide ones, for the memory. All others are CPU tensors."""
    BEFORE: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Argument -> the value that says what the selector did before it had the argument. A run that was recorded without
    the argument has this value, and the value does not enter the fingerprint."""
    keeps_all: bool = False
    """True if every candidate is always kept; the training loop then uses its batches unchanged."""

    def __init__(self, *, info: RunInfo) -> None:
        super().__init__()
        self.info = info

    @classmethod
    def requirements(cls, **args: Any) -> Requirements:
        """Return the requirements of a selector with these arguments, without building it.

        The default reads the class attributes `signals`, `features` and `gradients`. Override this method if any of
        them depends on the arguments.

        Args:
            args: keyword arguments of the constructor, without `info`.
        """
        return Requirements(frozenset(cls.signals), tuple(cls.features), cls.gradients)

    @classmethod
    def check(cls, **args: Any) -> None:
        """Raise `ValueError` for argument values that are not allowed in any run; called before a model is loaded.

        Args:
            args: keyword arguments of the constructor, without `info`.
        """

    def score(self, batch: CandidateBatch) -> Scores:
        """Score the candidates. This method reads the memory and never writes it.

        Equal scores are equal candidates, among which the training loop chooses by `CandidateBatch.chances`. A selector
        that picks one candidate after the other does so, too.
        """
        raise NotImplementedError("an abstract selector scores nothing")

    def update(self, batch: CandidateBatch, kept: Tensor) -> None:
        """Update the memory with the kept candidates. No other method writes the memory.

        Args:
            batch: the scored candidates.
            kept: (k,) int64, indices into the batch, ascending.
        """


def _without_run(needs: GradientNeeds | None) -> GradientNeeds | None:
    return needs and replace(needs, warmup_steps=0, kept=0)
