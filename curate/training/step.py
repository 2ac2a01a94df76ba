"""One step of online batch selection: measure the candidates, score them, keep the best, write all of it down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import torch
from torch import Tensor

from ..errors import TrainingError
from ..lm.model.scoring_model import ScoringModel
from ..lm.tokens.batch import Batch, collate, empty_batch
from ..lm.tokens.token_table import TokenTable
from ..log import Stopwatch
from ..numerics.gradients import Blocks
from ..selectors import CandidateBatch, Scores, Selector, choose
from ..signals import Loss, ScoreBudget, Signal, measure
from .gradients.engine import CandidateMeasurements, GradientEngine
from .process_group import ProcessGroup
from .recorder import StepRecorder


@dataclass(frozen=True)
class SelectionPlan:
    """How much is kept of what.

    Attributes:
        candidates: B, of an optimizer step.
        keep: k of them.
        group: choose within groups of this many candidates; None: among all that are chosen from together.
        refresh_every: steps between looks at a head that trains.
        losses: measure the candidates' losses for the ledger, where the selector has a forward pass but no use for
            them: it costs the head's product at positions with a target.
    """

    candidates: int
    keep: int
    group: int | None = None
    refresh_every: int = 1
    losses: bool = True


class BatchSelection:
    """Chooses, for the trainer, which candidates of a step are trained on.

    With several processes each measures its own candidates. Then all put their numbers together and make the same
    choice, from the same memory; what is kept is shared out, and the first process writes it down. Apart
    (`Ranks(per_rank=True)`), each chooses among its own.

    Args:
        selector: scores.
        scoring_model: the model as signals see it.
        table: the pool, encoded.
        plan: how much is kept.
        record: where all of it is written down.
        pad_token_id: for the collator.
        ranks: the processes that choose together.
        budget: how much is scored at once.
        reference: stored features by name, (n,) each, in the table's order.
        engine: measures gradients, for selectors that want them.
        timer: told the time by part.

    Attributes:
        ready: the gradient of the step and its loss, where the candidates' own gradients serve for the update.
    """

    def __init__(
        self,
        selector: Selector,
        scoring_model: ScoringModel,
        table: TokenTable,
        plan: SelectionPlan,
        *,
        record: StepRecorder,
        pad_token_id: int = 0,
        ranks: ProcessGroup | None = None,
        budget: ScoreBudget | None = None,
        reference: Mapping[str, Tensor] | None = None,
        engine: GradientEngine | None = None,
        timer: Stopwatch | None = None,
    ) -> None:
        self.selector = selector
        self.scoring_model = scoring_model
        self.table = table
        self.plan = plan
        self.record = record
        self.pad_token_id = pad_token_id
        self.ranks = ranks or ProcessGroup()
        self.budget = budget or ScoreBudget()
        self.reference = dict(reference or {})
        self.engine = engine
        self.timer = timer or Stopwatch()
        self.ready: tuple[Blocks, Tensor] | None = None
        self.signals: dict[str, Signal] = dict(selector.signals)
        if self.signals and plan.losses:
            self.signals["loss"] = Loss()

    def select(self, groups: Sequence[Sequence[int]], step: int) -> list[Batch]:
        """From a step's candidates to what is trained on.

        Args:
            groups: rows of the table, a list for each micro-batch of this process.
            step: the optimizer step, from 1.

        Returns:
            As many micro-batches, of this process's share of the kept; on the CPU.
        """
        own = [row for group in groups for row in group]
        index, kept, weights = self.choose(own, step)
        if self.selector.keeps_all:
            return [self._batch(group) for group in groups]
        return self._shares(index[kept].tolist(), weights, len(groups))

    def choose(self, own: Sequence[int], step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Score a step's candidates, keep the best and write it down.

        Args:
            own: this process's candidates, rows of the table.
            step: the optimizer step, from 1.

        Returns:
            The candidates of all processes, (B,) rows of the table; (k,) which of them are kept, ascending; (k,) their
            weights, or None where these are alike.
        """
        index = self._everyones(own)
        if self.selector.keeps_all:
            everything = torch.arange(len(index))
            self._write_down(step, index, everything)
            return index, everything, None
        measured = self._measure(own, step)
        batch = self._candidates(index, measured, step)
        with self.timer.part("score_arithmetic"):
            finite = finite_rows(batch)
            kept, scores = self._choose(batch, finite)
            weights = _uneven(scores, kept)
            self.ready = self._update_of(measured, index, kept, weights)
        self._write_down(step, index, kept, scores, measured.values.get("loss"))
        self._note_bad(index[~finite])
        return index, kept, weights

    def _everyones(self, own: Sequence[int]) -> Tensor:
        """The candidates of all processes, as rows, on the CPU; alone no device is asked."""
        index = torch.tensor(own, dtype=torch.int64)
        return index if self.ranks.size == 1 else self.ranks.gather(index.to(self.device)).cpu()

    def _write_down(
        self,
        step: int,
        index: Tensor,
        kept: Tensor,
        scores: Scores | None = None,
        loss: Tensor | None = None,
    ) -> None:
        """By the first of the processes that choose together."""
        if not self.ranks.rank:
            with self.timer.part("ledger"):
                self.record.step(step, index.numpy(), kept.numpy(), scores, loss)

    def _note_bad(self, rows: Tensor) -> None:
        if not self.ranks.rank:
            self.record.bad([self.table.ids[row] for row in rows.tolist()])

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.scoring_model.head.weight.device

    def _batch(self, rows: Sequence[int]) -> Batch:
        """Rows of the table; of none, a text without targets."""
        if not len(rows):
            return empty_batch(self.pad_token_id)
        return collate([self.table[row] for row in rows], self.pad_token_id)

    def _shares(self, kept: list[int], weights: Tensor | None, count: int) -> list[Batch]:
        """This process's share of the kept rows in `count` micro-batches, with their weights where these are uneven."""
        mine = torch.tensor(self.ranks.split_by_length(kept, self.table.lengths[kept].tolist()), dtype=torch.int64)
        out = []
        for places in mine.tensor_split(count):
            batch = self._batch([kept[place] for place in places.tolist()])
            if weights is not None:
                batch["loss_weights"] = weights[places].float() if len(places) else torch.zeros(1)
            out.append(batch)
        return out

    def _measure(self, own: Sequence[int], step: int) -> CandidateMeasurements:
        """What is asked of this process's candidates; values and pairs of all candidates, on the CPU."""
        measured = CandidateMeasurements()
        whole = self._batch([*own, *repeat(own[0], self._stand_ins(len(own)))])
        if self.selector.gradients is not None:
            assert self.engine is not None
            measured = self.engine.measure(whole, self.selector.gradients, step, self.timer, count=len(own))
        if self.signals:
            refresh = (step - 1) % self.plan.refresh_every == 0
            with self.scoring_model.eval_mode(refresh=refresh):
                values = measure(
                    self.scoring_model.hidden,
                    self.scoring_model.head,
                    whole,
                    self.signals,
                    self.budget,
                    timer=self.timer,
                )
            resident = self.selector.resident
            for name, value in values.items():
                whole_step = self.ranks.gather(value[: len(own)])
                measured.values[name] = whole_step if name in resident else whole_step.cpu()
        return measured

    def _stand_ins(self, count: int) -> int:
        """How many texts to measure besides, so that all processes measure equally many, where they must."""
        return max(ProcessGroup().counts(count, self.device)) - count if self.scoring_model.sharded else 0

    def _candidates(self, index: Tensor, measured: CandidateMeasurements, step: int) -> CandidateBatch:
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
        self, measured: CandidateMeasurements, index: Tensor, kept: Tensor, weights: Tensor | None
    ) -> tuple[Blocks, Tensor] | None:
        """The update's gradient and loss from the candidates' own: of Σ w_i ℓ_i, or of the mean over tokens."""
        if self.engine is None or not self.engine.keep or not measured.kept or not len(kept):
            return None
        if weights is None:
            tokens = torch.from_numpy(self.table.target_tokens[index[kept].numpy()])
            weights = tokens / tokens.sum()
        loss = (measured.values["loss"][kept] * weights.to(measured.values["loss"])).sum()
        return self.engine.combine(measured.kept, kept, weights), loss

    def _choose(self, batch: CandidateBatch, finite: Tensor) -> tuple[Tensor, Scores]:
        """Score and keep, group by group; each group's kept are in the memory before the next is scored."""
        group = self.plan.group or len(batch)
        kept, found = [], []
        for rows in torch.split(torch.arange(len(batch)), group):
            part = batch.rows(rows)
            scores = self.selector.score(part)
            total = scores.total.where(finite[rows], torch.nan)
            scores = replace(scores, total=total)
            picked = choose(total, max(1, len(rows) * self.plan.keep // self.plan.candidates))
            self.selector.update(part, picked)
            kept.append(rows[picked])
            found.append(scores)
        whole = torch.cat(kept)
        if not len(whole):
            raise TrainingError(
                f"No candidate of step {batch.step} has a finite loss: the model has diverged. Lower the learning rate "
                "and run again under another --name."
            )
        return whole, _concatenate(found)


def finite_rows(batch: CandidateBatch) -> Tensor:
    """Candidates all of whose signals are finite, (B,) bool."""
    finite = torch.ones(len(batch), dtype=torch.bool)
    for value in batch.values.values():
        finite &= value.isfinite().reshape(len(batch), -1).all(1).cpu()
    return finite


def _uneven(scores: Scores, kept: Tensor) -> Tensor | None:
    """The kept samples' weights, or None where they are alike: that is the Trainer's own loss."""
    if scores.weights is None:
        return None
    weights = scores.weights[kept]
    return None if torch.allclose(weights, weights[0]) else weights


def _concatenate(found: Sequence[Scores]) -> Scores:
    first = found[0]
    weights = None if first.weights is None else torch.cat([s.weights for s in found if s.weights is not None])
    parts = {name: torch.cat([s.parts[name] for s in found]) for name in first.parts}
    return Scores(torch.cat([s.total for s in found]), parts, weights)
