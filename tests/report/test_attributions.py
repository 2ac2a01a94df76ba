"""Tests of the part of a report about attributions: its rows, and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curate import Store
from curate.config import Config
from curate.report.attributions import SHOWN
from curate.stages.attribute.ranking import RECORDS
from tests.support.report_pages import PHONE, Page, Pages
from tests.support.report_payloads import HOSTILE
from tests.support.reports import near, page_content, store_of


class AttributionConfig(Config):
    """What the page reads of the config of an attribution."""

    metric: str = "adam"


def test_a_report_has_both_ends_of_each_order_with_texts(tmp_path: Path) -> None:
    store = Store(store_of(tmp_path))
    pool = store.query("SELECT sample_id, messages FROM conversations").to_pylist()
    ids = [row["sample_id"] for row in pool]
    listed = [{"rank": rank, "from_bottom": 29 - rank, "sample_id": ids[rank % 2]} for rank in range(30)]
    rows = [
        row | {"query_id": query, "influence": 1 / 3 - row["rank"], "share": 0.0, "steps": 1, "query": text}
        for query, text in ((ids[1], None), ("elsewhere", "A question."), (None, None))
        for row in listed
    ]

    def fill(draft: Any) -> None:
        draft.add("attributions", pa.Table.from_pylist(rows, schema=RECORDS))
        draft.rows, draft.summary = 30, {"queries": 2}

    store.make("attribute", fill, AttributionConfig(name="why"), {"run": store.get("a").fingerprint})
    (found,) = page_content(store, "a")["attributions"]
    assert (found["name"], found["run"], found["metric"], found["count"], found["samples"]) == (
        "why",
        "a",
        "adam",
        2,
        30,
    )
    by_id = {query["id"]: query for query in found["queries"]}
    assert found["queries"][0]["id"] is None and set(by_id) == {None, "elsewhere", ids[1]}
    for query in found["queries"]:
        ranks = [row["rank"] for row in query["rows"]]
        assert ranks == [*range(SHOWN), *range(30 - SHOWN, 30)]
        assert query["rows"][0]["influence"] == near(1 / 3)
    question = "\n".join(message["content"] for message in pool[1]["messages"])
    assert by_id[ids[1]]["text"] == question[:300] == by_id[None]["rows"][1]["text"]
    assert by_id["elsewhere"]["text"] == "A question." and by_id[None]["text"] is None
    assert page_content(store, "b")["attributions"] == []


@pytest.mark.parametrize("size", [(1440, 900), PHONE])
def test_an_attribution_is_a_sentence_and_a_table_of_texts_for_each_query(
    browser: Page, pages: Pages, size: tuple[int, int]
) -> None:
    path, _ = pages["attributed"]
    page = browser.open(path, size)
    assert page.complaints() == []
    assert page.texts("#attributions h3") == ["why of run"]
    assert "has the highest influence on the mean of the queries: 50.0% of all" in page.text("#attributions .sentence")
    assert len(page.texts("#attributions table")) == 3
    assert (
        HOSTILE[0] in page.texts("#attributions td .quoted") and page.all("#attributions script, #attributions b") == []
    )
    assert page.run("return document.documentElement.scrollWidth") <= size[0]


def test_a_report_without_attributions_has_no_such_part(browser: Page, pages: Pages) -> None:
    assert browser.open(pages["bare"][0]).all("#attributions") == []
