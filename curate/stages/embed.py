"""`curate embed`: one pass of a model over a pool. What it says of every sample becomes columns in SQL and vectors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ..config import NOT_HASHED, Config, Ref
from ..executors.options import ExecutionOptions, executor_for
from ..executors.pool_pass import ShardedPass
from ..executors.work import Advance, Worker
from ..log import Stopwatch
from ..store import Draft
from .inputs import Inputs
from .pools import samples_between
from .stage import Stage
from .tokenization import ModelSettings, TokenizationReport, tokenization_digest

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from ..lm.model.scoring_model import ScoringModel
    from ..lm.tokens.token_table import TokenTable
    from ..signals import Signal

SORTED = 512
"""Texts that are put in order of length together: the more, the less padding; their tokens are in memory at once."""
EXAMPLES = """\
curate embed --pool pool --model Qwen/Qwen2.5-0.5B --name feats
curate embed --pool pool --model ./my-model --name feats --max-length 1024 --bf16
curate embed --pool pool --model REFERENCE --signals loss --name reference     # what rho compares with
curate embed --pool pool --model run --name after     # the model that `curate train --name run` made
torchrun --nproc-per-node 8 -m curate embed --pool pool --model M --name feats     # a GPU each
curate embed --pool pool --model M --name feats --engine ray --workers 16     # on the cluster at RAY_ADDRESS
"""


class EmbedConfig(ExecutionOptions, ModelSettings, Config):
    """How a pool is embedded."""

    pool: Ref = Field(description="The pool, as named at ingest.")
    signals: tuple[Literal["loss", "entropy", "utility", "sketch", "embedding"], ...] = Field(
        ("loss", "entropy", "utility", "sketch", "embedding"), min_length=1, description="What to measure."
    )
    d1: int = Field(8, ge=1, description="Rows of a sketch: over positions.")
    d2: int = Field(128, ge=1, description="Columns of a sketch: over the vocabulary.")
    seed: int = Field(0, description="Seed of the sketch.")
    bf16: bool = Field(False, description="Compute in bfloat16.")
    score_batch_tokens: Annotated[int | None, NOT_HASHED] = Field(
        None, ge=1, description="Padded tokens measured at once; by default what the device's memory holds."
    )
    score_batch_size: Annotated[int | None, NOT_HASHED] = Field(
        None, ge=1, description="Texts measured at once, at most."
    )
    shard_rows: int = Field(
        2000, ge=1, description="Rows of the pool a shard; a stopped pass goes on at the next shard."
    )


def run(config: EmbedConfig, inputs: Inputs, draft: Draft) -> None:
    """Measure every distinct sample of the pool, shard by shard; then index the sketches."""
    from ..lm.model.load import load_tokenizer
    from ..store.rows.pool_rows import PoolRows, write_repeats
    from ..store.vectors.index import write_index

    pool, place = inputs.artifacts["pool"], inputs.locations["model"]
    tokenizer = load_tokenizer(config.options(place))
    work = Embedding(config, place, pool, len(PoolRows(pool.shards())), draft)
    if not work.total:
        TokenizationReport(pool.name).say(strict=config.strict)
    if draft.rank == 0 and not work.repeats.exists():
        write_repeats(pool.shards(), work.repeats)
    with config.session():
        seconds = executor_for(work, config, once=True).make(work.shards, label=f"embed {pool.name}")
    if draft.rank:
        return
    draft.sweep()
    outcome = read_report(draft, pool.name)
    outcome.say(strict=config.strict)
    (draft.path / "reading.txt").write_text(tokenization_digest(config, tokenizer), encoding="utf-8")
    if "sketch" in config.signals:
        write_index(draft.path, [draft.shard(number) for number in work.shards], "sketch")
    draft.rows = outcome.samples
    draft.summary = _summary(outcome, seconds)


def read_report(draft: Draft, pool: str) -> TokenizationReport:
    """What came of it, from the facts of the shards."""
    import pyarrow.compute as pc

    outcome = TokenizationReport(pool)
    for facts in draft.added("features", ["tokens", "truncated"]):
        outcome.samples += len(facts)
        outcome.tokens += pc.sum(facts["tokens"]).as_py() or 0
        outcome.cut += pc.sum(facts["truncated"]).as_py() or 0
    for rejects in draft.added("rejects", ["sample_id", "reason"]):
        outcome.refuse(dict(zip(rejects["sample_id"].to_pylist(), rejects["reason"].to_pylist(), strict=True)))
    return outcome


def _summary(outcome: TokenizationReport, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Of several processes of a launch, the seconds are those of the first."""
    return {
        "samples": outcome.samples,
        "refused": outcome.refused,
        "tokens": outcome.tokens,
        "cut": outcome.cut,
        "seconds": {part: round(spent, 2) for part, spent in seconds.items()},
    }


