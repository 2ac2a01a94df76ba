"""Tests of the parts of a report about held-out rows and copies: its rows, the marked passage, and the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from curate import Store, make
from curate.report import copies
from curate.report.copies import BEFORE, LONGEST, marked
from tests.support.report_pages import PHONE, Page, Pages
from tests.support.report_payloads import HOSTILE
from tests.support.reports import POOL, near, page_content, store_of

TOWER = "Which city has the tall iron tower that a Frenchman built {} years ago, and how many steps lead to its top?"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool with three copies of a question, one of them held out and one contradicted, and the runs over it."""
    folder = tmp_path_factory.mktemp("copies")
    store = Store(store_of(folder))
    longer = {"instruction": "Now answer this. " + TOWER.format(7), "output": "Paris, and 1,665 of them."}
    more = [
        {"instruction": TOWER.format(7), "output": "Paris."},
        longer,
        {"instruction": TOWER.format(7), "output": "Rome"},
    ]
    for name, part in (
        ("full", [*POOL, *more, more[0] | {"output": "PARIS."}]),
        ("held", [more[0] | {"output": "Paris!"}]),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        make(store, "ingest", name=name, data=[str(folder / f"{name}.jsonl")])
    make(store, "decontaminate", name="clean", pool="full", against=["held"])
    make(store, "dedup", name="once", pool="full")
    return store.root


def content(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The page of a run, as if it were over the pool `full`."""
    store = Store(root)
    found = page_content(store, "a")
    assert found["leaks"] == found["copies"] == [], "those of another pool are not on the page"
    monkeypatch.setattr("curate.report.runs.pool_of", lambda *_: store.get("full"))
    return page_content(store, "a")


def test_a_report_has_the_pairs_of_its_pool_with_both_texts(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = content(made, monkeypatch)
    store = Store(made)
    (leaks,) = page["leaks"]
    rows = store.query("SELECT * FROM leaks ORDER BY position").to_pylist()
    assert len(rows) == len(leaks["pairs"]) >= 4 and leaks["left_out"] == 0
    assert sum(row["pairs"] for row in leaks["counts"]) == len(rows)
    for pair in leaks["pairs"]:
        (row,) = (row for row in rows if row["position"] == pair["position"])
        assert (pair["kind"], pair["sample_id"], pair["against"]) == (row["kind"], row["sample_id"], "held")
        assert pair["passage"] == row["passage"] and pair["other_id"] == row["against_sample_id"]
        before, passage, behind = pair["text"]
        assert "tall iron tower that a Frenchman built 7" in passage and passage in TOWER.format(7)
        assert before + passage + behind in ("".join(pair["text"]), TOWER.format(7))
        assert "".join(pair["other_text"]) == TOWER.format(7) + "\n\nParis!"
    (found,) = page["copies"]
    kinds = {row["kind"]: row["pairs"] for row in found["counts"]}
    stored = store.query("SELECT kind, count(*) AS n FROM duplicates GROUP BY kind").to_pylist()
    assert kinds == {row["kind"]: row["n"] for row in stored} and {"exact", "contradiction"} <= kinds.keys()
    contradiction = next(pair for pair in found["pairs"] if pair["kind"] == "contradiction")
    assert contradiction["score"] is None and contradiction["text"] != contradiction["other_text"]
    assert all(pair["text"] and pair["other_text"] for pair in found["pairs"])


def test_pairs_beyond_the_bound_are_counted_and_a_pool_that_is_gone_costs_its_texts(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(made, tmp_path / "store"))
    monkeypatch.setattr(copies, "SHOWN", 1)
    shutil.rmtree(Store(root).get("held").path)
    (leaks,) = content(root, monkeypatch)["leaks"]
    total = sum(row["pairs"] for row in leaks["counts"])
    assert len(leaks["pairs"]) == len(leaks["counts"]) and leaks["left_out"] == total - len(leaks["pairs"]) > 0
    best = Store(root).query("SELECT kind, max(score) AS score FROM leaks GROUP BY kind").to_pylist()
    assert {pair["kind"]: pair["score"] for pair in leaks["pairs"]} == near({row["kind"]: row["score"] for row in best})
    assert all(pair["other_text"] is None and pair["text"] for pair in leaks["pairs"])


def test_the_part_around_the_passage_is_shown_and_bounded() -> None:
    text = "x " * 1000 + "The Tower, of 1,665 steps — in Paris! " + "y " * 1000
    before, passage, behind = marked(text, "tower of 1665 steps in paris")  # type: ignore[misc]
    assert passage == "Tower, of 1,665 steps — in Paris" and before.endswith("x The ") and behind.startswith("! y")
    assert len(before) == BEFORE + 1 and len(before + passage + behind) <= LONGEST + 3
    assert marked("short", "other words") == ["short"] and marked(None, "x") is None
    assert marked("z " * 1000, "nothing") == ["z " * 300 + "…"]
    assert marked("東京の天気は", "天 気") == ["東京の", "天気", "は"]
    assert marked("Yes", "yes") == ["", "Yes", ""] and marked("a b c", "") == ["a b c"]
    assert len("".join(marked("w " * 500_000, "w w w") or [])) <= LONGEST + 3


@pytest.mark.parametrize("size", [(1440, 900), PHONE])
def test_pairs_are_side_by_side_and_open_with_the_keyboard(browser: Page, pages: Pages, size: tuple[int, int]) -> None:
    page = browser.open(pages["copied"][0], size)
    assert page.complaints() == []
    assert "28 pairs: 27 contained and 1 exact." in page.text("#leaks .sentence")
    assert "26 pairs more are not on this page" in page.text("#leaks")
    assert page.texts("#leaks tbody tr") == ["contained272526", "exact111"]
    page.run(
        "document.querySelectorAll(':is(#leaks, #copies) summary').forEach((each) => (each.focus(), each.click()))"
    )
    assert page.run("return document.activeElement.tagName") == "SUMMARY"
    assert page.texts("#leaks mark") == [f"How tall is {HOSTILE[0]}"]
    assert "Its text is not in the store." in page.text("#leaks") and "gsm8k/3" in page.text("#leaks")
    assert page.all("#leaks script, #leaks img, #leaks b") == []
    assert page.texts("#copies .sides p") == ["One.", "Two."]
    assert page.run("return document.documentElement.scrollWidth") <= size[0]


def test_a_report_without_them_has_no_such_part(browser: Page, pages: Pages) -> None:
    assert browser.open(pages["bare"][0]).all("#leaks, #copies") == []
