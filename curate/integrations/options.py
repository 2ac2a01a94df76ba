"""What a trainer is told of selection: which selector, out of how many candidates, written down where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..store import Store
from .requirements import Coverage


@dataclass(frozen=True)
class Selective:
    """How a trainer selects.

    A trainer's batch sizes go on meaning what is trained on: k = `per_device_train_batch_size` times
    `gradient_accumulation_steps` times processes. What is new is how many are looked at for it.

        Selective("uds", candidates=64, store="store", name="my-run")

    Attributes:
        selector: its name: ours, or one that an installed package brings.
        candidates: B of an optimizer step, over all processes, of which k are kept. An epoch is one pass over the data
            as candidates, so it has B/k times fewer steps than without. None: k, for the selector full.
        args: the selector's own arguments.
        store: where the ledger goes; None: nowhere.
        name: of the run there.
        pool: the training data as `curate ingest` has it in the store: its conversations, all or some, in any order.
            The run is then one over this pool, for SQL, reports, curricula and exports.
        max_length: tokens of the longest text; None: the trainer's, where it has such a setting.
        target: tokenised samples (`input_ids`, `labels`) of what to be good at, for selectors that want a target.
        target_batch_size: how many of them each step looks at.
        features: facts of the training data by name, n numbers each in its order, for selectors that join some
            (`reference_loss` for rho).
        coverage: of selectors by gradients: `all`: weights that train outside linear layers are an error; `linear`:
            they are left out.
        score_batch_tokens: padded tokens scored at once; None: what the device holds.
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

    def ratio(self, kept: int) -> int:
        """Candidates for each that is kept, where a step trains on `kept`."""
        if self.selector == "full" and self.candidates is None:
            return 1
        if self.candidates is None:
            raise ConfigError(f"Selective('{self.selector}') wants candidates: how many to choose {kept} from.")
        if self.candidates % kept or self.candidates < kept:
            raise ConfigError(
                f"candidates={self.candidates} is no multiple of the {kept} samples that a step trains on "
                "(per_device_train_batch_size x gradient_accumulation_steps x processes)."
            )
        if self.selector == "full" and self.candidates != kept:
            raise ConfigError(
                f"Selector full keeps all: leave out candidates, or make a step train on {self.candidates}."
            )
        return self.candidates // kept
