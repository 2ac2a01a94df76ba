"""A pool, and runs over it with made-up ledgers, for the tests of curricula."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate import Artifact, make
from curate.config import Config, Ref
from curate.stages.pools import pool_samples
from curate.store import Store
from curate.store.ledger.rows import SCHEMA
from tests.support.exports import ingest

N = 24
POOL = [{"instruction": f"Say {n}.", "input": "", "output": f"{n} " * (1 + n % 4)} for n in range(N)]
OFFERED = range(20)  # the others are never offered
Row = dict[str, Any]


class RunConfig(Config):
    """The part of the config of a run that these tests need."""

    pool: Ref
    seed: int = 0


def ledger_rows(seed: int, offered: range = OFFERED) -> list[Row]:
    """Return a ledger of 15 steps of 6 candidates: step, sample, kept, loss. The losses of sample 0 are missing."""
    chance = random.Random(seed)
    rows = []
    for step in range(1, 16):
        for n in chance.sample(offered, 6):
            loss = None if n == 0 else round(chance.uniform(0.5, 3), 2)
            rows.append({"step": step, "n": n, "kept": chance.random() < 0.3, "loss": loss})
    return rows


LEDGERS = {"a": ledger_rows(1), "b": ledger_rows(2, range(4, 18))}


def add_run(store: Store, name: str, seed: int, rows: list[Row], ids: list[str], pool: str = "pool") -> None:
    lines = [
        {"step": row["step"], "rank": 0, "slot": slot, "sample_id": ids[row["n"]], "position": row["n"]}
        | {"kept": row["kept"], "loss": row["loss"], "tokens": 3, "target_tokens": 1}
        for slot, row in enumerate(rows)
    ]
    table = pa.Table.from_pylist(lines, schema=SCHEMA)
    inputs = {"pool": store.get(pool).fingerprint}
    store.make("train", lambda draft: draft.add("ledger", table), RunConfig(name=name, pool=pool, seed=seed), inputs)


def ids_of(store: Store) -> list[str]:
    return [sample.sample_id for _, sample in pool_samples(store.get("pool"))]


def store_of(folder: Path) -> Path:
    """Make a store with a pool and the runs `a` and `b` over it. `blind` has no losses, `far` is over another pool."""
    store = Store(folder / "store")
    with contextlib.chdir(folder):
        ids, others = ingest(store, POOL), ingest(store, POOL[::-1], name="other")
    for number, (name, rows) in enumerate(LEDGERS.items()):
        add_run(store, name, number, rows, ids)
    add_run(store, "blind", 7, [row | {"loss": None} for row in LEDGERS["a"]], ids)
    add_run(store, "far", 8, ledger_rows(3), others, "other")
    return store.root


def curriculum(store: Store, name: str = "c", **values: Any) -> Artifact:
    return make(store, "curriculum", **{"name": name, "runs": ["a"], **values})


def listed(store: Store, name: str = "c") -> list[Row]:
    """Return the records of the subset, in order."""
    sql = 'SELECT sample_id, "rank", score, weight, epoch FROM subsets WHERE subset = $name ORDER BY epoch, "rank"'
    rows: list[Row] = store.query(sql, {"name": name}).to_pylist()
    assert rows == store.get(name).table().to_pylist(), "the artifact's own table has the same rows"
    return rows


def query_file(text: str) -> str:
    Path("order.sql").write_text(text)
    return "sql:order.sql"
