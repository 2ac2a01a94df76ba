"""`curate decontaminate`: leave out the samples of a pool that hold held-out rows.

The result is a subset like that of `curate dedup`: its data, and records of the table `subsets`, have one row per
sample that is kept, in the order of the pool. The table `leaks` has each pair that was found, with its evidence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import pyarrow as pa

from ...errors import ConfigError, DataError
from ...runtime.terminal import cell
from ...samples import to_json
from ...store import Draft
from ..dedup.sets import Ints
from ..inputs import Inputs
from ..stage import Stage
from ..subsets import write_subset
from .config import DecontaminateConfig
from .leaks import Held, Leak, Scan, find_leaks
from .rows import against_pools, held_rows, pool_rows, task_rows

EXAMPLES = """\
curate decontaminate --pool pool --against held --name clean
curate decontaminate --pool pool --against held --against task:gsm8k --threshold 0.6 --name clean
curate decontaminate --pool pool --against held --features feats --target-features held-feats --name clean
curate query "SELECT kind, score, sample_id, against_sample_id, passage FROM leaks WHERE subset = 'clean'"
curate train --pool pool --subset clean --selector full --model M --name tuned"""

LEAKS = pa.schema(
    [
        *((name, pa.string()) for name in ("pool", "sample_id")),
        ("position", pa.int64()),
        *((name, pa.string()) for name in ("against", "against_sample_id")),
        ("against_position", pa.int64()),
        ("kind", pa.string()),
        ("score", pa.float64()),
        ("evidence", pa.float64()),
        ("passage", pa.string()),
    ]
)
SHOWN_LEAKS = 5


def more_inputs(config: DecontaminateConfig, inputs: Inputs) -> dict[str, str]:
    """Return a digest of the questions of tasks: they come from outside the store."""
    if not config.tasks:
        return {}
    questions = [[each.against, each.row.question, each.row.answer] for each in task_rows(config, inputs)]
    return {"tasks": "b2:" + blake2b(to_json(questions).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()}


def run(config: DecontaminateConfig, inputs: Inputs, draft: Draft) -> None:
    """Write the kept samples as a subset, and the pairs as records of the table `leaks`."""
    pool, others = inputs.artifacts["pool"], against_pools(inputs)
    if any(other.fingerprint == pool.fingerprint for other in others):
        raise ConfigError("--against names the same pool as --pool: all of it would be left out. Name another pool.")
    held = [row for other in others for row in held_rows(other)] + task_rows(config, inputs)
    if not any(row.question.parts for row in held):
        raise DataError("Nothing is held out: none of the rows of --against has a question with words.")
    ids = [sample_id for part in pool.tables(["sample_id"]) for sample_id in part["sample_id"].to_pylist()]

    def neighbours(scan: Scan) -> Ints:
        from .neighbours import nearest

        return nearest(config, inputs, scan, ids, held)

    found = find_leaks(
        lambda: pool_rows(pool), held, config.threshold, neighbours if config.features is not None else None
    )
    left_out = {leak.row.sample_id for leak in found}
    kept = [sample_id for sample_id in dict.fromkeys(ids) if sample_id not in left_out]
    if not kept:
        raise DataError(f"Each of the {len(set(ids))} samples holds a held-out row: there is nothing to keep.")
    write_subset(draft, kept)
    draft.add("leaks", table(pool.name, held, found))
    summary = _summary(held, found)
    if repeats := len(ids) - len(set(ids)):
        summary["rows that hold a sample again"] = repeats
    draft.summary = {"samples": len(kept), "of the rows of the pool": pool.rows, **summary}


def table(pool: str, held: Sequence[Held], leaks: Sequence[Leak]) -> pa.Table:
    """Build records of the table `leaks`, in the order of the pool."""
    rows = [
        {
            "pool": pool,
            "sample_id": leak.row.sample_id,
            "position": leak.row.position,
            "against": held[leak.held].against,
            "against_sample_id": held[leak.held].row.sample_id,
            "against_position": held[leak.held].row.position,
            "kind": leak.kind,
            "score": leak.score,
            "evidence": leak.evidence,
            "passage": leak.passage,
        }
        for leak in leaks
    ]
    return pa.Table.from_pylist(rows, schema=LEAKS)


def _summary(held: Sequence[Held], leaks: Sequence[Leak]) -> dict[str, object]:
    """Return what was found, and the first pairs of the table `leaks`."""
    kinds: dict[int, str] = {}
    for leak in leaks:
        kinds.setdefault(leak.row.position, leak.kind)
    summary: dict[str, object] = {
        "held-out rows": len(held),
        "held-out rows in the pool": len({leak.held for leak in leaks}),
        "rows of the pool with one": len(kinds),
    }
    summary |= {f"as {kind}": count for kind, count in sorted(Counter(kinds.values()).items())}
    shown = [
        f"{cell(leak.row.sample_id)} has {cell(held[leak.held].row.sample_id)}, {leak.kind} {leak.score:.3f}: "
        f"{cell(leak.passage[:60])}"
        for leak in leaks[:SHOWN_LEAKS]
    ]
    return summary | ({"first leaks": "; ".join(shown)} if shown else {})


STAGE = Stage(DecontaminateConfig, run, EXAMPLES, more_inputs=more_inputs)
