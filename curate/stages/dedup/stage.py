"""`curate dedup`: keep one sample of each group of copies in a pool.

The result is a subset like that of `curate subset`: its data, and records of the table `subsets`, have one row per
sample that is kept, in the order of the pool. The table `duplicates` has the pairs that were found.
"""

from __future__ import annotations

from ...errors import ConfigError, DataError
from ...runtime.terminal import cell
from ...store import Draft
from ..inputs import Inputs
from ..stage import Stage
from ..subsets import write_subset
from .config import DedupConfig
from .groups import Groups, Rows, group
from .texts import rows_of

EXAMPLES = """\
curate dedup --pool pool --name clean
curate dedup --pool pool --by exact --on prompt --name one-per-question
curate dedup --pool pool --against held --threshold 0.7 --keep longest --name clean
curate train --pool pool --subset clean --selector full --model M --name tuned"""

SHOWN_PAIRS = 5


def run(config: DedupConfig, inputs: Inputs, draft: Draft) -> None:
    """Write the kept samples as a subset, and the pairs as records of the table `duplicates`."""
    pool, against = inputs.artifacts["pool"], inputs.artifacts.get("against")
    if against is not None and against.fingerprint == pool.fingerprint:
        raise ConfigError("--against names the same pool as --pool: all of it would be left out. Name another pool.")
    rows = Rows(config.on, config.by == "minhash")
    if against is not None:
        rows.add(rows_of(against), other=True)
    rows.add(rows_of(pool))
    found = group(rows, config.threshold, config.keep)
    if not len(found.kept):
        raise DataError(
            f"Each of the {len(rows.ids) - rows.other} samples has a copy in the other pool: there is nothing to keep."
        )
    ids = [rows.ids[row] for row in found.kept.tolist()]
    write_subset(draft, ids)
    draft.add("duplicates", found.pairs)
    draft.summary = {"samples": len(ids), "of the rows of the pool": pool.rows, **_summary(rows, found)}


def _summary(rows: Rows, found: Groups) -> dict[str, object]:
    """Return what was found, and the first pairs of the table `duplicates`."""
    summary: dict[str, object] = dict(found.counts)
    if not rows.other:
        del summary["removed with a copy in the other pool"]
    if rows.repeats:
        summary["rows that hold a sample again"] = rows.repeats
    if rows.empty:
        summary["rows without a prompt or an answer to compare"] = rows.empty
    pairs = [
        f"{cell(pair['sample_id'])} of {cell(pair['other_id'])}, {pair['kind']}"
        + ("" if pair["jaccard"] is None else f" {pair['jaccard']:.3f}")
        for pair in found.pairs.slice(0, SHOWN_PAIRS).to_pylist()
    ]
    return summary | ({"first pairs": "; ".join(pairs)} if pairs else {})


STAGE = Stage(DedupConfig, run, EXAMPLES)
