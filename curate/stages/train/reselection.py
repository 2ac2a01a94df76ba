"""Select the subset of the pool that each epoch trains on, before the epoch begins.

With `cluster_ucb` this is ClusterUCB's dynamic variant: the bandit runs again before every epoch, with rewards under
the current weights and optimizer state of the run. It costs n·b gradients per epoch, for n samples and a gradient
budget b. The first selection takes its rewards from a warm-up run if one is given. Otherwise the rewards are cosines of
plain gradients of the initial model; with LoRA these are gradients of B only (A's are zero while B is zero).

A selection is written to a file before its epoch begins, and a written selection is never made again: a resumed run
uses the subsets of the stopped run. In a launch of several processes the first one selects, and the others wait for
the file.
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
from ..select.candidates import clusters_of
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
"""Number of samples whose gradient features are in memory at once."""

PATIENCE = 0.1
"""Seconds between two checks for a file that another process writes."""


class EpochSubsets:
    """Subsets that the epochs of a run train on; callable as `training.epoch_subsets.Choose`.

    Args:
        config: configuration of the run.
        inputs: inputs of the run.
        draft: unfinished artifact of the run.
        table: the candidates: distinct samples of the pool, tokenized.
        tokenizer: tokenizer of the model.

    Attributes:
        size: number of samples in a subset.
        by_gradients: True if the pool selector needs gradients.

    Raises:
        ConfigError: the subset is larger than the number of gradients that may be computed.
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
                f"The subset of an epoch has {self.size} samples, but only {self.limit} gradients may be computed: "
                "raise --gradient-budget or lower --selection-budget."
            )
        self._target = encode_target(config, inputs, tokenizer, distinct=True) if self.by_gradients else None

    def dataset(self) -> EpochDataset:
        """Return the training dataset, whose rows change with every epoch."""
        from ...training.epoch_subsets import EpochDataset

        return EpochDataset(self.size, self, by_gradients=self.by_gradients)

    def __call__(self, epoch: int, engine: GradientEngine | None) -> list[int]:
        """Return the table's rows for an epoch (counted from 0): selected now, or read from the file."""
        number = 1 if self.config.reselect == "once" else epoch + 1
        path = self._path(number)
        if self.draft.rank == 0 and not path.exists():
            self._select(number, engine)
        while not path.exists():
            time.sleep(PATIENCE)
        row_of = {sample_id: row for row, sample_id in enumerate(self.table.ids)}
        return [row_of[sample_id] for sample_id in read_json(path)["samples"]]

    def summary(self) -> dict[str, Any]:
        """Return the size and cost of each selection, for the run's summary."""
        files = [read_json(path) for path in sorted(self._path(1).parent.glob("*.json"))]
        return {
            "pool selector": self.config.pool_selector,
            "candidates of an epoch": f"{self.size} of {len(self.table)} samples",
            "gradients": sum(file["gradients"] for file in files),
            "rounds": [
                {"epoch": file["epoch"], "samples": len(file["samples"]), "gradients": file["gradients"]}
                for file in files
            ],
        }

    def _path(self, number: int) -> Path:
        return self.draft.path / "rounds" / f"{number:05d}.json"

    def _select(self, number: int, engine: GradientEngine | None) -> None:
        oracle = Oracle(self._measure(number, engine), self.limit)
        selector = self.config.pool_selector_of_epochs(self.config.seed * 1_000_003 + number)
        ranking = selector.rank(self.candidates, Target(), oracle, self._remaining_budget())
        if len(ranking.rows) < self.size:
            raise TrainingError(
                f"Epoch {number} needs {self.size} samples, but only {len(ranking.rows)} with a finite gradient were "
                "found: lower --selection-budget, raise --gradient-budget, or lower the learning rate."
            )
        self._record(number, ranking, selector.reject_reason)
        selected = [self.table.ids[row] for row in ranking.rows]
        write_json(self._path(number), {"epoch": number, "gradients": oracle.spent, "samples": selected})

    def _remaining_budget(self) -> RemainingBudget:
        return RemainingBudget(Budget(self.config.selection_budget), self.candidates)

    def _measure(self, number: int, engine: GradientEngine | None) -> Measure:
        if self._target is None:
            return lambda rows: np.full(len(rows), np.nan)
        if number == 1 and self.config.warmup is not None:
            return self._measure_at_warmup()
        assert engine is not None
        return CurrentModelScorer(engine, self.table, *self._target, label=f"{self.config.name}: epoch {number}")

    def _measure_at_warmup(self) -> Measure:
        """Return the measure that `curate select` uses, at the checkpoints of the warm-up run."""
        config = self.config
        fields = ["pool", "target", "warmup", *([] if self.candidates.clusters is None else ["clusters"])]
        values: dict[str, Any] = {field: getattr(config, field) for field in fields}
        select_config = SelectConfig(
            name=config.name,
            method=str(config.pool_selector),
            budget=config.selection_budget,
            score_batch_size=config.score_batch_size or 16,
            **values,
        )
        return gradient_oracle(select_config, self.inputs, self.table.ids)

    def _record(self, number: int, ranking: Ranking, reject_reason: str) -> None:
        """Add the records of a selection. This happens before its file is written: if the file exists, so do they."""
        self._add("subsets", subset_table(ranking, self.candidates), number)
        if ranking.draws is not None:
            self._add("draws", draws_table(ranking.draws, self.candidates, self.table.positions), number)
        if ranking.rejected is not None:
            rejected = [self.table.ids[row] for row in ranking.rejected]
            reasons = dict.fromkeys(rejected, f"{reject_reason} before epoch {number}")
            self.draft.reject(reasons, key=f"epoch-{number:05d}")

    def _add(self, table_name: str, rows: pa.Table, number: int) -> None:
        import pyarrow as pa

        epochs = pa.array([number] * len(rows), pa.int32())
        self.draft.add(table_name, rows.append_column("epoch", epochs), key=f"epoch-{number:05d}")


