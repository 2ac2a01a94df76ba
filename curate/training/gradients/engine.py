"""Measure gradients of candidates and of a target at the current weights, in the metric of the optimizer.

One backward pass over the candidates gives every number that gradient selectors request. If few parameters are trained
(LoRA), the per-sample gradients are held, so that the weighted gradient of the kept samples needs no second pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ...errors import ModelError, TrainingError
from ...lm.model.scoring_model import ScoringModel
from ...lm.tokens.batch import Batch
from ...log import LOGGER, Stopwatch
from ...numerics.gradients import Blocks, GradientRequest, SignHash, dots_of, gram_of, squares_of, weighted_sum
from ...selectors import GradientNeeds
from ..batching import Batching
from ..process_group import ProcessGroup
from ..target_sampler import TargetSampler
from .measurements import CandidateMeasurements
from .optimizers import Moments, OptimizerState, cross_of
from .passes import GradientPasses

__all__ = ["CandidateMeasurements", "GradientEngine"]

FROZEN = {"opus", "opus2"}
"""Metrics that are known before the backward pass."""


class GradientEngine:
    """Measure the gradients that `GradientNeeds` names.

    Args:
        scoring_model: the model.
        target: sampler of target batches, or None.
        adam: function that returns the current state of the optimizer.
        keep: hold the per-sample gradients for the update (`update: reuse`); None: if all parameters are measured.
        coverage: `all` measures every trained parameter; `linear` only those of linear layers and experts.
        micro_batch: number of texts in one backward pass.
        seed: seed of dropout.
        ranks: processes that measure their candidates together. They share the target's gradient and E[G²]. For a Gram
            matrix, per-sample gradients are gathered layer by layer.
        batching: how texts reach the model; None: padded.
    """

    def __init__(
        self,
        scoring_model: ScoringModel,
        target: TargetSampler | None,
        adam: Callable[[], OptimizerState],
        *,
        keep: bool | None = False,
        coverage: str = "all",
        micro_batch: int = 16,
        seed: int = 0,
        ranks: ProcessGroup | None = None,
        batching: Batching | None = None,
    ) -> None:
        self.passes = GradientPasses(scoring_model, coverage, seed, batching)
        if keep and self.passes.left_out:
            raise ModelError(
                f"--update reuse would leave {len(self.passes.left_out)} trained parameters without an update, because "
                f"--gradient-coverage {coverage} does not measure them: {', '.join(self.passes.left_out[:3])}"
                f"{', ...' if len(self.passes.left_out) > 3 else ''}. Give --update rerun, or --gradient-coverage all."
            )
        self.scoring_model = scoring_model
        self.target = target
        self.adam = adam
        self.keep = not self.passes.left_out if keep is None else keep
        self.micro_batch = micro_batch
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
        if needs.sketch:
            return self._sketched(batch, needs, target, adam, step, timer, count)
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
            if keep:
                found.kept = self._of_all_processes(found.kept, (count,))
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

    def _sketched(
        self,
        batch: Batch,
        needs: GradientNeeds,
        target: Blocks,
        adam: OptimizerState,
        step: int,
        timer: Stopwatch,
        count: int,
    ) -> CandidateMeasurements:
        """Measure alignment and Gram matrix from sketches of Q∘g_i; gradients are held only for the update."""
        sketch = SignHash(needs.sketch, self.passes.seed)
        q = adam.frozen({name: p.shape for name, p in self.passes.measured.items()}, "opus2")
        request = GradientRequest(sketch=sketch, transform=lambda name, block: q[name](block), keep=self.keep)
        with timer.part("candidate_gradients"):
            found = self.pass_over(batch, request, step).first(count)
            if self.keep:
                found.kept = self._of_all_processes(found.kept, (count,))
        with timer.part("score_arithmetic"):
            found.values = {name: self.ranks.gather(value) for name, value in found.values.items()}
            rows = found.values.pop("sketch")
            found.pairs["gram"] = (rows.double() @ rows.double().mT).cpu()
            if needs.target:
                goal = rows.new_zeros(1, needs.sketch)
                for name, gradient in target.items():
                    sketch.add(name, gradient[None], goal)
                found.values["alignment"] = rows.double() @ goal[0].double()
                found.scalars["target_square"] = float(sum(t.double().square().sum() for t in target.values()))
            found.scalars["learning_rate"] = adam.rate
            found.values = {name: value.cpu() for name, value in found.values.items()}
        return found

    def _from_blocks(
        self, found: CandidateMeasurements, needs: GradientNeeds, target: Blocks, adam: OptimizerState
    ) -> None:
        """Compute all requested measurements from kept per-sample gradients, and add them to `found`."""
        metrics = {needs.metric, needs.gram_metric or needs.metric} - {"plain"}
        shapes = {name: p.shape for name, p in self.passes.measured.items()}
        roots = {metric: adam.frozen(shapes, metric) for metric in metrics & FROZEN}
        metrics -= FROZEN
        if metrics:
            moments = self._moments(found.kept, target, adam)
            roots |= {metric: adam.roots(moments, metric, kept=needs.kept) for metric in metrics}
        root, of_gram = roots.get(needs.metric), roots.get(needs.gram_metric or needs.metric)
        if needs.gram or needs.norms:
            parts = [squares_of({n: b if of_gram is None else of_gram[n](b)}) for n, b in found.kept.items()]
            found.values["grad_norm"] = torch.stack(parts).sum(0).sqrt()
        if needs.gram:
            blocks = ((n, self.ranks.gather(block)) for n, block in found.kept.items())
            found.pairs["gram"] = gram_of((n, block if of_gram is None else of_gram[n](block)) for n, block in blocks)
        if needs.target:
            h = {n: t if root is None else root[n](root[n](t)) for n, t in target.items()}
            found.values["alignment"] = dots_of({name: block for name, block in found.kept.items() if name in h}, h)
            found.scalars["target_square"] = float(sum((t.double() * h[n].double()).sum() for n, t in target.items()))

    def _moments(self, kept: Blocks, target: Blocks, adam: OptimizerState) -> dict[str, Moments]:
        """Return the moments over the candidates of all processes, without those whose gradients are not finite.

        They are 0 for parameters that only the target uses.
        """
        unused = {name: t.new_zeros(1, *t.shape) for name, t in target.items() if name not in kept}
        finite = torch.stack([block.flatten(1).isfinite().all(1) for block in kept.values()]).all(0)
        count = self.ranks.sum(finite.sum().float())
        found = {}
        for name, block in kept.items():
            own = block[finite]
            cross = self.ranks.sum(cross_of(own)) / count if adam.needs_cross(name) else None
            mean, square = self.ranks.sum(own.sum(0)) / count, self.ranks.sum(own.square().sum(0)) / count
            found[name] = Moments(float(count), mean, square, cross)
        for name, zero in unused.items():
            cross = cross_of(zero) if adam.needs_cross(name) else None
            found[name] = Moments(float(count), zero[0], zero[0], cross)
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
        """Run one forward and backward pass over texts; see `GradientPasses.run`."""
        return self.passes.run(self._on_device(batch), request, self.micro_batch, step)

    def target_gradient(self, step: int) -> Blocks:
        """Return g_T, the mean gradient of the mean losses of a target batch, for the measured parameters."""
        assert self.target is not None
        batch = self._on_device(self.target.batch(step, rank=self.ranks.rank, ranks=self.ranks.size))
        found = self.passes.sum_of_gradients(batch, 1 / self.target.size, self.micro_batch, -step)
        return {name: self.ranks.sum(block) for name, block in self._of_all_processes(found, ()).items()}

    def _of_all_processes(self, found: Blocks, leading: tuple[int, ...]) -> Blocks:
        """Return the blocks with zeros for the parameters that only other processes used, so that all have the same."""
        if self.ranks.size == 1:
            return found
        measured = self.passes.measured
        device = next(iter(measured.values())).device
        used = self.ranks.sum(torch.tensor([float(name in found) for name in measured], device=device)).tolist()
        return {
            name: found[name] if name in found else torch.zeros(*leading, *p.shape, device=device)
            for (name, p), count in zip(measured.items(), used, strict=True)
            if count
        }

    def _on_device(self, batch: Batch) -> Batch:
        """Return the batch on the model's device."""
        device = self.scoring_model.head.weight.device
        return {key: value.to(device, non_blocking=True) for key, value in batch.items()}


def _too_large(batch: Batch) -> TrainingError:
    count, length = batch["input_ids"].shape
    return TrainingError(
        f"Out of memory in a backward pass over {count} candidates of up to {length} tokens. Lower "
        "--score-batch-size, --candidates or --max-length, or give --gradient-checkpointing or --update rerun."
    )
