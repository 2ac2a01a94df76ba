"""Options of the selective trainers: the selector, the number of candidates, and the store for the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..store import Store
from .kept_row import BatchesOf
from .requirements import Coverage


@dataclass(frozen=True)
class Selective:
    """Options of a selective trainer.

    The Trainer's batch sizes keep their meaning, the number of samples trained on: k = `per_device_train_batch_size` ×
    `gradient_accumulation_steps` × processes. The new number is `candidates`, from which these k are selected.

        Selective("uds", candidates=64, store="store", name="my-run")

    Attributes:
        selector: name of the selector, built in or from an installed package.
        candidates: B, number of candidates in an optimizer step, over all processes; k of them are kept. An epoch is
            one pass over the data as candidates, so it has B/k times fewer steps than without selection. None: k; only
            for the selector full.
        args: arguments of the selector.
        store: the store for the ledger, a `Store` or its folder; None: no ledger is written.
        name: name of the run in the store; required with `store`.
        pool: name of the pool in the store that `curate ingest` made of the training data. The data may be all of its
            conversations or some of them, in any order. SQL, reports, curricula and exports then treat the run as one
            over this pool.
        max_length: maximum number of tokens of a text; None: `max_length` of the trainer's arguments, if they have it.
        target: tokenised samples (`input_ids`, `labels`) of the task to become good at; required by selectors that use
            a target.
        target_batch_size: number of target samples in a step.
        features: stored features of the training data by name, one number per row in its order, for selectors that
            need some (`reference_loss` for rho).
        coverage: for gradient selectors. `all` measures all trainable weights, `linear` only those of linear layers and
            experts.
        score_batch_tokens: number of padded tokens to score at once; None: as many as the device's memory holds.
        batching: `padded`: the trainer's collator pads the kept samples, and keeping all is the trainer's own training
            bit for bit. `packed`: the kept samples of a micro-batch share one row without padding, with the same
            gradient up to rounding; an error if the model cannot keep them apart.
    """

    selector: str
    candidates: int | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    store: Store | str | Path | None = None
    name: str | None = None
    pool: str | None = None
    max_length: int | None = None
    target: Sequence[Mapping[str, Any]] | None = None
    target_batch_size: int = 16
    features: Mapping[str, Sequence[float]] = field(default_factory=dict)
    coverage: Coverage = "all"
    score_batch_tokens: int | None = None
    batching: BatchesOf = "padded"

    def ratio(self, kept: int) -> int:
        """Return the number of candidates per kept sample.

        Args:
            kept: number of samples that a step trains on, over all processes.

        Raises:
            ConfigError: `candidates` is missing, is not a multiple of `kept`, or does not go with the selector full.
        """
        if self.selector == "full" and self.candidates is None:
            return 1
        if self.candidates is None:
            raise ConfigError(
                f"Selective('{self.selector}') needs candidates: the number of samples to select {kept} from."
            )
        if self.candidates % kept or self.candidates < kept:
            raise ConfigError(
                f"candidates={self.candidates} is not a multiple of the {kept} samples that a step trains on "
                "(per_device_train_batch_size x gradient_accumulation_steps x processes)."
            )
        if self.selector == "full" and self.candidates != kept:
            raise ConfigError(
                f"Selector full keeps all candidates. Omit candidates, or train on {self.candidates} samples per step."
            )
        return self.candidates // kept
