"""Each view over the ledger equals the obvious loop over the ledger's rows."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curate.config import Config
from curate.stages import make
from curate.store import Draft, Store
from curate.store.catalog import query as querying
from curate.store.catalog.catalog import NAME_COLUMNS
from curate.store.catalog.query import VECTORS, connect, ledger_views
from curate.store.ledger.rows import SCHEMA

IDS = [f"s{number}" for number in range(9)]
POOL = [*IDS, IDS[2]]  # the last row repeats a sample
RUNS = {"a": "pool", "b": "pool", "late": "other"}
Row = dict[str, Any]


class RunConfig(Config):
    seed: int = 0


def made_up(seed: int) -> list[Row]:
    """Candidates of 12 steps. s7 and s8 are never offered; s6 has no finite loss; losses repeat, and so do samples."""
    chance = random.Random(seed)
    rows = []
    for step in range(1, 13):
        for slot, position in enumerate(chance.sample([*range(7), 9], 4)):
            loss = chance.choice([None, math.inf]) if position == 6 else chance.choice([0.5, 1.0, 1.5, 2.25])
            rows.append(
                {"step": step, "rank": slot % 2, "slot": slot, "sample_id": POOL[position], "position": position}
                | {"kept": chance.random() < 0.4 and position != 0, "score": chance.random(), "weight": None}
                | {"loss": loss, "tokens": 3, "target_tokens": 2, "parts": []}
            )
    chance.shuffle(rows)
    return rows


LEDGERS = {"a": made_up(1), "b": made_up(2), "late": made_up(3)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two runs over one pool and one over another, part of it merged and part of it not."""
    store = Store(tmp_path_factory.mktemp("store"))

    def pool(ids: list[str]) -> Any:
        return lambda draft: draft.add("samples", pa.table({"sample_id": ids, "position": list(range(len(ids)))}))

    store.make("ingest", pool(POOL), RunConfig(name="pool"))
    store.make("ingest", pool(POOL[::-1]), RunConfig(name="other", seed=1))
    for number, (name, rows) in enumerate(LEDGERS.items()):
        table = pa.Table.from_pylist(rows, schema=SCHEMA)

        def fill(draft: Draft, table: pa.Table = table) -> None:
            draft.add("ledger", table.slice(0, 20), key="1")
            draft.add("ledger", table.slice(20), key="2")

        inputs = {"pool": store.get(RUNS[name]).fingerprint}
        store.make("train", fill, RunConfig(name=name, seed=number), inputs)
    return store


def ask(store: Store, view: str, run: str) -> dict[str, Row]:
    """A run's rows of a view by sample."""
    found = store.query(f"SELECT * FROM {view} WHERE run = $run", {"run": run}).to_pylist()
    rows = {row.pop("sample_id"): row for row in found}
    assert len(rows) == len(found) and all(row.pop("run") == run for row in found)
    return rows


