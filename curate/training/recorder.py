"""Record the selection steps of a run: one ledger row per candidate, counters, and samples that are not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from ..errors import TrainingError
from ..lm.tokens.token_table import TokenTable
from ..log import LOGGER
from ..numerics.losses import IGNORE
from ..prescreens import Screened
from ..selectors import Scores
from ..selectors.memory import Memory
from ..store.ledger.rows import STAGES
from .mixtures.label_counts import LabelCounts

NEAR = 1e-6
"""Relative difference of two scores below which rounding may decide between them. The experts of a mixture round a
sample by up to 7e-7 differently in another batch."""


class LedgerWriter(Protocol):
    """Destination of the ledger's rows."""

    def append(self, step: int, columns: Mapping[str, Any]) -> None:
        """Append the candidates of a step as arrays by column. NaN and None stand for a missing value."""


@dataclass
class Counters:
    """Counters of a run so far; they are part of its checkpoint.

    Attributes:
        tokens_kept, tokens_seen: number of tokens of kept samples, and of candidates.
        samples_kept, samples_seen: number of kept samples, and of candidates.
        samples_ruled_out: number of candidates that a prescreen ruled out and that were not scored.
        near_ties: number of selections whose last kept and first rejected score are nearly equal.
        bad: ids of samples with a loss or score that was not finite.
    """

    tokens_kept: int = 0
    tokens_seen: int = 0
    samples_kept: int = 0
    samples_seen: int = 0
    samples_ruled_out: int = 0
    near_ties: int = 0
    bad: list[str] = field(default_factory=list)

    def count(self, lengths: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_]) -> None:
        """Count the candidates of a step, (B,) lengths in tokens, and those that are kept, (B,)."""
        self.tokens_seen += int(lengths.sum())
        self.tokens_kept += int(lengths[kept].sum())
        self.samples_seen += len(lengths)
        self.samples_kept += int(kept.sum())

    def add(self, other: Counters) -> None:
        """Add the counters of another process."""
        for name in ("tokens_kept", "tokens_seen", "samples_kept", "samples_seen", "samples_ruled_out", "near_ties"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.bad += [sample_id for sample_id in other.bad if sample_id not in self.bad]


def memory_table(memory: Memory, ids: Mapping[int, str], rank: int) -> pa.Table:
    """Return a selector's memory as records of the table `memory`, one row per sketch.

    Args:
        memory: memory of sketches.
        ids: sample id of each position in the memory; a missing position gives null.
        rank: rank of the process that has the memory.
    """
    filled = memory.filled
    return pa.table(
        {
            "rank": pa.array([rank] * filled, pa.int32()),
            "row": pa.array(range(filled), pa.int32()),
            "sample_id": [ids.get(position) for position in memory.positions[:filled].tolist()],
            "step": pa.array(memory.steps[:filled].tolist(), pa.int64()),
            "sketch": pa.array(memory.sketches[:filled].tolist(), pa.list_(pa.float32())),
        }
    )


class StepRecorder:
    """Record steps in the ledger and in the counters.

    Args:
        ledger: destination of the ledger's rows.
        max_bad: maximum number of samples that may be not finite; more end the run.
        labels: counts by label; None: nothing is counted by label.

    Attributes:
        observers: functions that get the columns of each step, as the ledger does.
    """

    def __init__(self, ledger: LedgerWriter, *, max_bad: int = 100, labels: LabelCounts | None = None) -> None:
        self.ledger = ledger
        self.max_bad = max_bad
        self.labels = labels
        self.counters = Counters()
        self.observers: list[Callable[[Mapping[str, Any]], None]] = []

    def step(
        self,
        step: int,
        table: TokenTable,
        rows: npt.NDArray[np.int64],
        kept: npt.NDArray[np.int64],
        scores: Scores | None,
        loss: Tensor | None,
        screened: Screened | None = None,
        token_masks: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Record the candidates of a step.

        Args:
            step: optimizer step, from 1.
            table: the tokenized samples.
            rows: (B,) rows of the table, the candidates; the replayed ones are last, unless all are kept. What is
                measured of candidates may leave these out.
            kept: (k,) indices into `rows` of the kept candidates.
            scores: scores of the candidates, with the weights that the loss of the step has; None without a score.
            loss: (B,) losses before the step; None if they were not measured.
            screened: which candidates a prescreen has ruled out; None without one.
            token_masks: (k, T) which tokens of the kept candidates are trained on; None: all targets.
        """
        mask = np.zeros(len(rows), dtype=bool)
        mask[kept] = True
        lengths = table.lengths[rows]
        replayed = rows >= table.first_replayed
        losses = None if loss is None else _column(loss, len(rows))
        if self.labels is not None:
            self.labels.add(rows, mask, lengths, losses)
        columns = {
            "sample_id": pa.DictionaryArray.from_arrays(rows, table.id_array),
            "position": np.where(replayed, -1, table.positions[rows]),
            "kept": mask,
            "loss": losses,
            "sample_weight": None if table.weights is None else _unless_one(table.weights[rows]),
            "stage": _stages(screened, replayed),
            "predicted": None if screened is None else _column(screened.predicted, len(rows)),
            "token_mask": None if token_masks is None else _packed(table, rows, kept, token_masks),
            "tokens": lengths,
            "target_tokens": table.target_tokens[rows],
            **_score_columns(scores, len(rows)),
        }
        self.ledger.append(step, columns)
        for receive in self.observers:
            receive(columns)
        self.counters.count(lengths, mask)
        if screened is not None:
            self.counters.samples_ruled_out += len(rows) - len(screened.scored)

    def cut(self, total: Tensor, count: int) -> None:
        """Count a selection of the `count` highest scores (B,) if its cut is nearly a tie; NaN is no score."""
        ranked = total[total.isnan().logical_not()].double().sort(descending=True).values
        if not 0 < count < len(ranked):
            return
        kept, rejected = ranked[count - 1].item(), ranked[count].item()
        self.counters.near_ties += kept - rejected <= NEAR * max(abs(kept), abs(rejected))

    def bad(self, ids: Sequence[str]) -> None:
        """Warn about and count samples that are not finite.

        Raises:
            TrainingError: there are more than `max_bad` of them.
        """
        known = self.counters.bad
        for sample_id in ids:
            if sample_id not in known:
                known.append(sample_id)
                LOGGER.warning(f"Sample {sample_id} has a loss or score that is not finite. It is not trained on.")
        if len(known) > self.max_bad:
            raise TrainingError(
                f"{len(known)} samples have a loss that is not finite, more than --max-bad-samples {self.max_bad}. The "
                f"last one is {known[-1]}. Lower the learning rate, or look at the samples with curate query "
                f"\"SELECT * FROM conversations WHERE sample_id = '{known[-1]}'\"."
            )


def _score_columns(scores: Scores | None, count: int) -> dict[str, Any]:
    """Return the ledger's columns `score` and `weight`, (count,) or None, and `parts`, name -> (count,)."""
    if scores is None:
        return {"score": None, "weight": None, "parts": {}}
    return {
        "score": _column(scores.total, count),
        "weight": None if scores.weights is None else _column(scores.weights, count),
        "parts": {name: _column(value, count) for name, value in scores.parts.items()},
    }


def _stages(screened: Screened | None, replayed: npt.NDArray[np.bool_]) -> npt.NDArray[np.int8] | None:
    """Return the ledger's column `stage`, (B,): where a prescreen ruled a row out, and which were replayed."""
    stages = None if screened is None else screened.stages.numpy()
    if not replayed.any():
        return stages
    found = np.full(len(replayed), STAGES.index("replay") + 1, np.int8)
    found[~replayed] = 0 if stages is None else stages
    return found


def trained_targets(
    table: TokenTable, rows: npt.NDArray[np.int64], token_masks: npt.NDArray[np.bool_]
) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield for each row which of its target tokens, in their order, its mask has as True.

    The first token of a text is no target, because nothing predicts it.
    """
    for row, mask in zip(rows.tolist(), token_masks, strict=True):
        targets = np.flatnonzero(table[row]["labels"][1:] != IGNORE) + 1
        yield mask[targets]


def _packed(
    table: TokenTable,
    rows: npt.NDArray[np.int64],
    kept: npt.NDArray[np.int64],
    token_masks: npt.NDArray[np.bool_],
) -> pa.Array:
    """Return the masks of kept rows among all, as bits of their target tokens; null where all are trained on."""
    packed: list[bytes | None] = [None] * len(rows)
    for place, is_trained in zip(kept.tolist(), trained_targets(table, rows[kept], token_masks), strict=True):
        if not is_trained.all():
            packed[place] = np.packbits(is_trained).tobytes()
    return pa.array(packed, pa.binary())


def _unless_one(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return weights with NaN in place of 1."""
    return np.where(weights == 1, np.nan, weights)


def _column(values: Tensor, count: int) -> npt.NDArray[np.float64]:
    """Return values of the first of `count` candidates as an array; the others have none."""
    column: npt.NDArray[np.float64] = values.detach().cpu().double().numpy()
    return np.pad(column, (0, count - len(column)), constant_values=np.nan) if len(column) < count else column
