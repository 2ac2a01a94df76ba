"""Rounds of a run: which samples of the pool an epoch is trained on, chosen before it begins.

With `cluster_ucb` this is ClusterUCB's dynamic variant: the bandit plays again before every epoch, for rewards under
the weights and the optimizer state that the run has come to: n·b gradients an epoch, n samples and a gradient budget b.
The first choice takes the rewards from a warm-up run where one is given. Otherwise they are the cosines of plain
gradients of the model as it starts, of which LoRA's are those of its B alone (A's are zero until B is not).

A round is written down before its epoch begins, and what is written down is not chosen again: a resumed run has the
rounds of the one that was stopped. In a launch of several processes the first chooses and the others wait for the file.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigError, DataError, TrainingError
from ...log import bar
from ...pool_selectors import Budget, Candidates, Measure, Oracle, Ranking, RemainingBudget, Target, averages
from ...pool_selectors.candidates import Floats, Ints
from ...store import Draft
from ...store.artifacts.files import read_json, write_json
from ..inputs import Inputs
from ..select.candidates import clusters_of, read_target
from ..select.config import SelectConfig
from ..select.stage import gradient_oracle
from ..subsets import draws_table, subset_table
from .config import TrainConfig
from .joined_features import encode_target

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

    from ...lm.tokens.token_table import TokenTable
    from ...training.epoch_subsets import EpochDataset
    from ...training.gradients.engine import GradientEngine

CHUNK = 64
"""Samples whose gradient features are held at once."""

PATIENCE = 0.1
"""Seconds between looks for a round that another process makes."""


class EpochSubsets:
    """Chooses the rounds of a run and writes them down; callable as `lm.rounds.Choose`.

    Args:
        config: of the run.
        inputs: of the run.
        draft: of the run.
        table: the pool's distinct samples, encoded: the candidates.
        tokenizer: of the model.

    Attributes:
        size: samples of a round.
        by_gradients: whether it asks for gradients.
    """

    def __init__(
        self, config: TrainConfig, inputs: Inputs, draft: Draft, table: TokenTable, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.config = config
        self.inputs = inputs
        self.draft = draft
        self.table = table
        selector, clusters, pool = (
            config.pool_selector_of_epochs(0),
            inputs.artifacts.get("clusters"),
            inputs.artifacts["pool"],
        )
        self.candidates = Candidates(
            table.ids,
            [""] * len(table),
            clusters=clusters_of(inputs.store, clusters, pool, table.ids)
            if clusters is not None and "clusters" in selector.needs
            else None,
        )
        self.by_gradients = "rewards" in selector.needs
        self.limit = math.floor(config.gradient_budget * len(table)) if selector.frugal else len(table)
        self.size = self._remaining_budget().left
        if self.by_gradients and self.size > self.limit:
            raise ConfigError(
                f"An epoch's subset is to hold {self.size} samples and only {self.limit} gradients may be computed: "
                "raise --gradient-budget or lower --selection-budget."
            )
        self._target = encode_target(config, inputs, tokenizer, distinct=True) if self.by_gradients else None

    def rounds(self) -> EpochDataset:
        """The training set."""
        from ...training.epoch_subsets import EpochDataset

        return EpochDataset(self.size, self, by_gradients=self.by_gradients)

    def __call__(self, epoch: int, engine: GradientEngine | None) -> list[int]:
        """The rows of an epoch, from 0: chosen now, or as they were chosen before."""
        number = 1 if self.config.reselect == "once" else epoch + 1
        path = self._path(number)
        if self.draft.rank == 0 and not path.exists():
            self._choose(number, engine)
        while not path.exists():
            time.sleep(PATIENCE)
        place = {sample_id: row for row, sample_id in enumerate(self.table.ids)}
        return [place[sample_id] for sample_id in read_json(path)["samples"]]

    def summary(self) -> dict[str, Any]:
        """What was chosen for each epoch, and at which cost."""
        made = [read_json(path) for path in sorted(self._path(1).parent.glob("*.json"))]
        rounds = [{"epoch": r["epoch"], "samples": len(r["samples"]), "gradients": r["gradients"]} for r in made]
        return {
            "pool selector": self.config.pool_selector,
            "candidates of an epoch": f"{self.size} of {len(self.table)} samples",
            "gradients": sum(r["gradients"] for r in made),
            "rounds": rounds,
        }

    def _path(self, number: int) -> Path:
        return self.draft.path / "rounds" / f"{number:05d}.json"

    def _choose(self, number: int, engine: GradientEngine | None) -> None:
        oracle = Oracle(self._measure(number, engine), self.limit)
        selector = self.config.pool_selector_of_epochs(self.config.seed * 1_000_003 + number)
        ranking = selector.rank(self.candidates, Target(), oracle, self._remaining_budget())
        if len(ranking.rows) < self.size:
            raise TrainingError(
                f"Epoch {number} is to have {self.size} samples, and {len(ranking.rows)} with a finite gradient were "
                "found: lower --selection-budget, raise --gradient-budget, or lower the learning rate."
            )
        self._write_down(number, ranking, selector.reject_reason)
        chosen = [self.table.ids[row] for row in ranking.rows]
        write_json(self._path(number), {"epoch": number, "gradients": oracle.spent, "samples": chosen})

    def _remaining_budget(self) -> RemainingBudget:
        return RemainingBudget(Budget(self.config.selection_budget), self.candidates)

    def _measure(self, number: int, engine: GradientEngine | None) -> Measure:
        if self._target is None:
            return lambda rows: np.full(len(rows), np.nan)
        if number == 1 and self.config.warmup is not None:
            return self._at_warmup()
        assert engine is not None
        return CurrentModelScorer(engine, self.table, *self._target, label=f"{self.config.name}: epoch {number}")

    def _at_warmup(self) -> Measure:
        """Rewards as `curate select` has them."""
        config = self.config
        fields = ["pool", "target", "warmup", *([] if self.candidates.clusters is None else ["clusters"])]
        given: dict[str, Any] = {field: getattr(config, field) for field in fields}
        wanted = SelectConfig(
            name=config.name,
            method=str(config.pool_selector),
            budget=config.selection_budget,
            score_batch_size=config.score_batch_size or 16,
            **given,
        )
        _, target_rows = read_target(self.inputs, {"rewards"}, wanted.on)
        return gradient_oracle(wanted, self.inputs, self.table.positions, target_rows)

    def _write_down(self, number: int, ranking: Ranking, excluded: str) -> None:
        """RunInfo before the round's file: once that is there, they are too."""
        self._add("subsets", subset_table(ranking, self.candidates), number)
        if ranking.draws is not None:
            self._add("draws", draws_table(ranking.draws, self.candidates, self.table.positions), number)
        if ranking.rejected is not None and len(ranking.rejected):
            import pyarrow as pa

            names = [self.table.ids[row] for row in ranking.rejected]
            reasons = [f"{excluded} before epoch {number}"] * len(names)
            self.draft.add("rejects", pa.table({"sample_id": names, "reason": reasons}), key=f"epoch-{number:05d}")

    def _add(self, table_name: str, rows: pa.Table, number: int) -> None:
        import pyarrow as pa

        epochs = pa.array([number] * len(rows), pa.int32())
        self.draft.add(table_name, rows.append_column("epoch", epochs), key=f"epoch-{number:05d}")


