"""Selection in a hand-written training loop: candidates in, kept samples out, and every score in the ledger.

The user's loop keeps its model, optimizer, data loader and devices. Selection is one line between the data loader and
the forward pass:

    with BatchSelector("uds", model, keep=8, store="store", name="my-run") as selector:
        for batch in loader:                            # 64 candidates
            kept = selector.choose(batch)               # 8 kept samples
            model(**kept).loss.backward()
            optimizer.step(); optimizer.zero_grad()

It uses the same `BatchSelection` as `curate train`, so scores, memory and ledger are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from ..formats import WEIGHT
from ..lm.model.row_proof import with_packing
from ..lm.model.scoring_batch import default_score_tokens
from ..lm.model.scoring_model import verify_head
from ..lm.tokens.batch import without_tokens
from ..lm.tokens.token_table import TokenTable
from ..selectors import RunInfo, check_args, make_selector
from ..signals import ScoreBudget
from ..store import Store
from ..training.process_group import ProcessGroup
from ..training.recorder import Counters, StepRecorder
from ..training.step import BatchSelection, Selected, SelectionPlan, StepCandidates
from .batch import table_of, take_rows
from .kept_batch import Kept
from .requirements import Coverage, Gradients, joined
from .row_weights import weights_in
from .script_run import ExternalRun
from .unwrap import scoring_model_of


class BatchSelector:
    """Selects the samples to train on from each batch of a loop.

    Each process selects among its own candidates. Scoring is a forward pass in evaluation mode. Gradient selectors make
    a backward pass of their own and restore `.grad`. Use the selector in a `with` block, or call `close` at the end:
    this completes the ledger and makes the run an artifact of the store.

    Args:
        selector: name of the selector, built in or from an installed package.
        model: a causal language model of transformers, or a PEFT model of one, on its device. It may be wrapped by DDP,
            Fabric or torch.compile. Sharded weights are an error.
        keep: k, number of samples that are kept of a batch, at least 1.
        store: the store for the ledger, a `Store` or its folder; None: no ledger is written.
        name: name of the run in the store; required with `store`.
        pool: name of the pool in the store that `curate ingest` made of the data. `choose` then needs `ids`.
        args: arguments of the selector.
        optimizer: the optimizer, or a function that returns it; required by gradient selectors. `filter_weight` needs
            one whose metric is known, such as AdamW.
        target: tokenised samples (`input_ids`, `labels`) of the task to become good at; required by selectors that use
            a target.
        target_batch_size: number of target samples in a step.
        max_length: T, maximum number of tokens of a text. Sketches depend on it.
        seed: seed of the selector's random numbers.
        total_steps: number of steps of the run; 0 if it is not known.
        autocast: precision for hidden states, the same as in the loop's own forward pass; None: that of the weights.
        weighted: True if the loop trains on `kept.loss(logits)`; required by selectors that weight the kept samples.
        coverage: for gradient selectors. `all` measures all trainable weights, `linear` only those of linear layers and
            experts.
        max_grad_norm: norm to which the loop clips the gradient of a step; 0 if it does not clip. `filter_weight` reads
            it.
        score_batch_tokens: number of padded tokens to score at once; None: as many as the device's memory holds.

    Attributes:
        step: number of selections made so far.

    Raises:
        ConfigError: the selector or an argument is unknown, or something that the selector needs was not given.
        ModelError: signals cannot be measured on this model.
    """

    def __init__(
        self,
        selector: str,
        model: nn.Module,
        *,
        keep: int,
        store: Store | str | Path | None = None,
        name: str | None = None,
        pool: str | None = None,
        args: Mapping[str, Any] | None = None,
        optimizer: torch.optim.Optimizer | Callable[[], Any] | None = None,
        target: Sequence[Mapping[str, Any]] | None = None,
        target_batch_size: int = 16,
        max_length: int = 512,
        seed: int = 0,
        total_steps: int = 0,
        autocast: torch.dtype | None = None,
        weighted: bool = False,
        coverage: Coverage = "all",
        max_grad_norm: float = 0.0,
        score_batch_tokens: int | None = None,
    ) -> None:
        check_args(selector, args or {})
        if keep < 1:
            raise ConfigError(f"keep must be at least 1, not {keep}.")
        if store is not None and name is None:
            raise ConfigError("A run in a store needs a name. Give one: name='my-run'.")
        if store is None and pool is not None:
            raise ConfigError(
                f"pool='{pool}' is a name in a store, but no store was given. Give it, too: store='store'."
            )
        self.keep, self.max_length, self.weighted = keep, max_length, weighted
        self.step = 0
        self._begun = False
        values = {"name": name, "selector": selector, "selector_args": dict(args or {}), "keep": keep}
        values |= {"max_length": max_length, "seed": seed, "pool": pool}
        self.run = None if store is None else ExternalRun(store, values)
        scoring_model = scoring_model_of(model, autocast)
        device = scoring_model.head.weight.device
        info = RunInfo(scoring_model.head.vocab_size, max_length, seed, keep, total_steps)
        built = make_selector(selector, args or {}, info).to(device)
        if built.signals or built.gradients is not None:
            scoring_model = with_packing(verify_head(scoring_model), max_length)
        self.selection = BatchSelection(
            built,
            scoring_model,
            recorder=StepRecorder(self.run or _NoLedger()),
            ranks=ProcessGroup(per_rank=True),
            budget=ScoreBudget(
                score_batch_tokens or default_score_tokens(scoring_model.model, device, max_length=max_length)
            ),
            engine=Gradients(optimizer, target, target_batch_size, coverage, seed, max_grad_norm).engine(
                selector, built, scoring_model
            ),
        )

    def choose(
        self,
        batch: Mapping[str, Any],
        *,
        rows: Sequence[int] | None = None,
        ids: Sequence[str] | None = None,
        features: Mapping[str, Sequence[float]] | None = None,
        candidates: int | None = None,
    ) -> Kept:
        """Select the samples of a batch to train on. Each call is one step in the ledger.

        Args:
            batch: `input_ids` and `labels` (B, L), and `attention_mask` if there is padding, on any device. Other
                entries with one value per text are cut to the kept texts, too. An entry `weight` (B,) has the weights
                of the texts in `kept.loss`: 2 means the same as the text twice.
            rows: (B,) positions of the texts in your data; None: numbers derived from the ids.
            ids: (B,) sample ids for the ledger; None: hashes of the tokens. `curate.samples.Sample.sample_id` is the id
                that `curate ingest` would give.
            features: stored features of the texts by name, (B,) numbers each, for selectors that need some.
            candidates: number of texts in a full batch. A smaller batch then keeps its share of k; None: every batch
                keeps k.

        Returns:
            At most k texts, in the order of the batch.

        Raises:
            ConfigError: a feature is missing, a text is longer than `max_length`, or the selector or the batch gives
                weights and `weighted` is False.
            DataError: the batch is not of this form, or a sample is not in the pool.
            TrainingError: no candidate has a finite loss.
        """
        table = table_of(batch, self.max_length, rows, ids)
        table.weights = weights_in(batch)
        batch = {key: value for key, value in batch.items() if key != WEIGHT}
        selected = self.pick(table, features or {}, candidates)
        kept, weights = selected.kept, selected.weights
        if weights is not None and not self.weighted:
            raise ConfigError(
                f"{'The batch' if table.weights is not None else 'This selector'} weights the samples that it keeps. "
                "Train on kept.loss(logits) instead of the model's own loss, and give weighted=True."
            )
        device = batch["input_ids"].device
        texts = take_rows(batch, kept)
        if selected.token_masks is not None:
            texts = without_tokens(texts, selected.token_masks)
        return Kept(texts, kept, None if weights is None else weights.to(device))

    def pick(self, table: TokenTable, features: Mapping[str, Sequence[float]], candidates: int | None) -> Selected:
        """Select texts of a token table and record them as the next step.

        Args:
            table: the candidates.
            features: stored features by name, one number per candidate each.
            candidates: see `choose`.

        Returns:
            The kept candidates, as indices into the table, with their loss weights and token masks.
        """
        if not self._begun:
            self._begun = True
            if self.run is not None:
                self.run.begin(self.step)
        if self.run is not None and self.run.positions is not None:
            table.positions = self.run.positions.of(table.ids)
        count = len(table)
        full = count if candidates is None else candidates
        plan = SelectionPlan(candidates=full, keep=min(self.keep, full))
        reference = joined(self.selection.selector.features, features, count)
        self.step += 1
        return self.selection.select(StepCandidates(self.step, table, range(count), plan, reference))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the selection as tensors, numbers and strings, for your checkpoint.

        This commits the ledger up to this step. A run that resumes from the checkpoint drops later steps from the
        ledger and writes them again.
        """
        self.settle()
        return {
            "step": self.step,
            "attempt": self.attempt,
            "tally": asdict(self.selection.recorder.counters),
            "score_tokens": self.selection.budget.tokens,
            "selector": {name: value.clone() for name, value in self.selection.selector.state_dict().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state that `state_dict` returned.

        Raises:
            ConfigError: `choose` was called before.
        """
        if self._begun:
            raise ConfigError(
                "Call load_state_dict before the first choose: this run has already written to the ledger."
            )
        self.selection.selector.load_state_dict(state["selector"])
        self.selection.recorder.counters = Counters(**state["tally"])
        self.selection.budget.tokens = state["score_tokens"]
        self.resume_at(state["step"], state["attempt"])

    @property
    def attempt(self) -> int | None:
        """Number of this run among those with the same name and options; None before it began, or without a store."""
        return None if self.run is None else self.run.attempt

    def settle(self) -> None:
        """Commit the ledger up to this step; call it when a checkpoint has been written."""
        if self.run is not None:
            self.run.commit(self.step)

    def resume_at(self, step: int, attempt: int | None) -> None:
        """Continue after `step` selections, as attempt `attempt` of the run."""
        self.step = step
        if self.run is not None:
            self.run.attempt = attempt

    def close(self, metrics: Sequence[tuple[int, str, float]] = ()) -> None:
        """Finish the run: complete its ledger and make it an artifact of the store under its name.

        Args:
            metrics: values that the loop has logged, (step, name, value) each, for the table `metrics`.
        """
        if self.run is None:
            return
        counters = self.selection.recorder.counters
        own = [counters.samples_kept, counters.samples_seen, counters.tokens_kept, len(counters.bad)]
        kept, candidates, tokens, bad = ProcessGroup().sum(torch.tensor(own, device=self.selection.device)).tolist()
        summary = {
            "steps": self.step,
            "selector": self.run.values["selector"],
            "kept": f"{kept} of {candidates} candidates",
            "tokens trained on": tokens,
            "not finite": bad,
        }
        self.run.end(kept, summary, metrics, getattr(self.selection.selector, "memory", None))

    def fail(self, error: BaseException) -> None:
        """Write the ledger up to this step and leave the run unfinished, after an error has stopped the loop."""
        if self.run is not None:
            self.run.fail(error)

    def __enter__(self) -> BatchSelector:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Finish the run; after an error, leave it unfinished, so that it can resume from a checkpoint."""
        if error is None:
            self.close()
        else:
            self.fail(error)


class _NoLedger:
    """Discards the rows of a run that is not in a store."""

    def append(self, step: int, columns: Mapping[str, Any]) -> None:
        """Discard the candidates of a step."""
