"""`curate embed`: measure every distinct sample of a pool with one pass of a model.

Numbers (loss, entropy, utility, lengths) become records of the table `features`; sketches and embeddings become vectors
in the artifact's shards. A shard covers a fixed block of the pool's rows and is written atomically, so processes can
share the work and a stopped pass continues with the shards that are missing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ..config import NOT_HASHED, NamedConfig, Ref
from ..executors.options import ExecutionOptions, executor_for
from ..executors.pool_pass import ShardedPass
from ..executors.work import Advance, Worker
from ..log import Stopwatch
from ..store import Draft
from ..store.artifacts.files import write_text
from .inputs import Inputs
from .pools import rows_with, samples_between
from .settings import ModelSettings
from .stage import Stage
from .tokens.tokenization import TokenizationReport, make_encoder, tokenization_digest
from .tokens.turns import Expansion

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from ..lm.model.scoring_model import ScoringModel
    from ..lm.tokens.token_table import TokenTable
    from ..signals import Signal

SORTED = 512
"""Number of texts that are sorted by length together. More means less padding; their tokens are in memory at once."""
EXAMPLES = """\
curate embed --pool pool --model Qwen/Qwen2.5-0.5B --name feats
curate embed --pool pool --model ./my-model --name feats --max-length 1024 --bf16
curate embed --pool pool --model REFERENCE --signals loss --name reference     # the reference losses of rho
curate embed --pool pool --model run --name after     # the model that `curate train --name run` trained
torchrun --nproc-per-node 8 -m curate embed --pool pool --model M --name feats     # one process per GPU
curate embed --pool pool --model M --name feats --engine ray --workers 16     # on the cluster at RAY_ADDRESS
"""


class EmbedConfig(ExecutionOptions, ModelSettings, NamedConfig):
    """Configuration of `curate embed`."""

    pool: Ref = Field(description="Name of the pool to measure.")
    signals: tuple[Literal["loss", "entropy", "utility", "sketch", "embedding"], ...] = Field(
        ("loss", "entropy", "utility", "sketch", "embedding"),
        min_length=1,
        description="Signals to measure: loss, entropy, utility, sketch, embedding.",
    )
    d1: int = Field(8, ge=1, description="Number of rows of a sketch: the token positions are projected to it.")
    d2: int = Field(128, ge=1, description="Number of columns of a sketch: the vocabulary is projected to it.")
    seed: int = Field(0, description="Seed of the sketch's random projection.")
    bf16: bool = Field(False, description="Compute in bfloat16.")
    score_batch_tokens: Annotated[int | None, NOT_HASHED] = Field(
        None,
        ge=1,
        description="Maximum number of padded tokens in a forward pass; the default fits the device's memory.",
    )
    score_batch_size: Annotated[int | None, NOT_HASHED] = Field(
        None, ge=1, description="Maximum number of texts in a forward pass."
    )
    shard_rows: int = Field(
        2000, ge=1, description="Number of pool rows per shard; a stopped pass continues with the next missing shard."
    )

    def obvious_name(self) -> str:
        """Return the pool's name with `-features`."""
        return f"{self.pool}-features"


def run(config: EmbedConfig, inputs: Inputs, draft: Draft) -> None:
    """Measure every distinct sample of the pool, shard by shard; then index the sketches."""
    from ..lm.model.load import load_tokenizer
    from ..store.rows.pool_rows import PoolRows, write_repeats
    from ..store.vectors.index import write_index

    pool, location = inputs.artifacts["pool"], inputs.locations["model"]
    tokenizer = load_tokenizer(config.options(location))
    work = Embedding(config, location, pool, len(PoolRows(pool.shards())), draft)
    if not work.total:
        TokenizationReport(pool.name).log_or_raise(strict=config.strict)
    if draft.rank == 0 and not work.repeats.exists():
        write_repeats(pool.shards(), work.repeats)
    with config.session():
        seconds = executor_for(work, config, once=True).make(work.shards, label=f"embed {pool.name}")
    if draft.rank:
        return
    draft.sweep()
    report = read_report(draft, pool.name)
    report.rejected_rows = rows_with(pool, rejected_ids(draft))
    report.log_or_raise(strict=config.strict)
    write_text(draft.path / "reading.txt", tokenization_digest(config, tokenizer))
    if "sketch" in config.signals:
        write_index(draft.path, [draft.shard(number) for number in work.shards], "sketch")
    draft.rows = report.samples
    draft.summary = _summary(report, seconds)


def read_report(draft: Draft, pool: str) -> TokenizationReport:
    """Sum up the tokenization of all shards, from the records that they added."""
    import pyarrow.compute as pc

    report = TokenizationReport(pool)
    for records in draft.added("features", ["tokens", "truncated"]):
        report.samples += len(records)
        report.tokens += pc.sum(records["tokens"]).as_py() or 0
        report.cut += pc.sum(records["truncated"]).as_py() or 0
    for rejects in draft.added("rejects", ["sample_id", "reason"]):
        report.reject(dict(zip(rejects["sample_id"].to_pylist(), rejects["reason"].to_pylist(), strict=True)))
    return report


def rejected_ids(draft: Draft) -> set[str]:
    """Return the ids of the samples that were rejected."""
    added = draft.added("rejects", ["sample_id"])
    return {sample_id for records in added for sample_id in records["sample_id"].to_pylist()}


