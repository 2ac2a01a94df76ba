"""Selection in a loop that somebody else has written: candidates in, what is kept out, all of it in the ledger.

The loop keeps its model, optimizer, data loader and devices; between the loader and the forward pass stands one line:

    with BatchSelector("uds", model, keep=8, store="store", name="my-run") as selector:
        for batch in loader:                            # of 64 texts
            kept = selector.choose(batch)               # of 8
            model(**kept).loss.backward()
            optimizer.step(); optimizer.zero_grad()

It is the `Selection` of `curate train` behind that line, so scores, memory and ledger are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..lm.model.scoring_batch import default_score_tokens
from ..lm.model.scoring_model import verify_head
from ..lm.tokens.token_table import TokenTable
from ..selectors import RunInfo, check_args, make_selector
from ..signals import ScoreBudget
from ..store import Store
from ..training.process_group import ProcessGroup
from ..training.recorder import Counters, StepRecorder
from ..training.step import BatchSelection, SelectionPlan, StepCandidates
from .batch import table_of, take_rows
from .kept_batch import Kept
from .requirements import Coverage, Gradients, joined
from .script_run import ExternalRun
from .unwrap import scoring_model_of


class BatchSelector:
    """Chooses, of each batch, what is trained on.

    Each process chooses among its own candidates. Scoring is a forward pass in evaluation mode; gradient selectors make
    a backward pass of their own and leave `.grad` as it was. Use it in a `with` block, or call `close`: then the ledger
    is whole and the run is an artifact of the store.

    Args:
        selector: its name: ours, or one that an installed package brings.
        model: a causal language model of transformers, or a PEFT model of one, on its device; wrapped by DDP, Fabric or
            torch.compile is fine, sharded weights are refused.
        keep: k, how many of a batch are kept.
        store: where the ledger goes, a `Store` or its folder; None: nowhere.
        name: of the run there.
        pool: the data as `curate ingest` has it in the store; `choose` wants ids then.
        args: the selector's own arguments.
        optimizer: an Adam or AdamW (or what gives it), for selectors by gradients.
        target: tokenised samples (`input_ids`, `labels`) of what to be good at, for selectors that want a target.
        target_batch_size: how many of them each step looks at.
        max_length: T, tokens of the longest text; sketches depend on it.
        seed: of what the selector leaves to chance.
        total_steps: of the run, where that is known.
        autocast: compute hidden states in this precision, as the loop's own forward pass does.
        weighted: the loop trains on `kept.loss(logits)`: asked of selectors that weigh what they keep.
        coverage: of selectors by gradients: `all`: weights that train outside linear layers are an error; `linear`:
            they are left out.
        score_batch_tokens: padded tokens scored at once; None: what the device holds.

    Attributes:
        step: how often it has chosen.

    Raises:
        ConfigError: an unknown selector or argument, or something that it wants was not given.
        ModelError: a model that signals cannot look into.
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
        score_batch_tokens: int | None = None,
    ) -> None:
        check_args(selector, args or {})
        if keep < 1:
            raise ConfigError(f"keep is at least 1, not {keep}.")
        if store is not None and name is None:
            raise ConfigError("A run in a store wants a name: name='my-run'.")
        if store is None and pool is not None:
            raise ConfigError(f"pool='{pool}' is a name in a store: give that too, store='store'.")
        self.keep, self.max_length, self.weighted = keep, max_length, weighted
        self.step = 0
        self._begun = False
        values = {"name": name, "selector": selector, "selector_args": dict(args or {}), "keep": keep}
        values |= {"max_length": max_length, "seed": seed, "pool": pool}
        self.run = None if store is None else ExternalRun(store, values)
        scoring_model = scoring_model_of(model, autocast)
        device = scoring_model.head.weight.device
        info = RunInfo(scoring_model.head.vocab_size, max_length, seed, keep, total_steps)
        chooser = make_selector(selector, args or {}, info).to(device)
        if chooser.signals or chooser.gradients is not None:
            verify_head(scoring_model)
        self.selection = BatchSelection(
            chooser,
            scoring_model,
            recorder=StepRecorder(self.run or _NoLedger()),
            ranks=ProcessGroup(per_rank=True),
            budget=ScoreBudget(
                score_batch_tokens or default_score_tokens(scoring_model.model, device, max_length=max_length)
            ),
            engine=Gradients(optimizer, target, target_batch_size, coverage, seed).engine(
                selector, chooser, scoring_model
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
        """What of a batch is trained on. One call is one step of the ledger.

        Args:
            batch: `input_ids`, `labels` (B, L), and `attention_mask` where there is padding, on any device; what
                else it holds for each text is kept along.
            rows: (B,) which rows of your data they are; None: numbers made of the ids.
            ids: (B,) what the ledger calls them; None: hashes of the tokens. `curate.samples.Sample.sample_id` is what
                `curate ingest` would call them.
            features: (B,) facts of them by name, for selectors that join some.
            candidates: how many a full batch has: a smaller one keeps its share of k; None: k of any batch.

        Returns:
            At most k of them, in order.
        """
        table = table_of(batch, self.max_length, rows, ids)
        kept, weights = self.pick(table, features or {}, candidates)
        if weights is not None and not self.weighted:
            raise ConfigError(
                "This selector weighs what it keeps: train on kept.loss(logits) instead of the model's own loss, and "
                "say so with weighted=True."
            )
        device = batch["input_ids"].device
        return Kept(take_rows(batch, kept), kept, None if weights is None else weights.to(device))

    def pick(
        self, table: TokenTable, features: Mapping[str, Sequence[float]], candidates: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Which texts of a table are kept, (k,) ascending, and their weights; written down as the next step."""
        if not self._begun:
            self._begun = True
            if self.run is not None:
                self.run.begin(self.step)
        if self.run is not None and self.run.places is not None:
            table.positions = self.run.places.of(table.ids)
        count = len(table)
        full = count if candidates is None else candidates
        plan = SelectionPlan(candidates=full, keep=min(self.keep, full))
        reference = joined(self.selection.selector.features, features, count)
        self.step += 1
        selected = self.selection.select(StepCandidates(self.step, table, range(count), plan, reference))
        return selected.kept, selected.weights

    def state_dict(self) -> dict[str, Any]:
        """Everything that choosing depends on, as tensors, numbers and strings: for your checkpoint.

        The ledger up to here is then final: a run that resumes from it drops what came later and writes it again.
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
        """Go on from what `state_dict` said. Before the first choice."""
        if self._begun:
            raise ConfigError("load_state_dict comes before the first choose: the ledger has gone on already.")
        self.selection.selector.load_state_dict(state["selector"])
        self.selection.recorder.counters = Counters(**state["tally"])
        self.selection.budget.tokens = state["score_tokens"]
        self.resume_at(state["step"], state["attempt"])

    @property
    def attempt(self) -> int | None:
        """Which run of its name and choice this is, once it has begun in a store."""
        return None if self.run is None else self.run.attempt

    def settle(self) -> None:
        """What is written down is final: a checkpoint holds it."""
        if self.run is not None:
            self.run.commit(self.step)

    def resume_at(self, step: int, attempt: int | None) -> None:
        """It has chosen so often, in this attempt of its run."""
        self.step = step
        if self.run is not None:
            self.run.attempt = attempt

    def close(self, metrics: Sequence[tuple[int, str, float]] = ()) -> None:
        """The run is done: its ledger is whole and has its name in the store.

        Args:
            metrics: (step, name, value) of what the loop has logged, for the table `metrics`.
        """
        if self.run is None:
            return
        counters = self.selection.recorder.counters
        own = [counters.samples_kept, counters.samples_seen, counters.tokens_kept, len(counters.bad)]
        kept, seen, tokens, bad = ProcessGroup().sum(torch.tensor(own, device=self.selection.device)).tolist()
        summary = {
            "steps": self.step,
            "selector": self.run.values["selector"],
            "kept": f"{kept} of {seen} candidates",
            "tokens trained on": tokens,
            "not finite": bad,
        }
        self.run.end(kept, summary, metrics, getattr(self.selection.selector, "memory", None))

    def fail(self, error: BaseException) -> None:
        """The loop was stopped: its ledger is written as far as it goes, and the run stays unfinished."""
        if self.run is not None:
            self.run.fail(error)

    def __enter__(self) -> BatchSelector:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Ends the run; one that an error ends stays unfinished, and a checkpoint can go on with it."""
        if error is None:
            self.close()
        else:
            self.fail(error)


class _NoLedger:
    """The ledger of a run that is not in a store."""

    def append(self, step: int, columns: Mapping[str, Any]) -> None:
        """Nothing is written."""
