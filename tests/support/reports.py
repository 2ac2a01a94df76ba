"""A pool with all columns that a report uses, and runs over it with made-up ledgers that plain loops can count."""

from __future__ import annotations

import contextlib
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curate import make
from curate.report.payload import payload
from curate.report.runs import ReportRequest, report_context
from curate.stages.pools import pool_samples
from curate.store import Store
from curate.store.catalog.session import QuerySession
from curate.store.ledger.rows import SCHEMA
from tests.support.exports import RunConfig

Row = dict[str, Any]

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "<!-- <script> --> ]]> &lt;b&gt; &amp;",
    "\"quotes\" 'single' `back` \\ \\u003c \\\\u003c",
    "bidi \u202e\u2066evil\u2069 marks \u200f\u200e, \u2028 lines \u2029",
    "a\r\nb\rc\td\x00e\x7f\ufeff\ufffe end",
    "@@data@@ @@app@@ @@csp@@ \U0001f600 \u0301",
]
FAMILIES, NOISE = ("sums", "facts", ""), ("", "", "garbled", "exact_duplicate")
N = 40
POOL = [
    {
        "instruction": f"{HOSTILE[n % len(HOSTILE)]} {n}",
        "input": "",
        "output": f"answer {n}" * (1 + n % 3),
        "family": FAMILIES[n % 3],
        "noise": NOISE[n % 4],
        "task": f"task {n % 3}",
        "number": n,
    }
    for n in range(N)
]
POOL[33] = dict(POOL[3], noise="exact_duplicate")
"""Rows 33 and 3 hold the same conversation."""


def tokens(n: int) -> int:
    return 5 + (3 if n == 33 else n) % 11


def ledger_rows(seed: int, steps: int = 12, candidates: int = 8) -> list[Row]:
    """Return a ledger whose steps keep a third of their candidates, with scores, parts and losses.

    Samples from 35 on are never offered.
    """
    chance = random.Random(seed)
    rows = []
    for step in range(1, steps + 1):
        kept = set(chance.sample(range(candidates), candidates // 3 + step % 2))
        for slot, n in enumerate(chance.sample(range(35), candidates)):
            loss = None if n == 0 else chance.uniform(0.5, 3)
            parts = [("utility", chance.gauss(0, 1)), ("diversity", None if n == 1 else chance.random())]
            score = None if n == 2 else chance.gauss(10, 3)
            rows.append(
                {"step": step, "rank": 0, "slot": slot, "n": n, "kept": slot in kept, "score": score, "loss": loss}
                | {"parts": parts, "tokens": tokens(n), "target_tokens": 1 + n % 3}
            )
    return rows


LEDGERS = {"a": ledger_rows(1), "b": ledger_rows(2)}


def add_run(
    store: Store, name: str, rows: list[Row], seed: int, pool: str = "pool", model: str = "me/tiny", **metrics: Any
) -> None:
    ids = [sample.sample_id for _, sample in pool_samples(store.get(pool))]
    lines = [row | {"sample_id": ids[row["n"]], "position": row["n"], "weight": None} for row in rows]
    records = [
        {"step": step, "metric": metric, "value": value} for metric, values in metrics.items() for step, value in values
    ]

    def fill(draft: Any) -> None:
        draft.add("ledger", pa.Table.from_pylist(lines, schema=SCHEMA))
        if records:
            draft.add("metrics", pa.Table.from_pylist(records))

    store.make(
        "train", fill, RunConfig(name=name, pool=pool, seed=seed, model=model), {"pool": store.get(pool).fingerprint}
    )


def store_of(folder: Path) -> Path:
    """Make a store with the runs `a` and `b` over `pool`, and the run `far` over another pool."""
    with contextlib.chdir(folder):
        store = Store("store")
        for name, part in (("first", POOL[:15]), ("second", POOL[15:]), ("other", POOL[:20])):
            Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        make(store, "ingest", name="pool", data=["first=first.jsonl", "second=second.jsonl"])
        make(store, "ingest", name="other", data=["other.jsonl"])
        metrics = {
            "loss": [(1, 3.0), (2, 2.5), (3, float("nan")), (4, 2.0)],
            "eval_loss": [(0, 4.0), (12, 2.25)],
            "seconds_training": [(12, 3.5)],
            "seconds_scoring_forward": [(12, 4.25)],
            "candidate_loss/a/b": [(5, 3.0), (10, 2.0)],
            "kept_share/a/b": [(5, 0.25)],
            "candidate_share/first": [(5, float("nan")), (10, 0.5)],
        }
        add_run(store, "a", LEDGERS["a"], 1, **metrics)
        add_run(store, "b", LEDGERS["b"], 2)
        add_run(store, "far", [row for row in ledger_rows(3) if row["n"] < 20], 3, "other")
    return folder / "store"


def page_content(store: Store, *runs: str, **options: Any) -> dict[str, Any]:
    """Return the content of a page about these runs."""
    with QuerySession(store) as reader:
        return payload(report_context(store, reader, ReportRequest(tuple(runs), **options)))


def data_in(page: str) -> str:
    """Return the data block of a page as a browser reads it: up to the first end tag."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', page, re.DOTALL | re.IGNORECASE)
    assert found
    return found[1]


def near(values: Any) -> Any:
    """Return the value with the tolerance of the page, which writes five digits."""
    return values if values is None else pytest.approx(values, rel=1e-4, abs=1e-9)


def part(row: Row, name: str) -> float | None:
    return dict(row["parts"])[name] if name in ("utility", "diversity") else row[name]


def label(n: int, by: str) -> str | None:
    if by == "source":
        return "first" if n < 15 else "second"
    if by == "noise":
        return POOL[n]["noise"] or "clean"
    return POOL[n][by] or None
