"""Tests of the numbers of runs in `curate report`, against plain loops over the ledgers."""

from __future__ import annotations

import itertools
import shutil
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import hypergeom

from curate import Store
from curate.report.groups import interval
from tests.support.reports import LEDGERS, POOL, N, Row, add_run, label, near, page_content, part, store_of, tokens


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_of(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(made: Path) -> dict[str, Any]:
    """What the page of the runs a and b says."""
    return page_content(Store(made), "a", "b", by=("task",))


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(made, tmp_path / "store"))


def group(page: Row, by: str) -> Row:
    return next(each for each in page["groups"] if each["by"] == by)


def mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


# What runs did


def test_totals_are_the_ledgers(page: Row) -> None:
    for run, name in zip(page["runs"], LEDGERS, strict=True):
        rows = LEDGERS[name]
        kept = [row for row in rows if row["kept"]]
        assert (run["name"], run["steps"]) == (name, 12)
        assert (run["offered"], run["kept"]) == (len(rows), len(kept))
        assert run["tokens"] == sum(row["tokens"] for row in kept)
        assert run["target_tokens"] == sum(row["target_tokens"] for row in kept)


def test_curves_are_what_was_logged_and_end_where_it_was_not(page: Row) -> None:
    a, b = page["runs"]
    assert a["loss"] == {"step": [1, 2, 4], "value": [3, 2.5, 2]}, "a loss that is no number is left out"
    assert a["eval"] == {"step": [0, 12], "value": [4, 2.25]}
    assert a["time"] == [{"part": "scoring forward", "seconds": 4.25}, {"part": "training", "seconds": 3.5}]
    assert a["labels"] == [
        {
            "name": "a/b",
            "loss": {"step": [5, 10], "value": [3, 2]},
            "offered": None,
            "kept": {"step": [5], "value": [0.25]},
        },
        {"name": "first", "loss": None, "offered": {"step": [10], "value": [0.5]}, "kept": None},
    ]
    assert b["labels"] == []
    assert (b["loss"], b["eval"], b["time"]) == (None, None, [])
    assert set(b["missing"]) == {"loss", "eval", "time"} and a["missing"] == {}


@pytest.mark.parametrize("name", ["score", "utility", "diversity", "loss"])
def test_scores_of_a_step_are_means_over_what_was_kept_and_what_was_passed_over(page: Row, name: str) -> None:
    for run, ledger in zip(page["runs"], LEDGERS.values(), strict=True):
        assert [each["name"] for each in run["scores"]] == ["score", "diversity", "utility", "loss"]
        found = next(each for each in run["scores"] if each["name"] == name)
        for place, step in enumerate(found["step"]):
            rows = [row for row in ledger if row["step"] == step]
            assert found["kept"][place] == near(mean([part(row, name) for row in rows if row["kept"]]))
            assert found["passed"][place] == near(mean([part(row, name) for row in rows if not row["kept"]]))
            kept = [row for row in rows if row["kept"]]
            assert run["kept_share"]["value"][place] == near(len(kept) / len(rows))
            share = sum(row["tokens"] for row in kept) / sum(row["tokens"] for row in rows)
            assert run["kept_share"]["tokens"][place] == near(share)


def test_a_distribution_counts_every_number_once(page: Row) -> None:
    for run, ledger in zip(page["runs"], LEDGERS.values(), strict=True):
        for found in run["distributions"]:
            for kept, counts in ((True, found["kept"]), (False, found["passed"])):
                values = [part(row, found["name"]) for row in ledger if row["kept"] is kept]
                values = [value for value in values if value is not None]
                assert sum(counts) == len(values)
                assert len(counts) == len(found["edges"]) - 1
                inner = [
                    sum(low <= value < high for value in values) for low, high in itertools.pairwise(found["edges"])
                ]
                assert (
                    sum(abs(a - b) for a, b in zip(counts, inner, strict=True)) <= 2 + found["below"] + found["above"]
                )


def test_numbers_that_are_all_alike_make_one_bin(store: Store) -> None:
    rows = [row | {"score": 2.0, "parts": [], "loss": None} for row in LEDGERS["a"]]
    add_run(store, "flat", rows, 11)
    found = page_content(store, "flat")["runs"][0]["distributions"]
    assert [(each["name"], each["edges"], len(each["kept"])) for each in found] == [("score", [1.5, 2.5], 1)]
    assert found[0]["kept"][0] + found[0]["passed"][0] == len(rows)


def test_a_long_run_is_told_in_means_over_stretches(store: Store) -> None:
    rows = [
        row | {"step": step, "slot": slot, "kept": (step + slot) % 3 == 0, "score": float(step)}
        for step in range(1, 2502)
        for slot, row in enumerate(LEDGERS["a"][:2])
    ]
    add_run(store, "long", rows, 12, eval_loss=[(0, 9.0), *((step, 1.0 * step) for step in range(500, 2501, 500))])
    page = page_content(store, "long")
    found = page["runs"][0]
    assert len(found["kept_share"]["step"]) == 834 and found["kept_share"]["step"][-1] == 2501
    shares = [
        mean([float(row["kept"]) for row in rows if start <= row["step"] < start + 3]) for start in range(1, 2502, 3)
    ]
    assert found["kept_share"]["value"] == near(shares)
    assert found["eval"] == {"step": [0, 500, 1000, 1500, 2000, 2500], "value": [9, 500, 1000, 1500, 2000, 2500]}
    assert "Each point of the curves of long is the mean over 3 steps." in page["notes"]


