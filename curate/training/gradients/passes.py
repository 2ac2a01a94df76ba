"""Forward and backward passes over texts that measure each text's own gradient.

Gradients of a whole micro-batch are captured in one backward pass where every measured parameter has a site
(`numerics.gradients`) and the sites are proven to divide the gradients as autograd does (`proof`). Otherwise the texts
pass one at a time, and their gradients are what autograd leaves in the parameters: exact for every model, but slower.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ...errors import ModelError
from ...lm.model.chunked_loss import mean_losses
from ...lm.model.load import base_of
from ...lm.model.scoring_model import ScoringModel
from ...lm.tokens.batch import Batch, take_rows
from ...log import LOGGER
from ...numerics.gradients import (
    Blocks,
    CaptureError,
    Dense,
    GradientRequest,
    GradientResult,
    Recorder,
    capture,
    find_sites,
    gram_of,
    restored_gradients,
)
from ...numerics.losses import IGNORE, next_token_labels
from ..process_group import ProcessGroup
from .proof import difference

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


class GradientPasses:
    """Passes over texts at a model's current weights.

    Args:
        scoring_model: the model.
        coverage: `all` measures every trained parameter; `linear` those that only linear layers and experts use.
        seed: seed of dropout.

    Attributes:
        measured: names of the parameters that are measured, in the model's order.
        left_out: names of the other trained parameters: none with `all`.
        one_by_one: True if the texts pass one at a time.

    Raises:
        ModelError: no parameter is trained, or none that is to be measured.
    """

    def __init__(self, scoring_model: ScoringModel, coverage: str = "all", seed: int = 0) -> None:
        self.scoring_model = scoring_model
        self.seed = seed
        sites = find_sites(scoring_model.model)
        trained = {name: p for name, p in scoring_model.model.named_parameters() if p.requires_grad}
        self.measured = {name: p for name, p in trained.items() if coverage == "all" or name in sites.linear}
        self.left_out = [name for name in trained if name not in self.measured]
        if not self.measured:
            what = "No parameter" if not trained else "No linear layer"
            raise ModelError(f"{what} of the model is trained, so no gradients exist. Train a LoRA adapter.")
        if self.left_out:
            LOGGER.info(f"Gradients leave out trained weights outside linear layers: {by_pattern(self.left_out)}.")
        self.sites = sites if coverage == "all" else sites.only(sites.linear)
        self.one_by_one = False
        self._compared = False
        head = {id(p) for p in scoring_model.projection.parameters()}
        self._measures_head = any(id(p) in head for p in self.measured.values())
        self._forms_weights = True
        """True while passes form the parameters' own gradients, too: until a pass has shown that none is missed."""
        self._reentrant = False
        if coverage == "all" and sites.outside:
            self._give_up(f"{_some(sites.outside)} are used outside the modules that own them, or among others")

    def _give_up(self, reason: str) -> None:
        """Take the texts one at a time from now on."""
        self.one_by_one = True
        LOGGER.warning(
            f"Gradients are measured one text at a time: {reason}. The numbers are exact, but a pass over the "
            "candidates takes about as long as a pass over each of them."
        )

    def check(self, batch: Batch, step: int) -> None:
        """Compare captured gradients with autograd's for two texts of a batch, once; a difference ends capturing.

        Args:
            batch: at least two texts, else nothing is compared; on the model's device.
            step: step whose dropout is used.
        """
        if self._compared or self.one_by_one or len(batch["input_ids"]) < 2:
            return
        self._compared = True
        lengths = batch["attention_mask"].sum(1)
        rows = torch.stack([lengths.argmin(), lengths.argmax()])
        if rows[0] == rows[1]:
            rows = torch.arange(2, device=rows.device)
        pair = take_rows(batch, rows)
        with restored_gradients(self.scoring_model.model), torch.compiler.set_stance("force_eager"):
            reason = difference(self, pair, step)
            if reason is not None and "reentrant" in reason:  # these checkpoints need the whole backward pass
                self._reentrant = True
                reason = difference(self, pair, step)
        if self.scoring_model.sharded:  # all processes must call the model equally often
            failed = ProcessGroup().sum(torch.tensor(float(reason is not None), device=rows.device))
            reason = "another process found a difference" if failed and reason is None else reason
        if reason is not None:
            self._give_up(reason)

    def run(self, batch: Batch, request: GradientRequest, micro_batch: int, step: int = 0) -> CandidateMeasurements:
        """Run one forward and backward pass over texts, shortest first, in micro-batches.

        The results are in the order of the texts. The `.grad` of the parameters and the random state do not change. A
        Gram matrix needs all texts in one micro-batch, or their gradients are kept until it is formed.

        Args:
            batch: texts, on the model's device.
            request: the quantities to measure.
            micro_batch: number of texts in a pass.
            step: step on which dropout depends.
        """
        self.check(batch, step)
        if not self.one_by_one:
            try:
                found = self._run(batch, request, len(batch["input_ids"]) if request.gram else micro_batch, step)
            except CaptureError as error:
                self._give_up(str(error))
            else:
                self._forms_weights = self._reentrant or not self._compared
                return found
        wanted = replace(request, gram=False, keep=True) if request.gram else request
        found = self._run(batch, wanted, 1, step)
        if request.gram:
            transform = request.transform or (lambda name, block: block)
            found.pairs["gram"] = gram_of((name, transform(name, block)) for name, block in found.kept.items()).float()
            found.kept = found.kept if request.keep else {}
        return found

    def _run(self, batch: Batch, request: GradientRequest, micro_batch: int, step: int) -> CandidateMeasurements:
        order = torch.argsort(batch["attention_mask"].sum(1), stable=True)
        losses, results = [], []
        with restored_gradients(self.scoring_model.model), self.seeded_dropout(step):
            for rows in torch.split(order, micro_batch):
                self.clear()
                texts = take_rows(batch, rows)
                if self.one_by_one:
                    loss, result = self._single(texts, request)
                else:
                    loss, result = self.captured(texts, request, weights=self._forms_weights)
                losses.append(loss)
                results.append(result)
        return _joined(losses, results, order.argsort(), self.measured)

    def captured(
        self, texts: Batch, request: GradientRequest, *, weights: bool = False
    ) -> tuple[Tensor, GradientResult]:
        """Return the losses (n,) and the requested quantities of texts, from one backward pass.

        Args:
            texts: the texts, on the model's device.
            request: the quantities to measure.
            weights: also form the parameters' own gradients, see `Recorder.backward`.

        Raises:
            CaptureError: a measured parameter has a gradient that no site captured.
        """
        recorder = Recorder(request, len(texts["input_ids"]), texts["input_ids"].device)
        with capture(self.sites, recorder):
            loss = self.losses(texts)
            recorder.backward(loss.sum(), weights=weights or self._reentrant)
        missed = [name for name, p in self.measured.items() if p.grad is not None and name not in recorder.seen]
        if missed:
            raise CaptureError(f"{_some(missed)} are used outside the modules that own them")
        return loss.detach(), recorder.finish()

    def _single(self, texts: Batch, request: GradientRequest) -> tuple[Tensor, GradientResult]:
        """Return the loss (1,) and the requested quantities of one text."""
        recorder = Recorder(request, 1, texts["input_ids"].device)
        loss = self.losses(texts)
        torch.autograd.backward(loss.sum())
        gradients = {name: p.grad for name, p in self.measured.items() if p.grad is not None}
        recorder.expect(list(gradients))
        for name, gradient in gradients.items():
            recorder.take(name, Dense(gradient[None]))
        return loss.detach(), recorder.finish()

    def losses(self, batch: Batch) -> Tensor:
        """Return ℓ_i of each text. Logits are formed in chunks, and only where a token is predicted.

        A head that is measured must see samples as rows, so all its logits are formed at once.

        Raises:
            ModelError: the model does not take these texts in training, or no trained weight changes its states.
        """
        name = type(base_of(self.scoring_model.model)).__name__
        try:
            hidden = self.scoring_model.hidden(batch["input_ids"], batch["attention_mask"])
        except ValueError as error:  # a model's own check: Reformer takes multiples of a chunk
            raise ModelError(f"{name} cannot be trained on these texts: {' '.join(str(error).split())}") from None
        if not hidden.requires_grad and self.scoring_model.head.frozen:
            raise ModelError(
                f"No gradient reaches the trained weights of {name}: its layers cut it off below weights that are not "
                "trained. Train all weights with --full, or select without gradients."
            )
        if not self._measures_head:
            cpu_budget = CPU_ROWS * 4 * self.scoring_model.head.vocab_size
            budget = LOGITS_BUDGET if hidden.is_cuda else min(LOGITS_BUDGET, cpu_budget)
            return mean_losses(self.scoring_model, hidden, batch["labels"], budget, frozen_head=True)
        targets = next_token_labels(batch["labels"])
        losses = nn.functional.cross_entropy(self.scoring_model.project(hidden).mT, targets, reduction="none")
        return losses.sum(1) / (targets != IGNORE).sum(1).clamp_min(1)

    def sum_of_gradients(self, batches: Sequence[Batch], scale: float, step: int) -> Blocks:
        """Return the sum of the gradients of all texts' losses times `scale`, of the measured parameters."""
        with restored_gradients(self.scoring_model.model), self.seeded_dropout(step):
            for batch in batches:
                torch.autograd.backward(self.losses(batch).sum() * scale)
            return {name: p.grad.float() for name, p in self.measured.items() if p.grad is not None}

    def clear(self) -> None:
        """Clear the `.grad` of all parameters."""
        for p in self.scoring_model.model.parameters():
            p.grad = None

    @contextmanager
    def seeded_dropout(self, step: int) -> Iterator[None]:
        """Seed dropout by (seed, step). A resumed Trainer restores its random state only after the first selection."""
        device = self.scoring_model.head.weight.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed * 1_000_003 + step)
            yield


