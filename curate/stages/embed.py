"""`curate embed`: one pass of a model over a pool. What it says of every sample becomes columns in SQL and vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from ..config import INERT, Config, Ref
from ..executors.options import Spreading, crew_of
from ..store import Draft
from .embed_shard import Embedding
from .inputs import Inputs
from .tokenization import Outcome, Reading, reading_digest

EXAMPLES = """\
curate embed --pool pool --model Qwen/Qwen2.5-0.5B --name feats
curate embed --pool pool --model ./my-model --name feats --max-length 1024 --bf16
curate embed --pool pool --model REFERENCE --signals loss --name reference     # what rho compares with
curate embed --pool pool --model run --name after     # the model that `curate train --name run` made
torchrun --nproc-per-node 8 -m curate embed --pool pool --model M --name feats     # a GPU each
curate embed --pool pool --model M --name feats --engine ray --workers 16     # on the cluster at RAY_ADDRESS
"""


class EmbedConfig(Spreading, Reading, Config):
    """How a pool is embedded."""

    pool: Ref = Field(description="The pool, as named at ingest.")
    signals: tuple[Literal["loss", "entropy", "utility", "sketch", "embedding"], ...] = Field(
        ("loss", "entropy", "utility", "sketch", "embedding"), min_length=1, description="What to measure."
    )
    d1: int = Field(8, ge=1, description="Rows of a sketch: over positions.")
    d2: int = Field(128, ge=1, description="Columns of a sketch: over the vocabulary.")
    seed: int = Field(0, description="Seed of the sketch.")
    bf16: bool = Field(False, description="Compute in bfloat16.")
    score_batch_tokens: Annotated[int | None, INERT] = Field(
        None, ge=1, description="Padded tokens measured at once; by default what the device's memory holds."
    )
    score_batch_size: Annotated[int | None, INERT] = Field(None, ge=1, description="Texts measured at once, at most.")
    shard_rows: int = Field(
        2000, ge=1, description="Rows of the pool a shard; a stopped pass goes on at the next shard."
    )


CONFIG = EmbedConfig
DISTRIBUTED = True


def run(config: EmbedConfig, inputs: Inputs, draft: Draft) -> None:
    """Measure every distinct sample of the pool, shard by shard; then index the sketches."""
    from ..lm.model.load import load_tokenizer
    from ..store.rows.pool_rows import PoolRows, write_repeats
    from ..store.vectors.index import write_index

    pool, place = inputs.artifacts["pool"], inputs.places["model"]
    tokenizer = load_tokenizer(config.options(place))
    work = Embedding(config, place, pool, len(PoolRows(pool.shards())), draft)
    if not work.total:
        Outcome(pool.name).say(strict=config.strict)
    if draft.rank == 0 and not work.repeats.exists():
        write_repeats(pool.shards(), work.repeats)
    with config.connected():
        seconds = crew_of(work, config, once=True).make(work.shards, label=f"embed {pool.name}")
    if draft.rank:
        return
    draft.sweep()
    outcome = read_outcome(draft, pool.name)
    outcome.say(strict=config.strict)
    (draft.path / "reading.txt").write_text(reading_digest(config, tokenizer), encoding="utf-8")
    if "sketch" in config.signals:
        write_index(draft.path, [draft.shard(number) for number in work.shards], "sketch")
    draft.rows = outcome.samples
    draft.summary = _summary(outcome, seconds)


def read_outcome(draft: Draft, pool: str) -> Outcome:
    """What came of it, from the facts of the shards."""
    import pyarrow.compute as pc

    outcome = Outcome(pool)
    for facts in draft.added("features", ["tokens", "truncated"]):
        outcome.samples += len(facts)
        outcome.tokens += pc.sum(facts["tokens"]).as_py() or 0
        outcome.cut += pc.sum(facts["truncated"]).as_py() or 0
    for rejects in draft.added("rejects", ["sample_id", "reason"]):
        outcome.refuse(dict(zip(rejects["sample_id"].to_pylist(), rejects["reason"].to_pylist(), strict=True)))
    return outcome


def _summary(outcome: Outcome, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Of several processes of a launch, the seconds are those of the first."""
    return {
        "samples": outcome.samples,
        "refused": outcome.refused,
        "tokens": outcome.tokens,
        "cut": outcome.cut,
        "seconds": {part: round(spent, 2) for part, spent in seconds.items()},
    }
