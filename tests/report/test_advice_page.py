"""Tests of the part of a report about advice, in a real browser."""

from __future__ import annotations

import pytest

from tests.support.report_pages import PHONE, Page, Pages
from tests.support.report_payloads import HOSTILE


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
    race = page.texts("#advice details tbody tr")
    assert race == ["tfidf-0.2500-0.2500-0.2500", "max_loss <b>+0.5000––".replace("-0", "\u22120")] or race == [
        "tfidf\u22120.2500\u22120.2500\u22120.2500", "max_loss <b>+0.5000––",
    ]  # fmt: skip
    assert HOSTILE[0] in page.texts("#advice td .quoted") and page.all("#advice script, #advice b") == []
    assert "better" in page.text("#advice tbody") and "1,250" in page.text("#advice tbody")
    assert page.run("return document.documentElement.scrollWidth") <= size[0]


def test_a_report_without_advice_has_no_such_part(browser: Page, pages: Pages) -> None:
    assert browser.open(pages["bare"][0]).all("#advice") == []