# Groups


@pytest.mark.parametrize("by", ["source", "family", "noise", "task"])
def test_groups_are_counted_against_chance(page: Row, by: str) -> None:
    found = group(page, by)
    names = [None if name == "(none)" else name for name in found["labels"]]
    sizes = Counter(label(n, by) for n in range(N))
    assert dict(zip(names, found["pool"], strict=True)) == near({name: size / N for name, size in sizes.items()})
    for place, ledger in enumerate(LEDGERS.values()):
        kept = [row for row in ledger if row["kept"]]
        for number, name in enumerate(names):
            own = sum(label(row["n"], by) == name for row in kept)
            assert found["kept"][place][number] == near(own / len(kept))
            offered = sum(label(row["n"], by) == name for row in ledger)
            assert found["offered"][place][number] == near(offered / len(ledger))
            expected, variance = 0.0, 0.0
            for step in range(1, 13):
                rows = [row for row in ledger if row["step"] == step]
                k, share = sum(row["kept"] for row in rows), mean([float(label(row["n"], by) == name) for row in rows])
                expected += k * share
                variance += k * share * (1 - share) * (len(rows) - k) / (len(rows) - 1)
            assert found["chance"][place][number] == near(expected / len(kept))
            low, high = interval(expected, variance)
            assert (found["low"][place][number], found["high"][place][number]) == near(
                (low / len(kept), high / len(kept))
            )


def test_shares_add_up_to_one(page: Row) -> None:
    assert [each["by"] for each in page["groups"]] == ["source", "length", "family", "noise", "task"]
    for each in page["groups"]:
        assert sum(each["pool"]) == near(1)
        for share in (*each["offered"], *each["chance"], *each["kept"]):
            assert len(share) == len(each["labels"]) and sum(share) == pytest.approx(1, abs=1e-3)


def test_lengths_are_bins_of_tokens_and_who_was_never_offered_has_none(page: Row) -> None:
    found = group(page, "length")
    assert found["labels"][-1] == "(none)"
    offered = {row["n"] for ledger in LEDGERS.values() for row in ledger}
    offered |= {3, 33} if {3, 33} & offered else set()  # one text
    assert found["pool"][-1] == near(1 - len(offered) / N)
    ends = [[int(end) for end in name.removesuffix(" tokens").split("–")] for name in found["labels"][:-1]]
    assert all(before[-1] < after[0] for before, after in itertools.pairwise(ends))
    for each, share in zip(ends, found["kept"][0], strict=False):
        kept = [row["n"] for row in LEDGERS["a"] if row["kept"]]
        assert share == near(sum(each[0] <= tokens(n) <= each[-1] for n in kept) / len(kept))


def test_of_many_groups_the_small_ones_are_put_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.report.groups.SHOWN", 5)
    found = group(page_content(store, "a", by=("number",)), "number")
    assert len(found["labels"]) == 6 and found["labels"][-1] == "(34 others)"
    assert sum(found["pool"]) == near(1) and sum(found["kept"][0]) == near(1)
    rows = LEDGERS["a"]
    others = sum(row["kept"] and str(POOL[row["n"]]["number"]) not in found["labels"] for row in rows)
    assert found["kept"][0][-1] == near(others / sum(row["kept"] for row in rows))


@pytest.mark.parametrize("steps", [1, 4, 60])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_the_interval_of_chance_leaves_out_a_fortieth_at_each_end(steps: int, share: float) -> None:
    offered, kept = 64, 8
    own = max(1, round(offered * share))
    single = hypergeom.pmf(np.arange(kept + 1), offered, own, kept)
    exact = np.ones(1)
    for _ in range(steps):
        exact = np.convolve(exact, single)  # the obvious way: the distribution of the sum itself
    counts = np.arange(len(exact))
    expected, variance = float(counts @ exact), float((counts**2) @ exact - (counts @ exact) ** 2)
    low, high = interval(expected, variance)
    assert exact[counts < low].sum() <= 0.035 and exact[counts > high].sum() <= 0.035
    assert exact[counts <= low].sum() >= 0.015 or low == 0, "and is no wider than it has to be"
    assert exact[counts >= high].sum() >= 0.015 or high >= kept * steps


def test_who_keeps_all_has_no_interval(store: Store) -> None:
    add_run(store, "full", [row | {"kept": True} for row in LEDGERS["a"]], 13)
    found = group(page_content(store, "full"), "family")
    assert found["low"] == found["high"] == found["kept"] == found["chance"] == found["offered"]
    assert interval(0, 0) == (0, 0) and interval(3, 0) == (3, 3)


def test_a_run_that_was_offered_nothing_is_shown_all_the_same(store: Store) -> None:
    add_run(store, "empty", [], 14)
    page = page_content(store, "empty")
    run = page["runs"][0]
    assert (run["offered"], run["kept"], run["steps"], run["kept_share"], run["scores"]) == (0, 0, 0, None, [])
    assert ": curate embed --pool pool" in page["missing"]["length"]
    assert [each["by"] for each in page["groups"]] == ["source", "family", "noise"]
    assert all(set(each["kept"][0]) == {0} and sum(each["pool"]) == near(1) for each in page["groups"])
    assert page["samples"]["shown"] == N - 1 and set(page["samples"]["runs"][0]["offered"]) == {0}
    both = page_content(store, "empty", "a")
    assert both["agreement"]["offered"][0] == [None, 0] and both["agreement"]["jaccard"][0] == [1, None]
