"""`curate embed`: measure every distinct sample of a pool with one pass of a model.

Numbers (loss, entropy, utility, lengths) become records of the table `features`; sketches and embeddings become vectors
in the artifact's shards. A shard covers a fixed block of the pool's rows and is written atomically, so processes can
share the work and a stopped pass continues with the shards that are missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...executors.options import executor_for
from ...store import Draft
from ...store.artifacts.files import write_text
from ...store.artifacts.safe_files import remove
from ..inputs import Inputs
from ..pools import rows_with
from ..stage import Stage
from ..tokens.tokenization import TokenizationReport, tokenization_digest
from .before import count_missing, write_before
from .config import EmbedConfig
from .earlier import Earlier, earlier_features, write_known
from .encoding import EncodingReport, encoder_reading
from .preview import more_inputs, preview
from .workers import Embedding

EXAMPLES = """\
curate embed --pool pool --model Qwen/Qwen2.5-0.5B --name feats
curate embed --pool pool --model ./my-model --name feats --max-length 1024 --bf16
curate embed --pool pool --model REFERENCE --signals loss --name reference     # the reference losses of rho
curate embed --pool grown --model M --name feats --dry-run     # how many samples are new
curate embed --pool pool --model run --name after     # the model that `curate train --name run` trained
curate embed --pool pool --model run --before feats --name after     # and what it has learnt since `feats`
curate embed --pool pool --encoder ./all-MiniLM-L6-v2 --on prompt --name topics     # a sentence encoder
curate embed --pool pool --model M --signals ifd,surprise,quantiles --name quality     # find bad and easy rows
curate embed --pool pool --model M --signals weighted_embedding --name rds-plus     # for rds of curate select
torchrun --nproc-per-node 8 -m curate embed --pool pool --model M --name feats     # one process per GPU
curate embed --pool pool --model M --name feats --engine ray --workers 16     # on the cluster at RAY_ADDRESS
"""


def run(config: EmbedConfig, inputs: Inputs, draft: Draft) -> None:
    """Measure every distinct sample of the pool, shard by shard; then index the sketches."""
    from ...store.vectors.index import write_index

    pool = inputs.artifacts["pool"]
    work, reading = _prepared(config, inputs, draft)
    with config.session():
        seconds = executor_for(work, config, once=True).make(work.shards, label=f"embed {pool.name}")
    if draft.rank:
        return
    draft.sweep()
    report = read_report(draft, _report(config, pool.name))
    report.rejected_rows = rows_with(pool, rejected_ids(draft))
    report.log_or_raise(strict=config.strict)
    write_text(draft.path / "reading.txt", reading)
    if "sketch" in config.signals:
        write_index(draft.path, [draft.shard(number) for number in work.shards], "sketch")
    draft.rows = report.samples
    draft.summary = _summary(
        report, Earlier.read(work.known, work.earlier).count(draft.added("features", ["sample_id"])), seconds
    )
    if config.before and (missing := count_missing(draft, config.before)):
        draft.summary["without an earlier loss"] = missing
    for path in {*work.lists} - {work.repeats}:
        remove(path)


def _prepared(config: EmbedConfig, inputs: Inputs, draft: Draft) -> tuple[Embedding, str]:
    """Return the pass, and the digest of what it reads; the first process writes the lists that all tasks need."""
    from ...store.rows.pool_rows import PoolRows, write_repeats

    pool = inputs.artifacts["pool"]
    location, reading = _reading(config, inputs)
    earlier = tuple(earlier_features(config, inputs, reading))
    work = Embedding(config, location, pool, len(PoolRows(pool.shards())), draft, earlier=earlier)
    if not work.total:
        _report(config, pool.name).log_or_raise(strict=config.strict)
    if draft.rank == 0 and not work.known.exists():
        write_known(inputs.store, earlier, config.signals, work.known)
    if draft.rank == 0 and config.before and not work.losses_before.exists():
        write_before(inputs, reading, work.losses_before)
    if draft.rank == 0 and not work.repeats.exists():
        write_repeats(pool.shards(), work.repeats)
    return work, reading


def tasks(config: EmbedConfig, inputs: Inputs, draft: Draft) -> tuple[Embedding, range]:
    """Return the pass and the numbers of its shards, for jobs that share them."""
    work, _ = _prepared(config, inputs, draft)
    return work, work.shards


def _reading(config: EmbedConfig, inputs: Inputs) -> tuple[str, str]:
    """Return the location of what measures, and a digest of everything that decides the tokens which it reads."""
    if config.encoder is not None:
        return inputs.locations["encoder"], encoder_reading(config)
    from ...lm.model.load import load_tokenizer

    location = inputs.locations["model"]
    return location, tokenization_digest(config, load_tokenizer(config.options(location)))


def _report(config: EmbedConfig, pool: str) -> TokenizationReport:
    return TokenizationReport(pool) if config.encoder is None else EncodingReport(pool)


def read_report(draft: Draft, report: TokenizationReport) -> TokenizationReport:
    """Sum up the tokenization of all shards in an empty report, from the records that they added."""
    import pyarrow.compute as pc

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


def _summary(report: TokenizationReport, known: int, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Build the summary. With several processes in a launch, `seconds` are those of the first process."""
    return {
        "samples": report.samples,
        **({"of these from earlier features": known} if known else {}),
        **report.rejects(),
        "tokens": report.tokens,
        "cut": report.cut,
        "seconds": {part: round(spent, 2) for part, spent in seconds.items()},
    }


STAGE = Stage(EmbedConfig, run, EXAMPLES, distributed=True, more_inputs=more_inputs, preview=preview, tasks=tasks)