def _joined(
    losses: Sequence[Tensor], results: Sequence[GradientResult], back: Tensor, order: Iterable[str]
) -> CandidateMeasurements:
    """Join the results of micro-batches in the order of the texts."""
    out = CandidateMeasurements({"loss": torch.cat(list(losses))[back]})
    used = {name for result in results for name in result.kept}
    for name in order:
        if name in used:
            like = next(result.kept[name] for result in results if name in result.kept)
            blocks = [
                result.kept[name] if name in result.kept else like.new_zeros(len(loss), *like.shape[1:])
                for loss, result in zip(losses, results, strict=True)
            ]
            out.kept[name] = (blocks[0] if len(blocks) == 1 else torch.cat(blocks))[back]
            for result in results:
                result.kept.pop(name, None)
    fields: dict[str, Callable[[GradientResult], Tensor | None]] = {
        "alignment": lambda result: result.dots,
        "squares": lambda result: result.squares,
        "sketch": lambda result: result.sketch,
    }
    for name, of in fields.items():
        parts = [part for result in results if (part := of(result)) is not None]
        if parts:
            out.values[name] = torch.cat(parts)[back]
    if results[0].gram is not None:
        out.pairs["gram"] = results[0].gram[back][:, back]
    if "squares" in out.values:
        out.values["grad_norm"] = out.values.pop("squares").sqrt()
    return out


def by_pattern(names: Sequence[str]) -> str:
    """Return all names in one line, with * for the numbers of layers and the count where there are several."""
    counts = Counter(".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names)
    return ", ".join(pattern if count == 1 else f"{pattern} ({count})" for pattern, count in counts.items())


def _some(names: Sequence[str]) -> str:
    """Return the number of parameters and the first names."""
    return f"{len(names)} parameter{'s' * (len(names) > 1)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