class Embedding(ShardedPass["EmbedConfig"]):
    """The features of a pool, made shard by shard."""

    @property
    def repeats(self) -> Path:
        """Where it is written down which rows are repeats: a conversation counts where it comes first."""
        return self.draft.path / "repeats.parquet"

    def open(self) -> Worker[int]:
        """Load the model, on the current device; the first process of a launch says meanwhile what repeats."""
        maker = Embedder(self)
        while not self.repeats.exists():
            time.sleep(0.1)
        return maker


class Embedder:
    """Makes shards."""

    def __init__(self, work: Embedding) -> None:
        import torch

        from ..lm.model.load import load_model, load_tokenizer
        from ..lm.model.scoring_batch import default_score_tokens
        from ..lm.model.scoring_model import make_scoring_model, verify_head
        from ..lm.tokens.encode import Encoder
        from ..store.rows.pool_rows import PoolRows

        config = work.config
        options = config.options(work.model_location)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.work = work
        self.pool = PoolRows(work.pool.shards())
        self.encoder = Encoder(load_tokenizer(options), max_length=config.max_length, loss_on=config.loss_on)
        self.scoring_model = verify_head(
            make_scoring_model(load_model(options).to(device), autocast=torch.bfloat16 if config.bf16 else None)
        )
        self.signals, self.nothing = _signals(config, self.scoring_model)
        self.tokens = config.score_batch_tokens or default_score_tokens(
            self.scoring_model.model, self.scoring_model.head.weight.device, max_length=config.max_length
        )

    def __call__(self, task: int, advance: Advance) -> Mapping[str, float]:
        """Write the facts of a shard, then its vectors, which say that it is made."""
        table, refused = self._read(task)
        advance(self.work.size(task) - len(table))
        timer = Stopwatch()
        values = self._measure(table, timer, advance) if len(table) else self.nothing
        draft, key = self.work.draft, f"{task:05d}"
        draft.add("features", _facts(table, values), key=key)
        if refused:
            draft.add("rejects", _rejects(refused), key=key)
        draft.write(task, _vectors(table, values))
        return timer.seconds

    def _read(self, shard: int) -> tuple[TokenTable, dict[str, str]]:
        """The samples of a shard as tokens, and those that cannot be trained on."""
        from ..lm.tokens.encode import encode_all
        from ..lm.tokens.token_table import TokenTable
        from ..store.rows.pool_rows import read_repeats

        rows, refused = self.work.rows(shard), dict[str, str]()
        repeats = read_repeats(self.work.repeats, rows.start, rows.stop)
        samples = samples_between(self.pool, rows.start, rows.stop)
        fresh = ((position, sample) for position, sample in samples if position not in repeats)
        table = TokenTable(encode_all(fresh, self.encoder, refused))
        if refused and self.work.config.strict:
            outcome = TokenizationReport(self.work.pool.name)
            outcome.refuse(refused)
            outcome.say(strict=True)
        return table, refused

    def _measure(self, table: TokenTable, timer: Stopwatch, advance: Advance) -> dict[str, Tensor]:
        """A shard's signals. What is measured together depends on the shard alone, and not on what came before it."""
        import torch

        from ..lm.tokens.batch import collate
        from ..signals import ScoreBudget, measure

        config, scoring_model = self.work.config, self.scoring_model
        budget = ScoreBudget(tokens=self.tokens, texts=config.score_batch_size)
        found: dict[str, list[Tensor]] = {}
        for start in range(0, len(table), SORTED):
            part = range(start, min(start + SORTED, len(table)))
            batch = collate([table[row] for row in part], pad_token_id=0)
            with scoring_model.eval_mode():
                values = measure(scoring_model.hidden, scoring_model.head, batch, self.signals, budget, timer=timer)
            for name, value in values.items():
                found.setdefault(name, []).append(value.cpu())
            advance(len(part))
        return {name: torch.cat(parts) for name, parts in found.items()}


def _signals(config: EmbedConfig, scoring_model: ScoringModel) -> tuple[dict[str, Signal], dict[str, Tensor]]:
    """What is measured, by name, and what is said of no samples at all."""
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
    wanted: dict[str, Signal] = {name: signal for name, signal in known.items() if name in config.signals}
    return wanted, {name: torch.zeros(0, *widths.get(name, ())) for name in wanted}


def _facts(table: TokenTable, values: Mapping[str, Tensor]) -> pa.Table:
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
    """Unit vectors in float16: the direction keeps three digits whatever the length, which is a fact of its own."""
    import pyarrow as pa
    from torch.nn.functional import normalize

    columns = {"sample_id": pa.array(table.ids, pa.string())}
    for name in (name for name in ("sketch", "embedding") if name in values):
        unit = normalize(values[name].float(), dim=1).half().numpy()
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(unit.reshape(-1)), unit.shape[1])
    return pa.table(columns)


def _rejects(refused: Mapping[str, str]) -> pa.Table:
    import pyarrow as pa

    return pa.table({"sample_id": list(refused), "reason": list(refused.values())})


STAGE = Stage(EmbedConfig, run, EXAMPLES, distributed=True)
