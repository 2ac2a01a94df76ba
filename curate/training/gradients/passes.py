"""Forward and backward passes over texts that measure each text's own gradient.

Gradients of a whole micro-batch are captured in one backward pass where every measured parameter has a site
(`numerics.gradients`) and the sites are proven to divide the gradients as autograd does (`proof`). Otherwise the texts
pass one at a time, and their gradients are what autograd leaves in the parameters: exact for every model, but slower.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from ...errors import ModelError
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
from ..batching import ROUTES, Batching
from ..process_group import ProcessGroup
from .losses import losses_of
from .measurements import CandidateMeasurements, joined
from .proof import difference


class GradientPasses:
    """Passes over texts at a model's current weights.

    Args:
        scoring_model: the model.
        coverage: `all` measures every trained parameter; `linear` those that only linear layers and experts use.
        seed: seed of dropout.
        batching: how texts reach the model; None: padded.

    Attributes:
        measured: names of the parameters that are measured, in the model's order.
        left_out: names of the other trained parameters: none with `all`.
        one_by_one: True if the texts pass one at a time.
        batching: how texts reach the model now.
        packer: puts the texts of a pass in one row; None: they are padded.

    Raises:
        ModelError: no parameter is trained, or none that is to be measured.
    """

    def __init__(
        self, scoring_model: ScoringModel, coverage: str = "all", seed: int = 0, batching: Batching | None = None
    ) -> None:
        self.scoring_model = scoring_model
        self.seed = seed
        self.batching = batching or Batching()
        self.packer = self.batching.packer_of_gradients()
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
        self.one_by_one, self.packer = True, None
        LOGGER.warning(
            f"Gradients are measured one text at a time: {reason}. The numbers are exact, but a pass over the "
            "candidates takes about as long as a pass over each of them."
        )

    def check(self, batch: Batch, step: int) -> None:
        """Compare captured gradients with autograd's for two texts of a batch, once; a difference ends capturing.

        A difference in a packed row ends packing only: the texts are then padded and compared once more.

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
            reason = self._difference_in_a_row(pair, step) if self.packer else self._difference(pair, step)
            if reason is not None and self.packer is not None:
                self._sort_instead(reason)
                reason = self._difference(pair, step)
        if self.scoring_model.sharded:  # all processes must call the model equally often
            failed = ProcessGroup().sum(torch.tensor(float(reason is not None), device=rows.device))
            reason = "another process found a difference" if failed and reason is None else reason
        if reason is not None:
            self._give_up(reason)

    def _difference(self, pair: Batch, step: int) -> str | None:
        """Return where captured gradients of two texts differ from autograd's; None: nowhere."""
        reason = difference(self, pair, step)
        if reason is not None and "reentrant" in reason:  # these checkpoints need the whole backward pass
            self._reentrant = True
            reason = difference(self, pair, step)
        return reason

    def _difference_in_a_row(self, pair: Batch, step: int) -> str | None:
        """Return the same for two texts in one row; a model that cannot take them is one more reason."""
        try:
            with self._row_held():
                return self._difference(pair, step)
        except torch.OutOfMemoryError:
            raise
        except (ModelError, RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            return f"the model does not take them ({type(error).__name__}: {str(error).splitlines()[0]})"

    def _sort_instead(self, reason: str) -> None:
        """Sort texts by length from now on, because one row does not keep their gradients apart."""
        self.packer, self.batching, self._reentrant = None, Batching("sorted", self.batching.tokens), False
        LOGGER.info(f"Gradients of candidates are measured in batches {ROUTES['sorted']}: in one row {reason}.")

    @contextmanager
    def _row_held(self) -> Iterator[None]:
        """Keep the attention of packed rows for the backward passes in this block."""
        with self.packer.held() if self.packer else nullcontext():
            yield

    def _groups(self, batch: Batch, micro_batch: int) -> list[Tensor]:
        """Return the texts of each pass: padded ones with the shortest first, others as `Batching.rows` has them."""
        lengths = batch["attention_mask"].sum(1)
        if self.batching.route == "padded" or micro_batch == 1:
            return list(torch.split(torch.argsort(lengths, stable=True), micro_batch))
        return [rows.to(lengths.device) for rows in self.batching.rows(lengths.cpu(), micro_batch)]

    def run(self, batch: Batch, request: GradientRequest, micro_batch: int, step: int = 0) -> CandidateMeasurements:
        """Run one forward and backward pass over texts, in micro-batches of similar length.

        The results are in the order of the texts. The `.grad` of the parameters and the random state do not change. A
        Gram matrix needs all texts in one micro-batch, or their gradients are kept until it is formed.

        Args:
            batch: texts, on the model's device.
            request: the quantities to measure.
            micro_batch: maximum number of texts in a pass.
            step: step on which dropout depends.
        """
        self.check(batch, step)
        if not self.one_by_one:
            try:
                found = self._run(batch, request, None if request.gram else micro_batch, step)
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

    def _run(self, batch: Batch, request: GradientRequest, micro_batch: int | None, step: int) -> CandidateMeasurements:
        """Run passes over micro-batches; None: over all texts at once, in the order of their lengths."""
        groups = [torch.argsort(batch["attention_mask"].sum(1), stable=True)]
        if micro_batch is not None:
            groups = self._groups(batch, micro_batch)
        losses, results = [], []
        with restored_gradients(self.scoring_model.model), self.seeded_dropout(step), self._row_held():
            for rows in groups:
                self.clear()
                texts = take_rows(batch, rows)
                if self.one_by_one:
                    loss, result = self._single(texts, request)
                else:
                    loss, result = self.captured(texts, request, weights=self._forms_weights)
                losses.append(loss)
                results.append(result)
        return joined(losses, results, torch.cat(groups).argsort(), self.measured)

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
        lengths = texts["attention_mask"].sum(1).tolist() if self.packer else None
        recorder = Recorder(request, len(texts["input_ids"]), texts["input_ids"].device, lengths)
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
        """Return ℓ_i of each text, differentiable; see `losses_of`."""
        return losses_of(self.scoring_model, batch, self.packer, measures_head=self._measures_head)

    def sum_of_gradients(self, batch: Batch, scale: float, micro_batch: int, step: int) -> Blocks:
        """Return the sum of the gradients of all texts' losses times `scale`, of the measured parameters.

        Args:
            batch: the texts, on the model's device.
            scale: factor of each loss.
            micro_batch: maximum number of texts in a pass.
            step: step on which dropout depends.
        """
        order = torch.arange(len(batch["input_ids"]))
        padded = self.batching.route == "padded"
        groups = torch.split(order, micro_batch) if padded else self._groups(batch, micro_batch)
        with restored_gradients(self.scoring_model.model), self.seeded_dropout(step), self._row_held():
            for rows in groups:
                torch.autograd.backward(self.losses(take_rows(batch, rows)).sum() * scale)
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


def by_pattern(names: Sequence[str]) -> str:
    """Return all names in one line, with * for the numbers of layers and the count where there are several."""
    counts = Counter(".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names)
    return ", ".join(pattern if count == 1 else f"{pattern} ({count})" for pattern, count in counts.items())


def _some(names: Sequence[str]) -> str:
    """Return the number of parameters and the first names."""
    return f"{len(names)} parameter{'s' * (len(names) > 1)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
