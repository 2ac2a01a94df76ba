"""Measure gradients of candidates and of a target at the current weights, in the metric of the optimizer.

One backward pass over the candidates gives every number that gradient selectors request. If few parameters are trained
(LoRA), the per-sample gradients are held, so that the weighted gradient of the kept samples needs no second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ...errors import ModelError, TrainingError
from ...lm.model.chunked_loss import mean_losses
from ...lm.model.scoring_model import ScoringModel
from ...lm.tokens.batch import Batch, take_rows
from ...log import LOGGER, Stopwatch
from ...numerics.gradients import (
    Blocks,
    GradientRequest,
    Recorder,
    capture,
    dots_of,
    gram_of,
    squares_of,
    trained_layers,
    uncovered,
    weighted_sum,
)
from ...numerics.losses import IGNORE, next_token_labels
from ...selectors import GradientNeeds
from ..process_group import ProcessGroup
from ..target_sampler import TargetSampler
from .optimizers import Moments, OptimizerState, cross_of

LOGITS_BUDGET = 64 << 20  # bytes

CPU_ROWS = 256
"""Positions whose logits are formed at once on a CPU. Products that fit into its cache are faster than large ones."""


@dataclass
class CandidateMeasurements:
    """Result of a backward pass over the candidates of a step.

    Attributes:
        values, pairs, scalars: by name, numbers per candidate (n, ...), per pair of candidates (n, n), and per step.
        kept: per-sample gradients by parameter name, for the update.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    pairs: dict[str, Tensor] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    kept: Blocks = field(default_factory=dict)

    def first(self, count: int) -> CandidateMeasurements:
        """Return the measurements of the first `count` candidates."""
        return CandidateMeasurements(
            {name: value[:count] for name, value in self.values.items()},
            {name: value[:count, :count] for name, value in self.pairs.items()},
            self.scalars,
            {name: block[:count] for name, block in self.kept.items()},
        )


