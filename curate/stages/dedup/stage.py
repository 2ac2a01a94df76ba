"""`curate dedup`: keep one sample of each group of copies in a pool.

The result is a subset like that of `curate subset`: its data, and records of the table `subsets`, have one row per
sample that is kept, in the order of the pool. The table `duplicates` has the pairs that were found.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ...errors import ConfigError, DataError
from ...runtime.terminal import cell
from ...store import Draft
from ..export.selection import digest
from ..inputs import Inputs
from ..stage import Stage
from ..subset.members import MEMBERS, check_same_answer
from ..subsets import write_subset
from .config import DedupConfig
from .earlier import find_measured, write_measured
from .groups import Groups, group
from .keep import score_query, scores
from .rows import Compared, Rows
from .sets import Floats, SetsBuilder
from .texts import rows_of

EXAMPLES = """\
curate dedup --pool pool --name clean
curate dedup --pool pool --by exact --on prompt --name one-per-question
curate dedup --pool pool --against held --threshold 0.7 --keep longest --name clean
curate dedup --pool pool --keep lowest:loss --features pool-features --name clean
curate dedup --pool pool --by embedding --features pool-features --name clean
curate train --pool pool --subset clean --selector full --model M --name tuned"""

SHOWN_PAIRS = 5
CHOICE = "scores"
"""Key of the digest of what the query returns among the fingerprints."""


def more_inputs(config: DedupConfig, inputs: Inputs) -> dict[str, str]:
    """Return a digest of the scores that the query returns."""
    return {} if config.sql is None else {CHOICE: digest(score_query(config, inputs), MEMBERS.names)}


def run(config: DedupConfig, inputs: Inputs, draft: Draft) -> None:
    """Write the kept samples as a subset, and the pairs as records of the table `duplicates`."""
    pool, against = inputs.artifacts["pool"], inputs.artifacts.get("against")
    if against is not None and against.fingerprint == pool.fingerprint:
        raise ConfigError("--against names the same pool as --pool: all of it would be left out. Name another pool.")
    earlier = find_measured(config, inputs)
    rows = measure(config, inputs) if earlier is None else earlier[1]
    given = None if config.sql is None else score_query(config, inputs)
    if given is not None:
        check_same_answer(inputs.store, draft.fingerprint, CHOICE, digest(given, MEMBERS.names))
    score = scores(config, inputs, rows, given)
    found = group(rows, config.threshold, score, cosine=config.by == "embedding")
    if not len(found.kept):
        raise DataError(
            f"Each of the {len(rows.ids) - rows.other} samples has a copy in the other pool: there is nothing to keep."
        )
    ids = [rows.ids[row] for row in found.kept.tolist()]
    write_measured(draft.path, rows)
    write_subset(draft, ids, _kept_scores(config, score, found))
    draft.add("duplicates", found.pairs)
    draft.summary = {"samples": len(ids), "of the rows of the pool": pool.rows, **_summary(config, rows, found)}
    if score is not None and (missing := int(np.isnan(score[rows.other :]).sum())):
        draft.summary["samples without a score"] = missing
    if earlier is not None:
        draft.summary["pairs"] = f"as measured for '{earlier[0].name}'"


def measure(config: DedupConfig, inputs: Inputs) -> Compared:
    """Read both pools, and measure the pairs of near copies down to the floor."""
    if config.by == "minhash":
        rows = Rows.by_words(config.on)
    else:
        rows = Rows(config.on, [SetsBuilder(1)] if config.by == "embedding" else [])
    if "against" in inputs.artifacts:
        rows.add(rows_of(inputs.artifacts["against"]), other=True)
    rows.add(rows_of(inputs.artifacts["pool"]))
    if config.by != "embedding":
        return rows.measured(rows.near(config.floor))
    from .vectors import near_by_vector

    found = near_by_vector(config, inputs, rows)
    return rows.measured(found.pairs, found.note, found.unusable)


def _kept_scores(config: DedupConfig, score: Floats | None, found: Groups) -> pa.Array | None:
    """Return the scores of the kept samples, as they were given; None if no scores were."""
    if score is None or config.keep == "longest":
        return None
    values = score[found.kept] * (-1 if config.keep.startswith("lowest") else 1)
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def _summary(config: DedupConfig, rows: Compared, found: Groups) -> dict[str, object]:
    """Return what was found, and the first pairs of the table `duplicates`."""
    summary: dict[str, object] = dict(found.counts)
    if not rows.other:
        del summary["removed with a copy in the other pool"]
    if config.by != "exact":
        below = len(rows.pairs.below(config.threshold).items)
        summary["similar pairs below the threshold"] = f"{below}, from {config.floor:g} on"
    if rows.note:
        summary["vectors compared"] = rows.note
    if rows.repeats:
        summary["rows that hold a sample again"] = rows.repeats
    if rows.empty:
        summary["rows without a prompt or an answer to compare"] = rows.empty
    if rows.unusable:
        summary["samples without a usable vector"] = rows.unusable
    pairs = {
        str(number): f"{cell(pair['sample_id'])} of {cell(pair['other_id'])}, {pair['kind']}{_similarity(pair)}"
        for number, pair in enumerate(found.pairs.slice(0, SHOWN_PAIRS).to_pylist(), start=1)
    }
    return summary | ({"first pairs": pairs} if pairs else {})


def _similarity(pair: dict[str, float | None]) -> str:
    values = [pair[name] for name in ("jaccard", "cosine") if pair[name] is not None]
    return "".join(f" {value:.3f}" for value in values)


STAGE = Stage(DedupConfig, run, EXAMPLES, more_inputs=more_inputs)
