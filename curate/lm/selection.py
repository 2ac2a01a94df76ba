"""One step of online batch selection: measure the candidates, score them, keep the best, write all of it down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import TrainingError
from ..log import LOGGER, Stopwatch
from ..numerics.gradients import Blocks
from ..selectors import CandidateBatch, Scores, Selector, choose
from ..signals import Loss, Signal, measure
from .batches import Batch, join, split
from .encode import TokenTable
from .gradients import GradientEngine, Measured, combine
from .load import Eyes


class Sink(Protocol):
    """Where the ledger's rows go."""

    def append(self, step: int, columns: Mapping[str, Sequence[Any]]) -> None:
        """Take the candidates of a step."""


@dataclass(frozen=True)
class Plan:
    """How much is kept of what.

    Attributes:
        candidates: B, of an optimizer step and process.
        keep: k of them.
        group: choose within groups of this many candidates; None: among all of the step.
        score_batch_size: texts measured at once.
        refresh_every: steps between looks at a head that trains.
    """

    candidates: int
    keep: int
    group: int | None = None
    score_batch_size: int = 16
    refresh_every: int = 1


@dataclass
class Tally:
    """What a run has counted so far; part of its checkpoint.

    Attributes:
        tokens_kept, tokens_seen: of kept samples, of candidates.
        samples_kept, samples_seen: how many.
        bad: ids of samples whose loss or score was not finite.
    """

    tokens_kept: int = 0
    tokens_seen: int = 0
    samples_kept: int = 0
    samples_seen: int = 0
    bad: list[str] = field(default_factory=list)