def looks(run: str) -> dict[str, list[Row]]:
    """Ledger rows with a finite loss, in order, by sample."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(LEDGERS[run], key=lambda row: (row["step"], row["rank"], row["slot"])):
        if row["loss"] is not None and math.isfinite(row["loss"]):
            found[row["sample_id"]].append(row)
    return found


def test_the_made_up_ledger_has_the_hard_cases() -> None:
    rows = [seen for run in RUNS for seen in looks(run).values()]
    pairs = [(one, two) for seen in rows for one, two in itertools.pairwise(seen)]
    assert any(one["step"] == two["step"] and one["loss"] != two["loss"] for one, two in pairs)
    assert any(one["step"] < two["step"] and one["loss"] == two["loss"] for one, two in pairs)


@pytest.mark.parametrize("run", RUNS)
def test_the_history_is_every_row_of_the_ledger(store: Store, run: str) -> None:
    columns = ("sample_id", "position", "step", "score", "loss", "kept")
    found = store.query("SELECT * FROM sample_history WHERE run = $run", {"run": run}).to_pylist()
    assert all(tuple(row) == ("run", *columns) for row in found)
    rows = [tuple(row[name] for name in columns) for row in found]
    assert sorted(rows, key=repr) == sorted((tuple(row[name] for name in columns) for row in LEDGERS[run]), key=repr)


@pytest.mark.parametrize("run", RUNS)
def test_forgetting_counts_rises_whose_last_change_was_a_fall(store: Store, run: str) -> None:
    twin = {}
    for sample, seen in looks(run).items():
        falls = rises = forgotten = 0
        falling = False
        for before, now in itertools.pairwise(seen):
            if before["step"] == now["step"] or before["loss"] == now["loss"]:
                continue
            if now["loss"] < before["loss"]:
                falls, falling = falls + 1, True
            else:
                rises, forgotten, falling = rises + 1, forgotten + falling, False
        twin[sample] = {"looks": len(seen), "falls": falls, "rises": rises, "forgotten": forgotten}
    assert ask(store, "forgetting", run) == twin
    assert any(0 < row["forgotten"] < row["rises"] for row in twin.values())


@pytest.mark.parametrize("run", RUNS)
def test_volatility_is_the_deviation_of_the_loss_over_all_looks(store: Store, run: str) -> None:
    found, seen = ask(store, "volatility", run), looks(run)
    assert found.keys() == seen.keys()
    for sample, rows in seen.items():
        losses = [row["loss"] for row in rows]
        assert found[sample]["looks"] == len(losses)
        assert found[sample]["mean_loss"] == pytest.approx(statistics.fmean(losses))
        assert found[sample]["volatility"] == pytest.approx(statistics.pstdev(losses))


@pytest.mark.parametrize("run", RUNS)
def test_never_offered_is_not_never_kept(store: Store, run: str) -> None:
    twin = {sample: {"offered": 0, "kept": 0, "rate": None} for sample in IDS}
    for row in LEDGERS[run]:
        counted: Row = twin[row["sample_id"]]
        counted["offered"] += 1
        counted["kept"] += row["kept"]
        counted["rate"] = counted["kept"] / counted["offered"]
    found = ask(store, "keep_rate", run)
    assert found == twin
    assert found["s8"] == {"offered": 0, "kept": 0, "rate": None} and found["s0"]["rate"] == 0


def correlation(one: list[float], other: list[float]) -> float | None:
    try:
        return statistics.correlation(one, other)
    except statistics.StatisticsError:
        return None


def test_agreement_is_over_the_samples_that_both_were_offered(store: Store) -> None:
    found = {(row.pop("run"), row.pop("other")): row for row in store.query("FROM selector_agreement").to_pylist()}
    assert found.keys() == {(a, b) for a in RUNS for b in RUNS if a != b}
    for (a, b), row in found.items():
        rates: dict[str, dict[str, float]] = {}
        for run in (a, b):
            offers: dict[str, list[bool]] = defaultdict(list)
            for seen in LEDGERS[run]:
                offers[seen["sample_id"]].append(seen["kept"])
            rates[run] = {sample: sum(kept) / len(kept) for sample, kept in offers.items()}
        both = sorted(rates[a].keys() & rates[b].keys())
        kept = [{sample for sample in both if rates[run][sample]} for run in (a, b)]
        assert (row["offered"], row["kept"]) == (len(both), len(kept[0] & kept[1]))
        assert row["jaccard"] == pytest.approx(len(kept[0] & kept[1]) / len(kept[0] | kept[1]))
        assert row["correlation"] == pytest.approx(correlation(*([rates[run][s] for s in both] for run in (a, b))))
        assert {**row, "correlation": None} == {**found[b, a], "correlation": None}


def test_runs_that_kept_nothing_alike_have_no_number_for_it(tmp_path: Any) -> None:
    store = Store(tmp_path / "store")
    row = {"step": 1, "rank": 0, "slot": 0, "position": 0, "sample_id": "s0", "kept": False, "score": 1.0}
    for number, name in enumerate("xy"):
        table = pa.Table.from_pylist([row | {"sample_id": s} for s in ("s0", "s1")], schema=SCHEMA)
        store.make("train", lambda draft, table=table: draft.add("ledger", table), RunConfig(name=name, seed=number))
    found = store.query("SELECT * FROM selector_agreement WHERE run = 'x'").to_pylist()
    nothing = {"offered": 2, "kept": 0, "jaccard": None, "correlation": None}
    assert found == [{"run": "x", "other": "y", **nothing}]


def test_a_view_is_created_only_for_a_query_that_names_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = querying._make_view
    monkeypatch.setattr(querying, "_make_view", lambda c, name: (made.append(name), make(c, name)))
    store.query("SELECT count(*) FROM ledger WHERE run <> 'forgetting_run'")
    assert made == []
    store.query("SELECT count(*) FROM Forgetting JOIN volatility USING (run, sample_id)")
    assert made == ["forgetting", "volatility"]


SPLIT = {"s1": (1, 3), "s2": (1, 3, 5)}
"""Conversations that a run splits, with the turns of their answers."""


@pytest.fixture
def split(tmp_path: Path) -> Store:
    """A run that splits two conversations of a pool, one of them in two rows, and was offered some of the answers."""
    store = Store(tmp_path / "store")
    samples = {
        **{"sample_id": POOL, "position": list(range(len(POOL))), "source": ["x", "y"] * 5},
        **{"format": ["messages"] * 10, "metadata": [f'{{"n":{n}}}' for n in range(10)]},
    }
    pool = store.make("ingest", lambda draft: draft.add("samples", pa.table(samples)), RunConfig(name="pool"))
    answers = [(f"{whole}-{turn}", whole, turn) for whole, turns in SPLIT.items() for turn in turns]
    columns = dict(zip(("sample_id", "conversation_id", "turn"), zip(*answers, strict=True), strict=True))
    offered = [{**made_up(1)[0], "sample_id": name, "kept": kept} for name, kept in (("s1-3", True), ("s0", False))]

    def run(draft: Draft) -> None:
        draft.add("turn_samples", pa.table({name: list(values) for name, values in columns.items()}))
        draft.add("ledger", pa.Table.from_pylist(offered, schema=SCHEMA))

    for seed in (0, 1):  # two runs name the same answers
        store.make("train", run, RunConfig(name=f"run{seed}", seed=seed), {"pool": pool.fingerprint})
    return store


def test_origins_have_every_conversation_and_answer_with_its_row(split: Store) -> None:
    expected = [(name, name, None, row) for row, name in enumerate(POOL)]
    for row, name in enumerate(POOL):
        expected += [(f"{name}-{turn}", name, turn, row) for turn in SPLIT.get(name, ())]
    found = split.query("FROM origins").to_pylist()
    assert sorted(map(str, expected)) == sorted(
        str((row["sample_id"], row["conversation_id"], row["turn"], row["position"])) for row in found
    )
    for row in found:
        assert (row["pool"], row["source"], row["format"]) == ("pool", "xy"[row["position"] % 2], "messages")
        assert row["metadata"] == f'{{"n":{row["position"]}}}'


def test_keep_rates_of_a_run_that_splits_are_of_answers_instead_of_their_conversations(split: Store) -> None:
    answers = {f"{name}-{turn}" for name, turns in SPLIT.items() for turn in turns}
    found = ask(split, "keep_rate", "run0")
    assert found.keys() == (set(IDS) - set(SPLIT)) | answers
    assert found.pop("s1-3") == {"offered": 1, "kept": 1, "rate": 1.0}
    assert found.pop("s0") == {"offered": 1, "kept": 0, "rate": 0.0}
    assert all(row == {"offered": 0, "kept": 0, "rate": None} for row in found.values())


@pytest.mark.parametrize(
    ("sql", "sees"),
    [
        ("SELECT count(*) FROM samples", {"samples"}),
        ('SELECT count(*) FROM "Samples" JOIN LEDGER USING (sample_id)', {"samples", "ledger"}),
        ("WITH metrics AS (SELECT 1 AS step) SELECT * FROM metrics", {"metrics"}),
        ("SELECT count(*) FROM information_schema.tables", None),
        ("SELECT count(*) FROM query_table('sam' || 'ples')", None),
        ("SELECT * FROM sampels", None),
        ("SELEKT", None),
    ],
)
def test_a_query_has_the_views_that_it_can_name(tmp_path: Path, sql: str, sees: set[str] | None) -> None:
    store = Store(tmp_path / "store")
    make(store, "demo-pool", name="raw", rows=10)
    connection = connect(store, needed_by=sql)
    names = {
        name for (name,) in connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
    }
    connection.close()
    every = {*NAME_COLUMNS, *(view for view, _ in VECTORS.values())}
    assert names - {"artifacts"} == (every if sees is None else sees)


def test_a_view_over_the_ledger_has_what_it_reads(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    make(store, "demo-pool", name="raw", rows=10)
    for view in ledger_views():
        assert store.query(f"SELECT * FROM {view.upper()}").num_rows == 0