def _summary(report: TokenizationReport, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Build the summary. With several processes in a launch, `seconds` are those of the first process."""
    return {
        "samples": report.samples,
        **report.rejects(),
        "tokens": report.tokens,
        "cut": report.cut,
        "seconds": {part: round(spent, 2) for part, spent in seconds.items()},
    }


class Embedding(ShardedPass["EmbedConfig"]):
    """The pass that measures a pool, as tasks of one shard each."""

    @property
    def repeats(self) -> Path:
        """File that lists the rows with a repeated conversation; only the first of them is measured."""
        return self.draft.path / "repeats.parquet"

    def open(self) -> Worker[int]:
        """Load the model on the current device, while the first process of a launch writes the list of repeats."""
        worker = Embedder(self)
        while not self.repeats.exists():
            time.sleep(0.1)
        return worker


class Embedder:
    """Worker that measures and writes shards."""

    def __init__(self, work: Embedding) -> None:
        import torch

        from ..lm.input_limits import InputLimits
        from ..lm.model.load import load_model, load_tokenizer
        from ..lm.model.row_proof import with_packing
        from ..lm.model.scoring_batch import default_score_tokens
        from ..lm.model.scoring_model import make_scoring_model, verify_head
        from ..store.rows.pool_rows import PoolRows

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
        table, rejected, expansion = self._read(task)
        advance(self.work.size(task) - int(_ends(table).sum()))
        self.limits.require_table(table, f"The pool '{self.work.pool.name}'")
        timer = Stopwatch()
        values = self._measure(table, timer, advance) if len(table) else self.no_values
        draft, key = self.work.draft, f"{task:05d}"
        draft.add("features", _records(table, values), key=key)
        draft.reject(rejected, key=key)
        expansion.record(draft, key)
        draft.write(task, _vectors(table, values))
        return timer.seconds

    def _read(self, shard: int) -> tuple[TokenTable, dict[str, str], Expansion]:
        """Tokenize the samples of a shard; also return the rejected ones, sample id -> reason, and the expansion."""
        from ..lm.tokens.encode import encode_all
        from ..lm.tokens.token_table import TokenTable
        from ..store.rows.pool_rows import read_repeats

        rows, rejected = self.work.rows(shard), dict[str, str]()
        repeats = read_repeats(self.work.repeats, rows.start, rows.stop)
        samples = samples_between(self.pool, rows.start, rows.stop)
        first = ((position, sample) for position, sample in samples if position not in repeats)
        expansion = Expansion(self.encoder)
        table = TokenTable(encode_all(expansion(first), self.encoder, rejected), expansion.turns)
        if rejected and self.work.config.strict:
            report = TokenizationReport(self.work.pool.name)
            report.reject(rejected)
            report.log_or_raise(strict=True)
        return table, rejected, expansion

    def _measure(self, table: TokenTable, timer: Stopwatch, advance: Advance) -> dict[str, Tensor]:
        """Measure the signals of a shard. Batches depend only on the shard, not on the shards measured before."""
        import torch

        from ..lm.tokens.batch import collate
        from ..signals import ScoreBudget, measure

        config, scoring_model = self.work.config, self.scoring_model
        budget = ScoreBudget(tokens=self.tokens, texts=config.score_batch_size)
        parts: dict[str, list[Tensor]] = {}
        ends = _ends(table)
        for start in range(0, len(table), SORTED):
            rows = range(start, min(start + SORTED, len(table)))
            batch = collate([table[row] for row in rows], pad_token_id=0)
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
            advance(int(ends[rows.start : rows.stop].sum()))
        return {name: torch.cat(values) for name, values in parts.items()}


def _ends(table: TokenTable) -> npt.NDArray[np.bool_]:
    """Return (n,) True for the last sample of each row of the pool: progress counts rows, which may have answers."""
    return np.append(np.diff(table.positions) != 0, True)[: len(table)]


def _signals(config: EmbedConfig, scoring_model: ScoringModel) -> tuple[dict[str, Signal], dict[str, Tensor]]:
    """Return the signals to measure, by name, and their values for an empty batch."""
    import torch

    from ..numerics.srft import TwoSided
    from ..signals import Entropy, Loss, MeanHidden, Sketch, Utility

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


def _records(table: TokenTable, values: Mapping[str, Tensor]) -> pa.Table:
    """Build the records of the table `features`: one per sample."""
    import pyarrow as pa

    return pa.table(
        {
            "sample_id": pa.array(table.ids, pa.string()),
            "tokens": pa.array(table.lengths, pa.int32()),
            "target_tokens": pa.array(table.target_tokens, pa.int32()),
            "truncated": pa.array(table.truncated, pa.bool_()),
            **{name: values[name].double().numpy() for name in ("loss", "entropy", "utility") if name in values},
            **({"sketch_norm": values["sketch"].double().norm(dim=1).numpy()} if "sketch" in values else {}),
        }
    )


def _vectors(table: TokenTable, values: Mapping[str, Tensor]) -> pa.Table:
    """Build the shard's vectors: unit vectors in float16.

    At unit length the direction keeps three digits for any norm. The norm of a sketch is a record (`sketch_norm`).
    """
    import pyarrow as pa
    from torch.nn.functional import normalize

    columns = {"sample_id": pa.array(table.ids, pa.string())}
    for name in (name for name in ("sketch", "embedding") if name in values):
        unit = normalize(values[name].float(), dim=1).half().numpy()
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(unit.reshape(-1)), unit.shape[1])
    return pa.table(columns)


STAGE = Stage(EmbedConfig, run, EXAMPLES, distributed=True)
