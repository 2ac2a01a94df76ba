"""Laws of training steps with a prescreen: share 1 is the exact step, and a run resumes to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate import Artifact, make
from curate.errors import ConfigError, DataError
from curate.prescreens import Candidates, Line, Screening
from curate.store import Store
from tests.support.reports import page_content
from tests.support.steps import Texts, step_of
from tests.support.training import interrupted_at, rows, weights

SELECTORS: dict[str, dict[str, Any]] = {
    "uds": {},
    "max_loss": {},
    "rho": {"reference": {"reference_loss": torch.arange(6.0).double()}},
    "greats": {"reuse": True},
    "filter_weight": {},
    "max_grad": {},
}
SMALL = {"candidates": 8, "keep": 2, "max_steps": 8, "num_train_epochs": 9, "max_length": 64, "save_steps": 3}


@pytest.mark.parametrize("selector", SELECTORS)
def test_share_one_is_the_exact_step_to_the_bit(selector: str, tiny: str, tmp_path: Path) -> None:
    texts, options = Texts.drawn([1, 2, 1, 1, 1, 1]), {"keep": 2, **SELECTORS[selector]}
    plain = step_of(texts, tiny, tmp_path / "plain", selector, **options)
    made: list[Screening] = []

    def screening() -> Screening:
        made.append(fitted(share=1.0))
        return made[0]

    screened = step_of(texts, tiny, tmp_path / "screened", selector, screening=screening, **options)
    assert all(torch.equal(value, screened.gradient[name]) for name, value in plain.gradient.items())
    for name in plain.columns.keys() - {"stage", "predicted", "sample_id", "parts"}:
        same(plain.columns[name], screened.columns[name])
    for name, part in plain.columns["parts"].items():
        same(part, screened.columns["parts"][name])
    assert plain.columns["stage"] is None and screened.columns["stage"].tolist() == [3] * 6
    assert np.isfinite(screened.columns["predicted"]).all() and int(made[0].misses.counts[0, 3]) == 2


@pytest.mark.parametrize("selector", SELECTORS)
def test_half_of_the_candidates_are_not_scored_and_all_are_recorded(selector: str, tiny: str, tmp_path: Path) -> None:
    texts, options = Texts.drawn([1] * 6), {"keep": 2, **SELECTORS[selector]}
    columns = step_of(texts, tiny, tmp_path, selector, screening=lambda: fitted(share=0.5), **options).columns
    assert sorted(columns["stage"].tolist()) == [1, 1, 2, 3, 3, 3] and sorted(columns["position"]) == list(range(6))
    out = columns["stage"] == 1
    assert np.isnan(columns["score"][out]).all() and np.isnan(columns["loss"][out]).all()
    assert np.isfinite(columns["loss"][~out]).all() and not columns["kept"][out].any()
    assert 1 <= columns["kept"].sum() <= 2, "filter_weight may keep fewer"
    assert set(columns["tokens"][columns["stage"] == 3]) == {15, 18, 21}, "the longest pass"


def fitted(share: float) -> Screening:
    """A prescreen by length that prefers long texts."""
    line = Line()
    lengths = torch.arange(5, 40)
    line.learn(Candidates(lengths, lengths, lengths // 2), lengths.double())
    return Screening(line, share=share)


def same(one: Any, other: Any) -> None:
    assert (one is None) == (other is None)
    if one is not None:
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def pool(store: Store, pool_file: Path) -> Artifact:
    return make(store, "ingest", name="pool", data=[str(pool_file)])


def train(store: Store, tiny: str, name: str = "run", **values: Any) -> Artifact:
    return make(store, "train", name=name, pool="pool", model=tiny, **{**SMALL, **values})


def test_a_run_has_a_row_for_every_candidate_and_resumes_to_the_bit(
    store: Store, pool: Artifact, tiny: str, tmp_path: Path
) -> None:
    values = {"prescreen": 0.5, "prescreen_miss": 1.0, "max_steps": 20}
    whole = train(store, tiny, **values)
    counts = rows(
        store,
        """SELECT step, count(*) n, count(score) s, count_if(kept) k, count_if(kept AND stage = 'prescreen') lost,
           count_if(stage = 'scored') passed, count_if(stage = 'audit') audited FROM ledger GROUP BY 1 ORDER BY 1""",
    )
    assert [row["n"] for row in counts][:14] == [8] * 14 and all(row["lost"] == 0 for row in counts)
    full = [row for row in counts if row["n"] == 8][1:]
    assert all((row["s"], row["k"], row["passed"], row["audited"]) == (5, 2, 4, 1) for row in full)
    assert rows(store, "SELECT count(predicted) n FROM ledger WHERE step = 1") == [{"n": 0}]
    assert rows(store, "SELECT count(*) n FROM ledger WHERE step > 1 AND predicted IS NULL") == [{"n": 0}]
    seen, scored = sum(row["n"] for row in counts), sum(row["s"] for row in counts)
    assert whole.summary["scored"] == f"{scored} of {seen} candidates"
    assert whole.summary["share that passes"] == "0.5 from step 1"
    metrics = {row["metric"]: row["value"] for row in rows(store, "SELECT metric, value FROM metrics")}
    assert metrics["prescreen_audited"] == sum(row["audited"] for row in counts)
    assert metrics["prescreen_missed_low"] <= metrics["prescreen_missed"] <= metrics["prescreen_missed_high"] <= 1
    (shown,) = page_content(store, "run")["runs"]
    assert shown["prescreen"]["share"] == 0.5
    assert shown["prescreen"]["missed"] == pytest.approx(metrics["prescreen_missed"], rel=1e-4)

    other = Store(tmp_path / "other")
    make(other, "ingest", name="pool", data=[str(pool.config["data"][0])])
    with interrupted_at(17):
        train(other, tiny, **values)
    resumed = train(other, tiny, **values)
    assert resumed.fingerprint == whole.fingerprint
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    for table in ("ledger", "memory"):
        sql = f"SELECT * FROM {table} ORDER BY ALL"
        assert other.query(sql).equals(store.query(sql))
    before = {k: v for k, v in whole.summary.items() if k not in ("seconds", "model")}
    assert {k: v for k, v in resumed.summary.items() if k not in ("seconds", "model")} == before


def test_earlier_runs_and_stored_columns_rule_out_from_the_first_step_on(
    store: Store, pool: Artifact, tiny: str
) -> None:
    train(store, tiny, "first", selector="max_loss", max_steps=15, num_train_epochs=1)
    make(store, "embed", name="feats", pool="pool", model=tiny, max_length=64, signals=("loss",))
    shape = {"selector": "max_loss", "prescreen": 0.5, "max_steps": 2}
    train(store, tiny, "later", prescreen_from="first", prescreen_by="last_score", **shape)
    sql = """SELECT count(*) n FROM ledger l JOIN ledger f ON f.run = 'first' AND f.sample_id = l.sample_id
             WHERE l.run = 'later' AND l.step = 1 AND l.predicted = f.score"""
    assert rows(store, sql) == [{"n": 8}]
    train(store, tiny, "stored", features="feats", prescreen_by="feature:loss", **shape)
    passed = """SELECT max(loss) FILTER (stage = 'prescreen') < min(loss) FILTER (stage = 'scored') AS best
                FROM (SELECT l.stage, f.loss FROM ledger l JOIN features f USING (sample_id)
                      WHERE l.run = 'stored' AND l.step = 2)"""
    assert rows(store, passed) == [{"best": True}]


def test_options_that_cannot_be_kept_are_errors_before_the_first_step(store: Store, pool: Artifact, tiny: str) -> None:
    make(store, "embed", name="feats", pool="pool", model=tiny, max_length=64, signals=("loss",))
    train(store, tiny, "random", selector="random", max_steps=1)
    half: dict[str, Any] = {"prescreen": 0.5}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"prescreen": 0.0}, "prescreen"),
        ({"prescreen": 1.5}, "prescreen"),
        ({"prescreen": 0.1}, "lets 1 of 8 candidates pass, fewer than --keep 2: give at least 0.25"),
        ({"prescreen_by": "length"}, "--prescreen-by is an option of --prescreen"),
        (half | {"prescreen_by": "width"}, "must be auto, length, last_score or feature:COLUMN"),
        (half | {"prescreen_by": "feature:loss"}, "needs --features NAME.*curate embed"),
        (
            half | {"prescreen_by": "feature:lost", "features": "feats"},
            "no numeric column 'lost'.*'loss'.*curate embed",
        ),
        (half | {"prescreen_by": "length", "features": "feats"}, "does not use --features"),
        (half | {"prescreen_by": "length", "prescreen_from": "random"}, "give --prescreen-by auto or last_score"),
        (half | {"prescreen_from": "random"}, "has the selector random"),
        (half | {"selector": "random"}, "random makes no scoring pass"),
        (half | {"selector": "full"}, "full makes no scoring pass"),
        (half | {"scope": "micro:4"}, "--scope micro:4: leave"),
    ]
    for options, message in wrong:
        with pytest.raises((ConfigError, DataError), match=message):
            train(store, tiny, "wrong", **options)
        assert rows(store, "SELECT count(*) n FROM ledger WHERE run = 'wrong'") == [{"n": 0}]
