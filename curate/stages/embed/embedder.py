"""Measure the samples of a pool shard by shard: those that no earlier features have."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...executors.pool_pass import ShardedPass
from ...executors.work import Advance, Worker
from ...log import Stopwatch
from ...samples import Sample
from ...store import Artifact
from ..pools import samples_between
from ..tokens.tokenization import TokenizationReport, make_encoder
from ..tokens.turns import Expansion
from .config import EmbedConfig
from .earlier import Earlier, Ints

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from ...lm.model.scoring_model import ScoringModel
    from ...lm.tokens.token_table import TokenTable
    from ...signals import Signal

SORTED = 512
"""Number of texts that are sorted by length together. More means less padding; their tokens are in memory at once."""


@dataclass(frozen=True)
class Embedding(ShardedPass["EmbedConfig"]):
    """The pass that measures a pool, as tasks of one shard each.

    Attributes:
        earlier: features that have samples measured in the same way.
    """

    earlier: tuple[Artifact, ...] = ()

    @property
    def repeats(self) -> Path:
        """File that lists the rows with a repeated conversation; only the first of them is measured."""
        return self.draft.path / "repeats.parquet"

    @property
    def known(self) -> Path:
        """File that lists the samples that earlier features have."""
        return self.draft.path / "known.parquet"

    def open(self) -> Worker[int]:
        """Load the model on the current device, while the first process of a launch writes both lists."""
        worker = Embedder(self)
        while not (self.repeats.exists() and self.known.exists()):
            time.sleep(0.1)
        worker.earlier = Earlier.read(self.known, self.earlier)
        return worker


class Embedder:
    """Worker that measures and writes shards.

    Attributes:
        earlier: what earlier features have; set before the first shard.
    """

    earlier: Earlier

    def __init__(self, work: Embedding) -> None:
        import torch

        from ...lm.input_limits import InputLimits
        from ...lm.model.load import load_model, load_tokenizer
        from ...lm.model.row_proof import with_packing
        from ...lm.model.scoring_batch import default_score_tokens
        from ...lm.model.scoring_model import make_scoring_model, verify_head
        from ...store.rows.pool_rows import PoolRows

        config = work.config
        options = config.options(work.model_location)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.work = work
        self.pool = PoolRows(work.pool.shards())
        self.encoder = make_encoder(config, load_tokenizer(options))
        self.scoring_model = with_packing(
            verify_head(
                make_scoring_model(load_model(options).to(device), autocast=torch.bfloat16 if config.bf16 else None)
            ),
            config.max_length,
        )
        self.limits = InputLimits.of(self.scoring_model.model)
        self.signals, self.no_values = _signals(config, self.scoring_model)
        self.tokens = config.score_batch_tokens or default_score_tokens(
            self.scoring_model.model, self.scoring_model.head.weight.device, max_length=config.max_length
        )

    def __call__(self, task: int, advance: Advance) -> Mapping[str, float]:
        """Measure shard `task`. Write its records first and its vectors last: they mark the shard as finished."""
        table, passed, rejected, expansion = self._read(task)
        found = self.earlier.rows(table.ids)
        new = np.flatnonzero(found < 0)
        ends = _ends(table)
        advance(self.work.size(task) - int(ends[new].sum()))
        self.limits.require_table(table, f"The pool '{self.work.pool.name}'")
        timer = Stopwatch()
        values = self._measure(table, new, timer, advance) if len(new) else self.no_values
        records, vectors = _records(table, new, values), _vectors(table, new, values)
        order = np.argsort(np.concatenate([table.positions, list(passed)]), kind="stable")
        known = np.concatenate([found, self.earlier.rows(list(passed.values()))])[order]
        if len(new) < len(known):
            records, vectors = self.earlier.joined(known, records, vectors)
        draft, key = self.work.draft, f"{task:05d}"
        draft.add("features", records, key=key)
        draft.reject(rejected, key=key)
        expansion.record(draft, key)
        draft.write(task, vectors)
        return timer.seconds

    def _read(self, shard: int) -> tuple[TokenTable, dict[int, str], dict[str, str], Expansion]:
        """Tokenize the samples of a shard, except those that earlier features have for certain.

        Returns:
            The table; the samples that were passed over, position -> sample id; the rejected ones, sample id -> reason;
            and the expansion.
        """
        from ...lm.tokens.encode import encode_all
        from ...lm.tokens.token_table import TokenTable
        from ...store.rows.pool_rows import read_repeats

        rows, rejected = self.work.rows(shard), dict[str, str]()
        repeats = read_repeats(self.work.repeats, rows.start, rows.stop)
        samples = samples_between(self.pool, rows.start, rows.stop)
        passed: dict[int, str] = {}
        first = ((position, sample) for position, sample in samples if position not in repeats)
        expansion = Expansion(self.encoder)
        table = TokenTable(encode_all(expansion(self._unknown(first, passed)), self.encoder, rejected), expansion.turns)
        if rejected and self.work.config.strict:
            report = TokenizationReport(self.work.pool.name)
            report.reject(rejected)
            report.log_or_raise(strict=True)
        return table, passed, rejected, expansion

    def _unknown(self, samples: Iterable[tuple[int, Sample]], passed: dict[int, str]) -> Iterator[tuple[int, Sample]]:
        """Yield the samples that must be tokenized, and put the others into `passed`.

        A conversation that is never split is one text here and in earlier features with any `turns`.
        """
        config = self.work.config
        never = config.turns == "whole" or config.loss_on == "all"
        for position, sample in samples:
            whole = never or sum(message["role"] == "assistant" for message in sample.messages) <= 1
            if whole and sample.sample_id in self.earlier.row_of:
                passed[position] = sample.sample_id
            else:
                yield position, sample

    def _measure(self, table: TokenTable, new: Ints, timer: Stopwatch, advance: Advance) -> dict[str, Tensor]:
        """Measure the signals of rows of a shard. Batches depend on these rows only, not on earlier shards."""
        import torch

        from ...lm.tokens.batch import collate
        from ...signals import ScoreBudget, measure

        config, scoring_model = self.work.config, self.scoring_model
        budget = ScoreBudget(tokens=self.tokens, texts=config.score_batch_size)
        parts: dict[str, list[Tensor]] = {}
        ends = _ends(table)
        for start in range(0, len(new), SORTED):
            rows = new[start : start + SORTED]
            batch = collate([table[row] for row in rows.tolist()], pad_token_id=0)
            with scoring_model.eval_mode():
                values = measure(
                    scoring_model.hidden,
                    scoring_model.head,
                    batch,
                    self.signals,
                    budget,
                    timer=timer,
                    shared=scoring_model.shares,
                )
            for name, value in values.items():
                parts.setdefault(name, []).append(value.cpu())
            advance(int(ends[rows].sum()))
        return {name: torch.cat(values) for name, values in parts.items()}


def _ends(table: TokenTable) -> npt.NDArray[np.bool_]:
    """Return (n,) True for the last sample of each row of the pool: progress counts rows, which may have answers."""
    return np.append(np.diff(table.positions) != 0, True)[: len(table)]


def _signals(config: EmbedConfig, scoring_model: ScoringModel) -> tuple[dict[str, Signal], dict[str, Tensor]]:
    """Return the signals to measure, by name, and their values for an empty batch."""
    import torch

    from ...numerics.srft import TwoSided
    from ...signals import Entropy, Loss, MeanHidden, Sketch, Utility

    srft = TwoSided.draw(
        d1=config.d1,
        d2=config.d2,
        max_length=config.max_length,
        vocab_size=scoring_model.head.vocab_size,
        seed=config.seed,
    )
    known: dict[str, Signal] = {
        "entropy": Entropy(),
        "loss": Loss(),
        "utility": Utility(),
        "sketch": Sketch(srft),
        "embedding": MeanHidden(),
    }
    widths = {"sketch": (srft.size,), "embedding": (scoring_model.head.weight.shape[1],)}
    measured: dict[str, Signal] = {name: signal for name, signal in known.items() if name in config.signals}
    return measured, {name: torch.zeros(0, *widths.get(name, ())) for name in measured}


def _records(table: TokenTable, rows: Ints, values: Mapping[str, Tensor]) -> pa.Table:
    """Build the records of the table `features`: one per measured row of the table."""
    import pyarrow as pa

    return pa.table(
        {
            "sample_id": pa.array(table.ids, pa.string()).take(pa.array(rows)),
            "tokens": pa.array(table.lengths[rows], pa.int32()),
            "target_tokens": pa.array(table.target_tokens[rows], pa.int32()),
            "truncated": pa.array(table.truncated[rows], pa.bool_()),
            **{name: values[name].double().numpy() for name in ("loss", "entropy", "utility") if name in values},
            **({"sketch_norm": values["sketch"].double().norm(dim=1).numpy()} if "sketch" in values else {}),
        }
    )


def _vectors(table: TokenTable, rows: Ints, values: Mapping[str, Tensor]) -> pa.Table:
    """Build the shard's vectors: unit vectors in float16.

    At unit length the direction keeps three digits for any norm. The norm of a sketch is a record (`sketch_norm`).
    """
    import pyarrow as pa
    from torch.nn.functional import normalize

    columns = {"sample_id": pa.array(table.ids, pa.string()).take(pa.array(rows))}
    for name in (name for name in ("sketch", "embedding") if name in values):
        unit = normalize(values[name].float(), dim=1).half().numpy()
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(unit.reshape(-1)), unit.shape[1])
    return pa.table(columns)
