"""What a run writes down of its choices: a row of the ledger for each candidate, a tally, what was not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from ..errors import TrainingError
from ..lm.tokens.token_table import TokenTable
from ..log import LOGGER
from ..selectors import Scores
from ..selectors.memory import Memory


class LedgerWriter(Protocol):
    """Where the ledger's rows go."""

    def append(self, step: int, columns: Mapping[str, Any]) -> None:
        """Take the candidates of a step, as arrays; NaN or None stand for nothing."""


@dataclass
class Counters:
    """What a run has counted so far; part of its checkpoint.

    Attributes:
        tokens_kept, tokens_seen: of kept samples, of candidates.
        samples_kept, samples_seen: how many.
        bad: ids of samples whose loss or score was not finite.
    """

    tokens_kept: int = 0
    tokens_seen: int = 0
    samples_kept: int = 0
    samples_seen: int = 0
    bad: list[str] = field(default_factory=list)

    def add(self, other: Counters) -> None:
        """Count what another process has counted, too."""
        for name in ("tokens_kept", "tokens_seen", "samples_kept", "samples_seen"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.bad += [sample_id for sample_id in other.bad if sample_id not in self.bad]


def memory_table(memory: Memory, ids: Mapping[int, str], rank: int) -> pa.Table:
    """A selector's memory as facts, a row each.

    Args:
        memory: of sketches.
        ids: position -> sample id, of those in it; null for others.
        rank: of the process that it is of.
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
    """Writes steps down.

    Args:
        sink: the ledger.
        max_bad: more samples than this that are not finite end the run.
    """

    def __init__(self, sink: LedgerWriter, *, max_bad: int = 100) -> None:
        self.sink = sink
        self.max_bad = max_bad
        self.counters = Counters()

    def step(
        self,
        step: int,
        table: TokenTable,
        rows: npt.NDArray[np.int64],
        kept: npt.NDArray[np.int64],
        scores: Scores | None,
        loss: Tensor | None,
    ) -> None:
        """The candidates of a step.

        Args:
            step: from 1.
            table: the tokenized samples.
            rows: (B,) of the table.
            kept: (k,) which of them.
            scores: None where nothing was scored.
            loss: (B,) before the step, where it was measured.
        """
        mask = np.zeros(len(rows), dtype=bool)
        mask[kept] = True
        lengths = table.lengths[rows]
        self.sink.append(
            step,
            {
                "sample_id": pa.DictionaryArray.from_arrays(rows, table.id_array),
                "position": table.positions[rows],
                "kept": mask,
                "score": None if scores is None else _column(scores.total),
                "weight": None if scores is None or scores.weights is None else _column(scores.weights),
                "loss": None if loss is None else _column(loss),
                "tokens": lengths,
                "target_tokens": table.target_tokens[rows],
                "parts": {} if scores is None else {name: _column(value) for name, value in scores.parts.items()},
            },
        )
        self.counters.tokens_seen += int(lengths.sum())
        self.counters.tokens_kept += int(lengths[mask].sum())
        self.counters.samples_seen += len(rows)
        self.counters.samples_kept += int(mask.sum())

    def bad(self, ids: Sequence[str]) -> None:
        """Name and count samples that are not finite; `TrainingError` once there are too many."""
        known = self.counters.bad
        for sample_id in ids:
            if sample_id not in known:
                known.append(sample_id)
                LOGGER.warning(f"Sample {sample_id} gives a loss or score that is not finite: it is kept out.")
        if len(known) > self.max_bad:
            raise TrainingError(
                f"{len(known)} samples gave a loss that is not finite, more than --max-bad-samples {self.max_bad}; the "
                f"last is {known[-1]}. Lower the learning rate, or look at them with curate query "
                f"\"SELECT * FROM conversations WHERE sample_id = '{known[-1]}'\"."
            )


def _column(values: Tensor) -> npt.NDArray[np.float64]:
    column: npt.NDArray[np.float64] = values.detach().cpu().double().numpy()
    return column
