"""`curate embed`: one pass of a model over a pool. What it says of every sample becomes columns in SQL and vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ..config import INERT, Config, Ref
from ..log import Stopwatch, bar
from ..store import Draft
from .inputs import Inputs
from .reading import Reading, encode_pool, reading_digest

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from ..lm.encode import TokenTable
    from ..lm.load import Eyes
    from ..signals import Signal

EXAMPLES = """\
curate embed --pool pool --model Qwen/Qwen2.5-0.5B --name feats
curate embed --pool pool --model ./my-model --name feats --max-length 1024 --bf16
curate embed --pool pool --model REFERENCE --signals loss --name reference     # what rho compares with
curate embed --pool pool --model run --name after     # the model that `curate train --name run` made
"""


class EmbedConfig(Reading, Config):
    """How a pool is embedded."""

    pool: Ref = Field(description="The pool, as named at ingest.")
    signals: tuple[Literal["loss", "entropy", "utility", "sketch", "embedding"], ...] = Field(
        ("loss", "entropy", "utility", "sketch", "embedding"), min_length=1, description="What to measure."
    )
    d1: int = Field(8, ge=1, description="Rows of a sketch: over positions.")
    d2: int = Field(128, ge=1, description="Columns of a sketch: over the vocabulary.")
    seed: int = Field(0, description="Seed of the sketch.")
    bf16: bool = Field(False, description="Compute in bfloat16.")
    score_batch_size: Annotated[int, INERT] = Field(16, ge=1, description="Texts measured at once.")
    shard_rows: int = Field(2000, ge=1, description="Samples a shard; a stopped pass goes on at the next shard.")


CONFIG = EmbedConfig


def run(config: EmbedConfig, inputs: Inputs, draft: Draft) -> None:
    """Measure every distinct sample of the pool, shard by shard; then index the sketches."""
    import torch

    from ..lm.load import load_model, load_tokenizer, look_into, prove
    from ..store.vectors import write_index

    options = config.options(inputs.places["model"])
    tokenizer = load_tokenizer(options)
    table, refused = encode_pool(config, tokenizer, inputs.artifacts["pool"], distinct=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    watch = Stopwatch()
    shards = -(-len(table) // config.shard_rows)
    pending = list(draft.pending(shards))
    if pending:
        model = load_model(options).to(device)
        eyes = prove(look_into(model, autocast=torch.bfloat16 if config.bf16 else None))
        signals = _signals(config, eyes)
        done = (shards - len(pending)) * config.shard_rows
        with bar(total=len(table), label=f"embed {config.pool}", unit="sample", initial=done) as progress:
            for shard in pending:
                rows = range(shard * config.shard_rows, min((shard + 1) * config.shard_rows, len(table)))
                values = _measure(config, eyes, signals, table, rows, watch, progress)
                draft.add("features", _facts(table, rows, values), key=f"{shard:05d}")
                draft.write(shard, _vectors(table, rows, values))
    _reject(draft, refused)
    (draft.path / "reading.txt").write_text(reading_digest(config, tokenizer), encoding="utf-8")
    if "sketch" in config.signals:
        write_index(draft.path, [draft.shard(number) for number in range(shards)], "sketch")
    draft.rows = len(table)
    draft.summary = {
        "samples": len(table),
        "refused": len(refused),
        "tokens": int(table.lengths.sum()),
        "cut": int(table.truncated.sum()),
        "seconds": {part: round(seconds, 2) for part, seconds in watch.seconds.items()},
    }


def _signals(config: EmbedConfig, eyes: Eyes) -> dict[str, Signal]:
    from ..numerics.srft import TwoSided
    from ..signals import Entropy, Loss, MeanHidden, Sketch, Utility

    srft = TwoSided.draw(
        d1=config.d1, d2=config.d2, max_length=config.max_length, vocab_size=eyes.head.vocab_size, seed=config.seed
    )
    known: dict[str, Signal] = {
        "entropy": Entropy(),
        "loss": Loss(),
        "utility": Utility(),
        "sketch": Sketch(srft),
        "embedding": MeanHidden(),
    }
    return {name: signal for name, signal in known.items() if name in config.signals}


def _measure(
    config: EmbedConfig,
    eyes: Eyes,
    signals: Mapping[str, Signal],
    table: TokenTable,
    rows: range,
    watch: Stopwatch,
    progress: Any,
) -> dict[str, Tensor]:
    """A shard's signals, a few micro-batches at a time so that the bar moves."""
    import torch

    from ..lm.encode import collate
    from ..signals import measure

    device = eyes.head.weight.device
    found: dict[str, list[Tensor]] = {}
    step = config.score_batch_size * 8
    for start in range(rows.start, rows.stop, step):
        part = range(start, min(start + step, rows.stop))
        batch = collate([table[row] for row in part], pad_token_id=0)
        del batch["index"]
        batch = {key: value.to(device) for key, value in batch.items()}
        with eyes.open():
            values = measure(eyes.hidden, eyes.head, batch, signals, micro_batch=config.score_batch_size, watch=watch)
        for name, value in values.items():
            found.setdefault(name, []).append(value.cpu())
        progress.update(len(part))
    return {name: torch.cat(parts) for name, parts in found.items()}


def _facts(table: TokenTable, rows: range, values: Mapping[str, Tensor]) -> pa.Table:
    import pyarrow as pa

    span = slice(rows.start, rows.stop)
    return pa.table(
        {
            "sample_id": table.ids[span],
            "tokens": pa.array(table.lengths[span], pa.int32()),
            "target_tokens": pa.array(table.target_tokens[span], pa.int32()),
            "truncated": table.truncated[span],
            **{name: values[name].double().numpy() for name in ("loss", "entropy", "utility") if name in values},
            **({"sketch_norm": values["sketch"].double().norm(dim=1).numpy()} if "sketch" in values else {}),
        }
    )


def _vectors(table: TokenTable, rows: range, values: Mapping[str, Tensor]) -> pa.Table:
    """Unit vectors in float16: the direction keeps three digits whatever the length, which is a fact of its own."""
    import pyarrow as pa
    from torch.nn.functional import normalize

    columns = {"sample_id": pa.array(table.ids[rows.start : rows.stop])}
    for name in (name for name in ("sketch", "embedding") if name in values):
        unit = normalize(values[name].float(), dim=1).half().numpy()
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(unit.reshape(-1)), unit.shape[1])
    return pa.table(columns)


def _reject(draft: Draft, refused: Mapping[str, str]) -> None:
    import pyarrow as pa

    if refused:
        draft.add("rejects", pa.table({"sample_id": list(refused), "reason": list(refused.values())}))