class CurrentModelScorer:
    """What samples are worth to a target under a model as it is: LESS's score at this one point. Callable as `Measure`.

    max over subtasks of mean_j cos(Γ_i, v_j). Nothing is kept: no other epoch has these weights.

    Args:
        engine: measures gradients of the model.
        table: the samples.
        target: the target's samples.
        subtasks: of those.
        label: of the progress bar.
    """

    def __init__(
        self, engine: GradientEngine, table: TokenTable, target: TokenTable, subtasks: list[str], *, label: str
    ) -> None:
        from ...numerics.gradients import SignHash
        from ...training.gradients.features import GradientFeatures

        defaults = SelectConfig.model_fields
        sketch = SignHash(defaults["sketch_dim"].default, defaults["sketch_seed"].default)
        self.influence = GradientFeatures(engine, sketch)
        self.table = table
        self.label = label
        means = averages(subtasks)
        rows = range(len(target))
        self.directions = sum(
            means[:, rows[at : at + CHUNK]] @ self._features(target, rows[at : at + CHUNK], target=True)
            for at in rows[::CHUNK]
        )
        if not np.isfinite(self.directions).all():
            raise DataError("A sample of the target has a gradient that is not finite: take it out of the target.")

    def __call__(self, rows: Ints) -> Floats:
        """(r,) -> (r,); NaN where a sample has no finite gradient."""
        rewards = np.full(len(rows), np.nan)
        with bar(total=len(rows), label=self.label, unit="gradient") as progress:
            for at in range(0, len(rows), CHUNK):
                chunk = rows[at : at + CHUNK].tolist()
                rewards[at : at + CHUNK] = (self.directions @ self._features(self.table, chunk).T).max(0)
                progress.update(len(chunk))
        return rewards

    def _features(self, table: TokenTable, rows: Any, *, target: bool = False) -> Floats:
        return np.asarray(self.influence.features(table, rows, target=target).numpy(), np.float64)
