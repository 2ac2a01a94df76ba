"""One step of online batch selection: measure the candidates, score them, keep the best, record every score.

`BatchSelection.select` takes the candidates of a step and returns a frozen `Selected`. It changes only the selector's
memory, the recorder and the timer. The Trainer (trainer.py) and the loops of users (curate.integrations) call it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat

import torch
from torch import Tensor

from ..errors import TrainingError
from ..lm.model.scoring_model import ScoringModel
from ..lm.tokens.batch import Batch, collate
from ..lm.tokens.token_table import TokenTable
from ..log import LOGGER, Stopwatch
from ..numerics.gradients import Blocks
from ..prescreens import Candidates, Screened, Screening, missed
from ..selectors import (
    CandidateBatch,
    Scores,
    Selector,
    check_kept,
    checked_scores,
    checked_update,
    choose,
    no_score,
    no_tokens,
)
from ..signals import Loss, ScoreBudget, Signal, measure
from .gradients.engine import CandidateMeasurements, GradientEngine
from .loss_weights import log_weights, mean_weights, trained_tokens, weights_at
from .mixtures.bandit import OnlineShares
from .process_group import ProcessGroup
from .recorder import StepRecorder


@dataclass(frozen=True)
class SelectionPlan:
    """Sizes of a selection, and the measurements that only the ledger needs.

    Attributes:
        candidates: B, number of candidates of an optimizer step.
        keep: k, number of candidates that are kept.
        group: number of candidates per group, if the selection is made within groups; None: among all candidates of the
            processes that select together.
        refresh_every: number of steps between two factorizations of a head that is trained.
        losses: True to measure the candidates' losses for the ledger when the selector has a forward pass but does not
            need them. Cost: the multiplication with the head at positions with a target.
        every_loss: True to measure them also if the selector has no forward pass. Cost: a forward pass.
    """

    candidates: int
    keep: int
    group: int | None = None
    refresh_every: int = 1
    losses: bool = True
    every_loss: bool = False

    def kept_of(self, candidates: int) -> int:
        """Return how many of so many candidates are kept: the same share as of a whole step, at least one."""
        return max(1, candidates * self.keep // self.candidates)


@dataclass(frozen=True)
class StepCandidates:
    """Candidates of one optimizer step on one process.

    Attributes:
        step: number of the optimizer step, from 1.
        table: tokenized samples.
        rows: candidates of this process, as rows of the table.
        plan: sizes of the selection.
        reference: stored features by name, (n,) each, in the table's order.
    """

    step: int
    table: TokenTable
    rows: Sequence[int]
    plan: SelectionPlan
    reference: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """Gradient of a step, combined from the candidates' gradients that the selection measured.

    Attributes:
        gradient: parameter name -> gradient, in the shape of the parameter.
        loss: () loss whose gradient this is, in nats.
    """

    gradient: Blocks
    loss: Tensor


@dataclass(frozen=True)
class Selected:
    """Result of a step's selection, the same on all processes that select together.

    Attributes:
        candidates: (B,) int64, candidates of all these processes, as rows of the table; on the CPU.
        kept: (k,) int64, indices into `candidates`, ascending.
        weights: (k,) float64, factors u_i of the kept samples' mean losses: the loss of the step is Σ u_i ℓ_i, see
            `mean_weights`. None: it is the mean over their target tokens.
        update: the gradient of the step, if it is combined from the candidates' gradients; None: the Trainer computes
            it.
        token_masks: (k, T) bool, False in column t if token t of a kept sample is not trained on; None: all targets
            are.
    """

    candidates: Tensor
    kept: Tensor
    weights: Tensor | None = None
    update: Update | None = None
    token_masks: Tensor | None = None

    @property
    def rows(self) -> Tensor:
        """The kept samples as rows of the table, (k,) int64."""
        return self.candidates[self.kept]


class BatchSelection:
    """Selects the candidates of a step to train on.

    With several processes each measures its own candidates. Then all exchange their measurements and make the same
    selection with the same memory; the first process records it. With `ProcessGroup(per_rank=True)` each process
    selects among its own candidates.

    Args:
        selector: scores the candidates.
        scoring_model: the model on which signals are measured.
        recorder: writes the ledger and counts samples and tokens.
        pad_token_id: id of the token that pads the texts of a batch.
        ranks: the processes that select together; None: all.
        trained: the processes whose kept samples make one step, over which weights add up to 1; None: `ranks`.
        budget: maximum number of tokens and texts that are scored at once; it shrinks if memory runs out.
        engine: measures gradients; required by selectors that need them.
        timer: collects seconds by part of a step.
        screening: rules out candidates before they are scored; None: all are scored.
        shares: shares of a mixture that learn from the losses of each step; None: nothing is learned.
    """

    def __init__(
        self,
        selector: Selector,
        scoring_model: ScoringModel,
        *,
        recorder: StepRecorder,
        pad_token_id: int = 0,
        ranks: ProcessGroup | None = None,
        trained: ProcessGroup | None = None,
        budget: ScoreBudget | None = None,
        engine: GradientEngine | None = None,
        timer: Stopwatch | None = None,
        screening: Screening | None = None,
        shares: OnlineShares | None = None,
    ) -> None:
        self.selector = selector
        self.scoring_model = scoring_model
        self.recorder = recorder
        self.pad_token_id = pad_token_id
        self.ranks = ranks or ProcessGroup()
        self.trained = trained or self.ranks
        self.budget = budget or ScoreBudget()
        self.engine = engine
        self.timer = timer or Stopwatch()
        self.screening = screening
        self.shares = shares

    def select(self, batch: StepCandidates) -> Selected:
        """Score a step's candidates, keep the best and record the step.

        Raises:
            TrainingError: no candidate has finite measurements.
            PluginError: the scores or weights of the selector are not usable.
        """
        candidates = self._of_all_processes(batch.rows)
        if self.selector.keeps_all:
            kept = torch.arange(len(candidates))
            tokens = trained_tokens(batch.table, candidates, None)
            selected = Selected(candidates, kept, self._weights(batch.table, candidates, None, tokens))
            loss = self._measure(batch).values.get("loss") if batch.plan.every_loss else None
            self._record(batch, selected, loss=loss)
            return selected
        replayed = candidates[candidates >= batch.table.first_replayed]
        if len(replayed):
            candidates = candidates[candidates < batch.table.first_replayed]
            batch = without_replayed(batch, self._own_part(candidates), len(replayed))
        screened = self._screen(batch, candidates)
        rows = candidates if screened is None else candidates[screened.scored]
        if screened is not None:
            batch = replace(batch, rows=self._own_part(rows))
        measured = self._measure(batch)
        scored = self._candidate_batch(batch, rows, measured)
        with self.timer.part("score_arithmetic"):
            finite = finite_rows(scored)
            hits = self._missed(scored, finite, screened, batch.plan)
            kept, scores = self._choose(scored, finite, batch.plan, len(candidates))
            given = None if scores.weights is None else scores.weights[kept]
            masks = None if scores.token_masks is None else scores.token_masks[kept]
            tokens = trained_tokens(batch.table, rows[kept], masks)
            if masks is not None:
                if (tokens == 0).any():
                    raise no_tokens(self.selector, scored)
                scores = replace(
                    scores, parts={**scores.parts, "trained_tokens": weights_at(kept, tokens.double(), len(rows))}
                )
            weights = self._weights(batch.table, rows[kept], given, tokens)
            update = None if masks is not None else self._update_of(measured, kept, weights, tokens)
            selected = Selected(rows, kept, weights, update, masks)
            if given is not None:
                scores = replace(scores, weights=weights_at(kept, weights, len(rows)))
        loss = measured.values.get("loss")
        if screened is not None:
            self._learn(batch, candidates, screened, scores, hits)
            selected = replace(selected, candidates=candidates, kept=screened.scored[kept])
            scores, loss = screened.spread_scores(scores), None if loss is None else screened.spread(loss)
        if len(replayed):
            selected, scores = self._with_replayed(batch.table, selected, scores, given, replayed)
        self._record(batch, selected, scores, loss, screened)
        if not self.ranks.rank:
            self.recorder.bad([batch.table.ids[row] for row in rows[~finite].tolist()])
        return selected

    def _own_part(self, rows: Tensor) -> list[int]:
        """Return this process's part of rows that all processes know."""
        part: list[int] = rows.tensor_split(self.ranks.size)[self.ranks.rank].tolist()
        return part

    def _with_replayed(
        self, table: TokenTable, selected: Selected, scores: Scores, given: Tensor | None, replayed: Tensor
    ) -> tuple[Selected, Scores]:
        """Add the replayed rows behind the candidates: all are kept, with the mean of the selector's weights.

        Args:
            table: tokenized samples.
            selected: selection among the candidates of the run's own pool.
            scores: their scores, (B,).
            given: (k,) the selector's weights of the kept ones, or None.
            replayed: (r,) rows of the table.
        """
        candidates, count = torch.cat([selected.candidates, replayed]), len(selected.candidates)
        kept = torch.cat([selected.kept, torch.arange(count, len(candidates))])
        if given is not None:
            given = torch.cat([given, given.mean().expand(len(replayed))])
        masks = selected.token_masks
        if masks is not None:
            masks = torch.cat([masks, masks.new_ones(len(replayed), masks.shape[1])])
        weights = self._weights(table, candidates[kept], given, trained_tokens(table, candidates[kept], masks))
        if scores.weights is not None:
            scores = replace(scores, weights=weights_at(kept, weights, len(candidates)))
        return Selected(candidates, kept, weights, None, masks), scores

    def _screen(self, batch: StepCandidates, candidates: Tensor) -> Screened | None:
        """Rule out candidates of all processes before they are scored; None without a prescreen."""
        if self.screening is None:
            return None
        least = max(batch.plan.kept_of(len(candidates)), self.ranks.size)
        positions = torch.from_numpy(batch.table.numbers(candidates.numpy()))
        return self.screening.screen(batch.step, _known(batch.table, candidates), positions, least)

    def _missed(self, scored: CandidateBatch, finite: Tensor, screened: Screened | None, plan: SelectionPlan) -> int:
        """Count the audited candidates that the prescreen has missed, before the memory is updated."""
        if screened is None:
            return 0
        return missed(self.selector, scored, finite, screened, plan.kept_of(len(screened.predicted)))

    def _learn(self, batch: StepCandidates, candidates: Tensor, screened: Screened, scores: Scores, hits: int) -> None:
        """Let the prescreen learn from the scored candidates, and say so if it opens up."""
        assert self.screening is not None
        count = batch.plan.kept_of(len(candidates))
        opened = self.screening.record(batch.step, _known(batch.table, candidates), screened, scores, hits, count)
        if opened is not None and not self.ranks.rank:
            LOGGER.warning(opened)

    def _weights(self, table: TokenTable, rows: Tensor, given: Tensor | None, tokens: Tensor) -> Tensor | None:
        """Return the factors u_i of kept rows, (k,), see `mean_weights`; None without weights of any kind.

        Args:
            table: tokenized samples, with the weights of its rows.
            rows: (k,) the kept rows of this process, or of all processes that select together.
            given: (k,) the selector's weights, or None.
            tokens: (k,) numbers of target tokens that are trained on.
        """
        if given is None and table.weights is None:
            return None
        own = None if table.weights is None else torch.from_numpy(table.weights[rows.numpy()])
        logs = log_weights(tokens, own, given)
        everywhere = logs if self.ranks.size > 1 else self.trained.gather(logs.to(self.device)).cpu()
        return mean_weights(logs, everywhere)

    def _of_all_processes(self, own: Sequence[int]) -> Tensor:
        """Return the candidates of all processes, as rows, on the CPU; a single process uses no device."""
        rows = torch.tensor(own, dtype=torch.int64)
        return rows if self.ranks.size == 1 else self.ranks.gather(rows.to(self.device)).cpu()

    def _record(
        self,
        batch: StepCandidates,
        selected: Selected,
        scores: Scores | None = None,
        loss: Tensor | None = None,
        screened: Screened | None = None,
    ) -> None:
        """Record a step, on the first of the processes that select together, and let shares learn from it on all."""
        if self.shares is not None and loss is not None:
            self.shares.observe(batch.step, selected.candidates.numpy(), loss.detach().cpu().double().numpy())
        if not self.ranks.rank:
            with self.timer.part("ledger"):
                rows, kept = selected.candidates.numpy(), selected.kept.numpy()
                masks = None if selected.token_masks is None else selected.token_masks.numpy()
                self.recorder.step(batch.step, batch.table, rows, kept, scores, loss, screened, masks)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.scoring_model.head.weight.device

    def _signals(self, plan: SelectionPlan) -> dict[str, Signal]:
        """Return the signals to measure; none without a scoring pass, unless the plan asks for every loss."""
        signals = dict(self.selector.signals)
        alone = plan.every_loss and self.selector.gradients is None
        return {**signals, "loss": Loss()} if (signals and plan.losses) or alone else signals

    def _measure(self, batch: StepCandidates) -> CandidateMeasurements:
        """Measure own candidates and return the measurements of all processes, on the CPU except resident signals."""
        measured, own = CandidateMeasurements(), batch.rows
        texts = self._collate(batch.table, [*own, *repeat(own[0], self._stand_ins(len(own)))])
        if self.selector.gradients is not None:
            assert self.engine is not None
            measured = self.engine.measure(texts, self.selector.gradients, batch.step, self.timer, count=len(own))
        if signals := self._signals(batch.plan):
            model = self.scoring_model
            refresh = (batch.step - 1) % batch.plan.refresh_every == 0
            with model.eval_mode(refresh=refresh):
                values = measure(
                    model.hidden, model.head, texts, signals, self.budget, timer=self.timer, shared=model.shares
                )
            resident = self.selector.resident
            for name, value in values.items():
                whole_step = self.ranks.gather(value[: len(own)])
                measured.values[name] = whole_step if name in resident else whole_step.cpu()
        return measured

    def _collate(self, table: TokenTable, rows: Sequence[int]) -> Batch:
        return collate([table[row] for row in rows], self.pad_token_id)

    def _stand_ins(self, count: int) -> int:
        """Return how many texts to measure in addition: with FSDP all processes must measure the same number."""
        return max(ProcessGroup().counts(count, self.device)) - count if self.scoring_model.sharded else 0

    @staticmethod
    def _candidate_batch(batch: StepCandidates, candidates: Tensor, measured: CandidateMeasurements) -> CandidateBatch:
        rows = candidates.numpy()
        return CandidateBatch(
            batch.step,
            torch.from_numpy(batch.table.numbers(rows)),
            torch.from_numpy(batch.table.lengths[rows]),
            measured.values,
            {name: values[candidates] for name, values in batch.reference.items()},
            measured.pairs,
            measured.scalars,
            torch.from_numpy(batch.table.target_tokens[rows]),
        )

    def _update_of(
        self, measured: CandidateMeasurements, kept: Tensor, weights: Tensor | None, tokens: Tensor
    ) -> Update | None:
        """Combine gradients into that of Σ w_i ℓ_i, or of the mean over target tokens; None if none were kept."""
        if self.engine is None or not self.engine.keep or not measured.kept or not len(kept):
            return None
        if weights is None:
            weights = tokens / tokens.sum()
        loss = (measured.values["loss"][kept] * weights.to(measured.values["loss"])).sum()
        return Update(self.engine.combine(measured.kept, kept, weights), loss)

    def _choose(
        self, batch: CandidateBatch, finite: Tensor, plan: SelectionPlan, offered: int
    ) -> tuple[Tensor, Scores]:
        """Score and keep, group by group. A group's kept samples enter the memory before the next group is scored.

        Args:
            batch: the scored candidates.
            finite: (S,) bool, which of them have only finite measurements.
            plan: sizes of the selection.
            offered: B, number of candidates of the step, of which some may not be scored.
        """
        group = plan.group or len(batch)
        kept, scored = [], []
        for rows in torch.split(torch.arange(len(batch)), group):
            part = batch.rows(rows)
            scores = checked_scores(self.selector, part)
            total = scores.total.where(finite[rows], torch.nan)
            scores = replace(scores, total=total)
            count = plan.kept_of(len(rows) if plan.group else offered)
            picked = choose(total, count, part.chances(self.selector.info.seed))
            if not self.ranks.rank:
                self.recorder.cut(total, count)
            check_kept(self.selector, part, scores, picked)
            checked_update(self.selector, part, picked)
            kept.append(rows[picked])
            scored.append(scores)
        whole = torch.cat(kept)
        if not len(whole) and finite.any():
            raise no_score(self.selector, batch, int(finite.sum()))
        if not len(whole):
            raise TrainingError(
                f"No candidate of step {batch.step} has a finite loss: the model has diverged. Lower the learning rate "
                "and run again under another --name."
            )
        return whole, Scores.joined(scored)


def without_replayed(batch: StepCandidates, rows: Sequence[int], replayed: int) -> StepCandidates:
    """Return a step without its replayed candidates: fewer are offered, and as many fewer are kept.

    Args:
        batch: the step.
        rows: the other candidates of this process.
        replayed: number of replayed candidates of all processes.
    """
    plan = batch.plan
    fewer = replace(plan, candidates=plan.candidates - replayed, keep=plan.keep - replayed)
    return replace(batch, rows=rows, plan=fewer)


def _known(table: TokenTable, rows: Tensor) -> Candidates:
    """Return what is known of candidates before a pass."""
    index = rows.numpy()
    return Candidates(rows, torch.from_numpy(table.lengths[index]), torch.from_numpy(table.target_tokens[index]))


def finite_rows(batch: CandidateBatch) -> Tensor:
    """Return which candidates have only finite measurements, (B,) bool."""
    finite = torch.ones(len(batch), dtype=torch.bool)
    for value in batch.values.values():
        finite &= value.isfinite().reshape(len(batch), -1).all(1).cpu()
    return finite