class CurrentModelScorer:
    """LESS scores under the current model of a run; callable as `Measure`.

    score_i = max over subtasks of mean_j cos(Γ_i, v_j), LESS's score at this one point. Features are not cached: no
    other epoch has the same weights.

    Args:
        engine: engine that measures gradients of the model.
        table: tokens of the samples.
        target: tokens of the target samples.
        subtasks: subtask of each target sample.
        label: label of the progress bar.

    Raises:
        DataError: a target sample has a gradient that is not finite.
    """

    def __init__(
        self, engine: GradientEngine, table: TokenTable, target: TokenTable, subtasks: list[str], *, label: str
    ) -> None:
        from ...numerics.gradients import SignHash
        from ...training.gradients.features import GradientFeatures

        defaults = SelectConfig.model_fields
        sketch = SignHash(defaults["sketch_dim"].default, defaults["sketch_seed"].default)
        self.gradients = GradientFeatures(engine, sketch)
        self.table = table
        self.label = label
        means = averages(subtasks)
        rows = range(len(target))
        self.directions = sum(
            means[:, rows[start : start + CHUNK]] @ self._features(target, rows[start : start + CHUNK], target=True)
            for start in rows[::CHUNK]
        )
        if not np.isfinite(self.directions).all():
            raise DataError("A sample of the target has a gradient that is not finite: remove it from the target.")

    def __call__(self, rows: Ints) -> Floats:
        """Return the score of each row of the table, (r,) -> (r,); NaN for a sample without a finite gradient."""
        scores = np.full(len(rows), np.nan)
        with bar(total=len(rows), label=self.label, unit="gradient") as progress:
            for start in range(0, len(rows), CHUNK):
                chunk = rows[start : start + CHUNK].tolist()
                scores[start : start + CHUNK] = (self.directions @ self._features(self.table, chunk).T).max(0)
                progress.update(len(chunk))
        return scores

    def _features(self, table: TokenTable, rows: Any, *, target: bool = False) -> Floats:
        return np.asarray(self.gradients.features(table, rows, target=target).numpy(), np.float64)