class GradientEngine:
    """Measure the gradients that `GradientNeeds` names.

    Args:
        scoring_model: the model.
        target: sampler of target batches, or None.
        adam: function that returns the current state of the optimizer.
        keep: hold the per-sample gradients for the update (`update: reuse`).
        coverage: `all` makes a trainable parameter outside linear layers an error; `linear` ignores it.
        micro_batch: number of texts in one backward pass.
        seed: seed of dropout.
        ranks: processes that measure their candidates together. They share the target's gradient and E[G²]. For a Gram
            matrix, per-sample gradients are gathered layer by layer.
    """

    def __init__(
        self,
        scoring_model: ScoringModel,
        target: TargetSampler | None,
        adam: Callable[[], OptimizerState],
        *,
        keep: bool = False,
        coverage: str = "all",
        micro_batch: int = 16,
        seed: int = 0,
        ranks: ProcessGroup | None = None,
    ) -> None:
        outside = uncovered(scoring_model.model)
        if outside and coverage == "all":
            raise ModelError(
                f"Gradients are captured in linear layers, but {len(outside)} trainable parameters are elsewhere: "
                f"{', '.join(outside[:3])}{', ...' if len(outside) > 3 else ''}. Train a LoRA adapter, or select by "
                "the linear layers alone with --gradient-coverage linear (from Python: coverage='linear')."
            )
        if not trained_layers(scoring_model.model):
            raise ModelError("No linear layer of the model is trained, so no gradients exist. Train a LoRA adapter.")
        self.scoring_model = scoring_model
        self.target = target
        self.adam = adam
        self.keep = keep
        self.micro_batch = micro_batch
        self.seed = seed
        self.ranks = ranks or ProcessGroup()

    def measure(
        self, batch: Batch, needs: GradientNeeds, step: int, timer: Stopwatch, *, count: int | None = None
    ) -> CandidateMeasurements:
        """Measure the gradients of the candidates and of the target, in the metric that applies at `step`.

        Values and pairs cover the candidates of all processes; kept blocks cover those of this process.

        Args:
            batch: candidates of this process.
            needs: the requested measurements.
            step: optimizer step, from 1.
            timer: timer that counts the seconds of each part.
            count: number of candidates at the beginning of `batch`; None for all. The other texts only keep the
                processes in step, and their results are dropped.
        """
        self.scoring_model.model.train()
        n = len(batch["input_ids"])
        while True:
            try:
                return self._measure(batch, needs, step, timer, n if count is None else count)
            except torch.OutOfMemoryError:
                can_halve = n > 1 and self.micro_batch > 1 and self.ranks.size == 1 and not self.scoring_model.sharded
                if not can_halve:
                    raise _too_large(batch) from None
            self.micro_batch = min(self.micro_batch, n) // 2
            LOGGER.warning(f"Out of memory in a backward pass. Continuing with {self.micro_batch} texts at once.")

    def _measure(
        self, batch: Batch, needs: GradientNeeds, step: int, timer: Stopwatch, count: int
    ) -> CandidateMeasurements:
        adam = self.adam()
        metric, of_gram = needs.at(step)
        if adam.uniform:  # then the metrics of rates are 1
            metric = "plain" if metric in ("rate", "rate2") else metric
            of_gram = "plain" if of_gram in ("rate", "rate2") else of_gram
        n = len(batch["input_ids"])
        target: Blocks = {}
        if needs.target:
            with timer.part("target_gradient"):
                target = self.target_gradient(step)
        keep = (
            self.keep
            or metric != "plain"
            or of_gram != "plain"
            or (needs.gram and (self.ranks.size > 1 or n > self.micro_batch))
        )
        request = (
            GradientRequest(keep=True)
            if keep
            else GradientRequest(target=target or None, gram=needs.gram, norms=needs.norms)
        )
        with timer.part("candidate_gradients"):
            found = self.pass_over(batch, request, step).first(count)
        with timer.part("score_arithmetic"):
            if keep:
                self._from_blocks(found, replace(needs, metric=metric, gram_metric=of_gram), target, adam)
            if needs.target:
                found.scalars.setdefault(
                    "target_square", float(sum(t.double().square().sum() for t in target.values()))
                )
            found.scalars["learning_rate"] = adam.rate
            found.values = {name: self.ranks.gather(value).cpu() for name, value in found.values.items()}
            found.pairs = {name: value.cpu() for name, value in found.pairs.items()}
        return found

    def _from_blocks(
        self, found: CandidateMeasurements, needs: GradientNeeds, target: Blocks, adam: OptimizerState
    ) -> None:
        """Compute all requested measurements from kept per-sample gradients, and add them to `found`."""
        metrics = {needs.metric, needs.gram_metric or needs.metric} - {"plain"}
        moments = self._moments(found.kept, adam) if metrics else {}
        roots = {metric: adam.roots(moments, metric, kept=needs.kept) for metric in metrics}
        root, of_gram = roots.get(needs.metric), roots.get(needs.gram_metric or needs.metric)
        if needs.gram or needs.norms:
            parts = [squares_of({n: b if of_gram is None else of_gram[n](b)}) for n, b in found.kept.items()]
            found.values["grad_norm"] = torch.stack(parts).sum(0).sqrt()
        if needs.gram:
            blocks = ((n, self.ranks.gather(block)) for n, block in found.kept.items())
            found.pairs["gram"] = gram_of((n, block if of_gram is None else of_gram[n](block)) for n, block in blocks)
        if needs.target:
            h = {n: t if root is None else root[n](root[n](t)) for n, t in target.items()}
            found.values["alignment"] = dots_of(found.kept, h)
            found.scalars["target_square"] = float(sum((t.double() * h[n].double()).sum() for n, t in target.items()))

    def _moments(self, kept: Blocks, adam: OptimizerState) -> dict[str, Moments]:
        """Return the moments over the candidates of all processes, without those whose gradients are not finite."""
        finite = torch.stack([block.flatten(1).isfinite().all(1) for block in kept.values()]).all(0)
        count = self.ranks.sum(finite.sum().float())
        found = {}
        for name, block in kept.items():
            own = block[finite]
            cross = self.ranks.sum(cross_of(own)) / count if adam.needs_cross(name) else None
            mean, square = self.ranks.sum(own.sum(0)) / count, self.ranks.sum(own.square().sum(0)) / count
            found[name] = Moments(float(count), mean, square, cross)
        return found

    def combine(self, kept: Blocks, rows: Tensor, weights: Tensor) -> Blocks:
        """Return Σ w_i G_i over the kept rows of a step: the gradient that a second pass would give.

        Args:
            kept: per-sample gradients of this process's candidates.
            rows: (k,) indices of the kept rows among the candidates of all processes.
            weights: (k,) weights w_i of the kept rows.
        """
        own = next(iter(kept.values()))
        counts = self.ranks.counts(len(own), own.device)
        first = sum(counts[: self.ranks.rank])
        mine = (rows >= first) & (rows < first + len(own))
        local = (rows[mine] - first).to(own.device)
        total = weighted_sum({name: block[local] for name, block in kept.items()}, weights[mine])
        return {name: self.ranks.sum(block) for name, block in total.items()}

    def pass_over(self, batch: Batch, request: GradientRequest, step: int = 0) -> CandidateMeasurements:
        """Run one forward and backward pass over texts, shortest first, in micro-batches.

        The results are in the order of the texts. The `.grad` of the parameters and the random state do not change. A
        Gram matrix needs all texts in one micro-batch. Dropout depends on `step`.
        """
        batch = self._on_device(batch)
        order = torch.argsort(batch["attention_mask"].sum(1), stable=True)
        losses, recorders = [], []
        with self._restored_gradients(), self._seeded_dropout(step):
            for rows in torch.split(order, len(order) if request.gram else self.micro_batch):
                recorder = Recorder(self.scoring_model.model, request, len(rows), order.device)
                with capture(self.scoring_model.model, recorder.take):
                    loss = self._losses(take_rows(batch, rows))
                    torch.autograd.backward(loss.sum())
                losses.append(loss.detach())
                recorders.append(recorder.result)
        back = order.argsort()
        out = CandidateMeasurements({"loss": torch.cat(losses)[back]})
        if request.keep:
            out.kept = {name: torch.cat([f.kept[name] for f in recorders])[back] for name in recorders[0].kept}
        for name, field_ in (("alignment", "dots"), ("squares", "squares"), ("sketch", "sketch")):
            parts = [getattr(found, field_) for found in recorders]
            if parts[0] is not None:
                out.values[name] = torch.cat(parts)[back]
        if recorders[0].gram is not None:
            out.pairs["gram"] = recorders[0].gram[back][:, back]
        if "squares" in out.values:
            out.values["grad_norm"] = out.values.pop("squares").sqrt()
        return out

    def target_gradient(self, step: int) -> Blocks:
        """Return g_T, the mean gradient of the mean losses of a target batch, for the parameters of linear layers."""
        assert self.target is not None
        batch = self._on_device(self.target.batch(step, rank=self.ranks.rank, ranks=self.ranks.size))
        covered = trained_layers(self.scoring_model.model)
        with self._restored_gradients(), self._seeded_dropout(-step):
            for rows in torch.split(torch.arange(len(batch["input_ids"])), self.micro_batch):
                torch.autograd.backward(self._losses(take_rows(batch, rows)).sum() / self.target.size)
            return {
                name: self.ranks.sum(p.grad.float())
                for name, p in self.scoring_model.model.named_parameters()
                if p.grad is not None and name.rpartition(".")[0] in covered
            }

    def _on_device(self, batch: Batch) -> Batch:
        """Return the batch on the model's device."""
        device = self.scoring_model.head.weight.device
        return {key: value.to(device, non_blocking=True) for key, value in batch.items()}

    def _losses(self, batch: Batch) -> Tensor:
        """Return ℓ_i of each text. A trainable head must see samples as rows, so all logits are formed at once."""
        hidden = self.scoring_model.hidden(batch["input_ids"], batch["attention_mask"])
        if self.scoring_model.head.frozen:
            cpu_budget = CPU_ROWS * 4 * self.scoring_model.head.vocab_size
            budget = LOGITS_BUDGET if hidden.is_cuda else min(LOGITS_BUDGET, cpu_budget)
            return mean_losses(self.scoring_model, hidden, batch["labels"], budget)
        targets = next_token_labels(batch["labels"])
        losses = nn.functional.cross_entropy(self.scoring_model.project(hidden).mT, targets, reduction="none")
        return losses.sum(1) / (targets != IGNORE).sum(1).clamp_min(1)

    @contextmanager
    def _restored_gradients(self) -> Iterator[None]:
        """Clear the `.grad` of all parameters, and restore it on exit."""
        parameters = list(self.scoring_model.model.parameters())
        before = [p.grad for p in parameters]
        for p in parameters:
            p.grad = None
        try:
            yield
        finally:
            for p, grad in zip(parameters, before, strict=True):
                p.grad = grad

    @contextmanager
    def _seeded_dropout(self, step: int) -> Iterator[None]:
        """Seed dropout by (seed, step). A resumed Trainer restores its random state only after the first selection."""
        device = self.scoring_model.head.weight.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed * 1_000_003 + step)
            yield


def _too_large(batch: Batch) -> TrainingError:
    count, length = batch["input_ids"].shape
    return TrainingError(
        f"Out of memory in a backward pass over {count} candidates of up to {length} tokens. Lower "
        "--score-batch-size, --candidates or --max-length, or give --gradient-checkpointing or --update rerun."
    )