class Selection:
    """Chooses, for the trainer, which candidates of a step are trained on.

    Args:
        selector: scores.
        eyes: the model as signals see it.
        table: the pool, encoded.
        plan: how much is kept.
        sink: the ledger.
        reference: stored features by name, (n,) each, in the table's order.
        engine: measures gradients, for selectors that want them.
        max_bad: more samples than this that are not finite end the run.
        watch: told the time by part.

    Attributes:
        ready: the gradient of the step and its loss, where the candidates' own gradients serve for the update.
    """

    def __init__(
        self,
        selector: Selector,
        eyes: Eyes,
        table: TokenTable,
        plan: Plan,
        *,
        sink: Sink,
        reference: Mapping[str, Tensor] | None = None,
        engine: GradientEngine | None = None,
        max_bad: int = 100,
        watch: Stopwatch | None = None,
    ) -> None:
        self.selector = selector
        self.eyes = eyes
        self.table = table
        self.plan = plan
        self.sink = sink
        self.reference = dict(reference or {})
        self.engine = engine
        self.max_bad = max_bad
        self.watch = watch or Stopwatch()
        self.ready: tuple[Blocks, Tensor] | None = None
        self.tally = Tally()
        self.signals: dict[str, Signal] = dict(selector.signals)
        if self.signals:
            self.signals["loss"] = Loss()

    def select(self, batches: list[Batch], step: int) -> list[Batch]:
        """From a step's micro-batches of candidates to as many micro-batches of the kept."""
        index = torch.cat([batch.pop("index") for batch in batches]).cpu()
        if self.selector.keeps_all:
            with self.watch.part("ledger"):
                self._record(step, index, torch.arange(len(index)), None, {})
            return batches
        whole = join(batches)
        measured = self._measure(whole, step)
        batch = self._candidates(index, measured, step)
        with self.watch.part("score_arithmetic"):
            kept, scores = self._choose(batch)
            weights = _uneven(scores, kept)
            self.ready = self._update_of(measured, index[kept], kept, weights)
        with self.watch.part("ledger"):
            self._record(step, index, kept, scores, measured.values)
            self.note_bad([self.table.ids[index[row]] for row in (~finite_rows(batch)).nonzero()[:, 0]])
        return split(whole, kept, len(batches), _first_finite(batch), weights)

    def _measure(self, whole: Batch, step: int) -> Measured:
        measured = Measured()
        if self.selector.gradients is not None:
            assert self.engine is not None
            measured = self.engine.measure(whole, self.selector.gradients, step, self.watch)
        if self.signals:
            refresh = (step - 1) % self.plan.refresh_every == 0
            with self.eyes.open(refresh=refresh):
                values = measure(
                    self.eyes.hidden,
                    self.eyes.head,
                    whole,
                    self.signals,
                    micro_batch=self.plan.score_batch_size,
                    watch=self.watch,
                )
            measured.values |= {name: value.cpu() for name, value in values.items()}
        return measured

    def _candidates(self, index: Tensor, measured: Measured, step: int) -> CandidateBatch:
        rows = index.numpy()
        return CandidateBatch(
            step,
            torch.from_numpy(self.table.positions[rows]),
            torch.from_numpy(self.table.lengths[rows]),
            measured.values,
            {name: values[index] for name, values in self.reference.items()},
            measured.pairs,
            measured.scalars,
        )

    def _update_of(
        self, measured: Measured, rows: Tensor, kept: Tensor, weights: Tensor | None
    ) -> tuple[Blocks, Tensor] | None:
        """The update's gradient and loss from the candidates' own: of Σ w_i ℓ_i, or of the mean over tokens."""
        if self.engine is None or not self.engine.keep or not measured.kept or not len(kept):
            return None
        if weights is None:
            tokens = torch.from_numpy(self.table.target_tokens[rows.numpy()])
            weights = tokens / tokens.sum()
        loss = (measured.values["loss"][kept] * weights.to(measured.values["loss"])).sum()
        return combine(measured.kept, kept, weights), loss

    def _choose(self, batch: CandidateBatch) -> tuple[Tensor, Scores]:
        """Score and keep, group by group; each group's kept are in the memory before the next is scored."""
        group = self.plan.group or len(batch)
        kept, found = [], []
        finite = finite_rows(batch)
        for rows in torch.split(torch.arange(len(batch)), group):
            part = batch.rows(rows)
            scores = self.selector.score(part)
            total = scores.total.where(finite[rows], torch.nan)
            scores = replace(scores, total=total)
            picked = choose(total, max(1, len(rows) * self.plan.keep // self.plan.candidates))
            self.selector.update(part, picked)
            kept.append(rows[picked])
            found.append(scores)
        return torch.cat(kept), _concatenate(found)

    def _record(
        self, step: int, index: Tensor, kept: Tensor, scores: Scores | None, values: Mapping[str, Tensor]
    ) -> None:
        rows = index.tolist()
        n = len(rows)
        mask = torch.zeros(n, dtype=torch.bool)
        mask[kept] = True
        ids = [self.table.ids[row] for row in rows]
        lengths = self.table.lengths[index.numpy()]
        nothing = [None] * n
        parts = {} if scores is None else {name: value.tolist() for name, value in scores.parts.items()}
        self.sink.append(
            step,
            {
                "sample_id": ids,
                "position": self.table.positions[index.numpy()],
                "kept": mask.tolist(),
                "score": nothing if scores is None else _nullable(scores.total),
                "weight": nothing if scores is None or scores.weights is None else _nullable(scores.weights),
                "loss": _nullable(values["loss"]) if "loss" in values else nothing,
                "tokens": lengths,
                "target_tokens": self.table.target_tokens[index.numpy()],
                "parts": [
                    [(name, column[i]) for name, column in parts.items() if column[i] == column[i]] for i in range(n)
                ],
            },
        )
        self.tally.tokens_seen += int(lengths.sum())
        self.tally.tokens_kept += int(lengths[mask.numpy()].sum())
        self.tally.samples_seen += n
        self.tally.samples_kept += int(mask.sum())

    def note_bad(self, ids: Sequence[str]) -> None:
        """Name and count samples that are not finite; `TrainingError` once there are too many."""
        for sample_id in ids:
            if sample_id not in self.tally.bad:
                self.tally.bad.append(sample_id)
                LOGGER.warning(f"Sample {sample_id} gives a loss or score that is not finite: it is kept out.")
        if len(self.tally.bad) > self.max_bad:
            raise TrainingError(
                f"{len(self.tally.bad)} samples gave a loss that is not finite, more than --max-bad-samples "
                f"{self.max_bad}; the last is {self.tally.bad[-1]}. Lower the learning rate, or look at them with "
                f"curate query \"SELECT * FROM conversations WHERE sample_id = '{self.tally.bad[-1]}'\"."
            )


def finite_rows(batch: CandidateBatch) -> Tensor:
    """Candidates all of whose signals are finite, (B,) bool."""
    finite = torch.ones(len(batch), dtype=torch.bool)
    for value in batch.values.values():
        finite &= value.isfinite().reshape(len(batch), -1).all(1)
    return finite


def _first_finite(batch: CandidateBatch) -> int:
    finite = finite_rows(batch)
    if not finite.any():
        raise TrainingError(
            f"No candidate of step {batch.step} has a finite loss: the model has diverged. Lower the learning rate and "
            "run again under another --name."
        )
    return int(finite.int().argmax())


def _uneven(scores: Scores, kept: Tensor) -> Tensor | None:
    """The kept samples' weights, or None where they are alike: that is the Trainer's own loss."""
    if scores.weights is None:
        return None
    weights = scores.weights[kept]
    return None if torch.allclose(weights, weights[0]) else weights


def _nullable(values: Tensor) -> list[float | None]:
    return [value if value == value else None for value in values.tolist()]


def _concatenate(found: Sequence[Scores]) -> Scores:
    first = found[0]
    weights = None if first.weights is None else torch.cat([s.weights for s in found if s.weights is not None])
    parts = {name: torch.cat([s.parts[name] for s in found]) for name in first.parts}
    return Scores(torch.cat([s.total for s in found]), parts, weights)
