"""`curate split`: split a pool into parts for training and for held-out rows, without copies across.

Each part is a pool of its own, so a stage that reads it can read no row of another part. Rows are copied as they are:
the same samples have the same ids, columns and weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import ConfigError, DataError
from ...samples import SCHEMA
from ...store import Artifact, Draft, Store
from ..dedup.texts import rows_of
from ..inputs import Inputs
from ..stage import Stage
from .config import SplitConfig
from .parts import assign

EXAMPLES = """\
curate split --pool pool --shares train=0.9,held=0.1 --part train --name pool-train
curate split --pool pool --shares train=0.9,held=0.1 --part held --name pool-held
curate split --pool pool --shares all=1 --part all --against gsm8k-test --name clean"""

RECORDS = """
SELECT position, sample_id, source, format, turns, characters, metadata, weight FROM samples WHERE pool = $pool
ORDER BY position
"""

KEPT_FACTS = ("licences", "types", "weight_column")
"""Parts of a pool's summary that exports of its samples use; the last one is of parts of pools."""


def run(config: SplitConfig, inputs: Inputs, draft: Draft) -> None:
    """Copy the rows of one part: the texts as shards, and their records of the table `samples`."""
    pool, against = inputs.artifacts["pool"], inputs.artifacts.get("against")
    if against is not None and against.fingerprint == pool.fingerprint:
        raise ConfigError("--against names the same pool as --pool: all of it would be left out. Name another pool.")
    draft.restart()
    found = assign(
        rows_of(pool),
        config.shares,
        seed=config.seed,
        threshold=config.threshold,
        against=rows_of(against) if against else (),
    )
    ids = found.samples[config.part]
    if not ids:
        raise DataError(
            f"The part '{config.part}' would be empty: the pool '{pool.name}' has {pool.rows} rows, of which "
            f"{found.counts['samples with a copy in the other pool']} have a copy in the other pool. Give it a larger "
            "share, or a larger pool."
        )
    positions = _positions(pool, ids, once=config.part != found.largest)
    draft.rows = 0
    for number, table in enumerate(_tables(pool, positions)):
        numbered = np.arange(draft.rows, draft.rows + len(table))
        draft.write(number, table.set_column(1, "position", pa.array(numbered)))
        draft.rows += len(table)
    records = _records(inputs.store, pool).take(pa.array(positions))
    draft.add("samples", records.set_column(0, "position", pa.array(np.arange(len(records)))))
    draft.summary = {"rows": draft.rows, "distinct": len(ids), "of the rows of the pool": pool.rows, **found.counts}
    if against is None:
        del draft.summary["samples with a copy in the other pool"]
    counts = records["source"].value_counts().to_pylist()
    draft.summary["sources"] = {each["values"]: each["counts"] for each in counts}
    facts = {"weight_column": pool.config.get("weight_column"), **pool.summary}
    draft.summary |= {name: facts[name] for name in KEPT_FACTS if facts.get(name)}


def _positions(pool: Artifact, ids: Sequence[str], *, once: bool) -> np.ndarray:
    """Return the rows of these samples: of the largest part all, in the order of the pool; else one each, shuffled."""
    found = pa.concat_tables(pool.tables(["sample_id", "position"]))
    wanted = found.filter(pc.is_in(found["sample_id"], pa.array(ids, pa.string())))
    if not once:
        return np.asarray(np.sort(wanted["position"].to_numpy()))
    first: dict[str, int] = {}
    for row in wanted.to_pylist():
        first.setdefault(row["sample_id"], row["position"])
    return np.array([first[sample_id] for sample_id in ids], np.int64)


def _tables(pool: Artifact, positions: np.ndarray) -> Iterator[pa.Table]:
    """Yield the rows at these positions, in order: shard by shard where the order is that of the pool."""
    ordered = bool((np.diff(positions) > 0).all())
    parts = []
    for shard in pool.tables():
        for name in SCHEMA.names:
            if name not in shard.column_names:  # pools of older versions have no weights
                shard = shard.append_column(SCHEMA.field(name), pa.nulls(len(shard), SCHEMA.field(name).type))
        rows = shard.select(SCHEMA.names).filter(pc.is_in(shard["position"], pa.array(positions)))
        if not ordered:
            parts.append(rows)
        elif len(rows):
            yield rows
    if not ordered:
        table = pa.concat_tables(parts)
        place = {position: row for row, position in enumerate(table["position"].to_pylist())}
        yield table.take(pa.array([place[position] for position in positions.tolist()]))


def _records(store: Store, pool: Artifact) -> pa.Table:
    return store.query(RECORDS, {"pool": store.display_names()[pool.fingerprint]})


STAGE = Stage(SplitConfig, run, EXAMPLES)
