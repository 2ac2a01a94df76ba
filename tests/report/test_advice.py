"""Tests of the part of a report about advice: its rows against plain loops, its drawing, and the page in a browser."""

from __future__ import annotations

import statistics
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curate import Store
from curate.config import Config
from curate.stages.advise.picture import advice_html, race_chart, race_table
from curate.stages.advise.result import NOTES, RUNS, VERDICTS
from tests.support.report_pages import PHONE, Page, Pages
from tests.support.report_payloads import HOSTILE
from tests.support.reports import near, page_content, store_of

LOSSES = {
    ("race", 1, 0): {"random": 2.0, "full": 2.1, "good": 1.5, "bad": 2.5},
    ("race", 2, 1): {"random": 3.0, "full": 2.9, "good": 2.75},
    ("verdict", 3, 1000): {"random": 1.0, "random as long": 0.5, "good": 0.75},
    ("verdict", 3, 1001): {"random": 1.5, "random as long": 1.25, "good": 1.0},
}
ROWS: list[dict[str, Any]] = [
    {"stage": stage, "round": number, "seed": seed, "method": method, "loss": loss, "run": "a" if seed == 0 else "b",
     "role": "candidate" if method in ("good", "bad") else "control", "kept_for_next": method != "bad"}
    for (stage, number, seed), losses in LOSSES.items() for method, loss in losses.items()
]  # fmt: skip
VERDICT = {"method": "good", "control": "random", "verdict": "better", "rows": 9, "seeds": 2, "difference": -0.375}
VERDICT |= {"low": -0.5, "high": -0.25, "level": 0.9}
NOTE = {"kind": "leak", "count": 3, "detail": HOSTILE[0]}
RESULT = {
    "runs": ROWS,
    "verdicts": [VERDICT],
    "notes": [NOTE],
    "sentence": "Use <good>.",
    "command": "curate train & so",
}
EXPECTED = {
    ("good", 1): [-0.5], ("bad", 1): [0.5], ("full", 1): [0.1], ("good", 2): [-0.5, -0.25], ("full", 2): [0.1, -0.1],
    ("good", 3): [-0.25, -0.5], ("random as long", 3): [-0.5, -0.25],
}  # fmt: skip
"""Method and round -> differences to random at the seeds so far; those of the verdict have seeds of their own."""


def test_a_race_is_differences_to_random_at_the_same_seeds() -> None:
    table = race_table(ROWS)
    assert table.methods == ("good", "bad", "random as long", "full")
    assert table.rounds == ("round 1 · 1 seed", "round 2 · 2 seeds", "verdict · 2 new seeds")
    assert {(cell.method, cell.round): list(cell.by_seed) for cell in table.cells} == {
        key: near(values) for key, values in EXPECTED.items()
    }
    assert [(cell.method, cell.stays) for cell in table.cells if cell.round == 1] == [
        ("full", True), ("good", True), ("bad", False),
    ]  # fmt: skip


def test_a_loss_that_is_no_number_is_left_out() -> None:
    broken = [row | {"loss": None if row["seed"] == 0 else float("nan")} for row in ROWS]
    assert race_table(broken).cells == () and "<svg" in race_chart(race_table(broken), title="nothing")
    without = [row for row in ROWS if (row["method"], row["seed"]) != ("random", 1)]
    assert {cell.round for cell in race_table(without).cells if len(cell.by_seed) == 2} == {3}


def test_the_drawing_has_a_dot_for_each_seed_and_mean_and_the_interval() -> None:
    drawing = ElementTree.fromstring(race_chart(race_table(ROWS), ("good", -0.5, -0.25), title="Use <good>."))
    space = "{http://www.w3.org/2000/svg}"
    circles = [circle.attrib for circle in drawing.iter(f"{space}circle")]
    assert len([each for each in circles if each["r"] == "2"]) == sum(map(len, EXPECTED.values()))
    means = [each for each in circles if each["r"] == "5"]
    assert len(means) == len(EXPECTED) and [each["fill"] for each in means].count("none") == 1
    assert len([path for path in drawing.iter(f"{space}path") if path.get("stroke-width") == "3"]) == 1
    assert drawing.findtext(f"{space}title") == "Use <good>."
    texts = [text.text for text in drawing.iter(f"{space}text")]
    assert {"good", "bad", "full", "random as long", "verdict · 2 new seeds"} <= set(texts)


def test_a_notebook_shows_text_as_text() -> None:
    shown = advice_html(RESULT)
    assert "<b>Use &lt;good&gt;.</b>" in shown and "curate train &amp; so" in shown
    assert "<script" not in shown and "&lt;script&gt;window.pwned" in shown
    ElementTree.fromstring(shown)
    assert "<td>-0.3750</td>" in shown and "<td>better</td>" in shown


class AdviceConfig(Config):
    """What the page reads of the config of advice: nothing."""


def test_a_report_has_the_advice_whose_race_ran_on_its_pool(tmp_path: Path) -> None:
    store = Store(store_of(tmp_path))
    runs = {name: store.get(name).fingerprint for name in ("a", "b")}

    def fill(draft: Any) -> None:
        stored = [row | {"run": runs[row["run"]]} for row in ROWS]
        draft.add("advice_runs", pa.Table.from_pylist(stored, schema=RUNS))
        draft.add("advice_verdicts", pa.Table.from_pylist([VERDICT], schema=VERDICTS))
        draft.add("advice_notes", pa.Table.from_pylist([NOTE], schema=NOTES))
        draft.summary = {"advised": "good", "verdict": "Use good.", "full run": "curate train"}

    store.make("advise", fill, AdviceConfig(name="told"), {})
    (found,) = page_content(store, "a")["advice"]
    assert (found["name"], found["advised"], found["sentence"]) == ("told", "good", "Use good.")
    assert {(cell["method"], cell["round"]): cell["mean"] for cell in found["cells"]} == {
        key: near(statistics.fmean(values)) for key, values in EXPECTED.items()
    }
    assert found["notes"] == [NOTE] and found["verdicts"][0]["verdict"] == "better"
    assert page_content(store, "far")["advice"] == []


@pytest.mark.parametrize("size", [(1440, 900), PHONE])
def test_advice_is_a_sentence_a_picture_and_tables(browser: Page, pages: Pages, size: tuple[int, int]) -> None:
    path, content = pages["advised"]
    page = browser.open(path, size)
    assert page.complaints() == []
    assert page.text("#advice .sentence") == content["advice"][0]["sentence"]
    assert page.texts("#advice h3") == ["advice: use tfidf"]
    assert len(page.texts("#advice svg circle.dot")) == 4
    assert len(page.texts("#advice svg circle.hollow")) == 1
    assert len(page.texts("#advice svg circle.seed")) == 6
    assert len(page.texts("#advice svg line.interval")) == 1
    assert page.texts("#advice details tbody tr") == [
        "tfidf\u22120.2500\u22120.2500\u22120.2500", "max_loss <b>+0.5000––",
    ]  # fmt: skip
    assert HOSTILE[0] in page.texts("#advice td .quoted") and page.all("#advice script, #advice b") == []
    assert "better" in page.text("#advice tbody") and "1,250" in page.text("#advice tbody")
    assert page.run("return document.documentElement.scrollWidth") <= size[0]


def test_a_report_without_advice_has_no_such_part(browser: Page, pages: Pages) -> None:
    assert browser.open(pages["bare"][0]).all("#advice") == []
