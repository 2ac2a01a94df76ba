"""Tests of the list of samples and the map of a report, in a real browser."""

from __future__ import annotations

from typing import Any

from tests.support.report_pages import SAMPLES, Page, Pages
from tests.support.report_payloads import Payload


def test_a_search_for_all_words_narrows_the_list_and_says_how_far(browser: Page, pages: Pages) -> None:
    path, content = pages["several"]
    page = browser.open(path)
    assert page.text(".count") == f"All {SAMPLES} samples."
    words = [content["samples"]["prompt"][17].split()[2].lower(), "planet"]
    texts = zip(content["samples"]["prompt"], content["samples"]["answer"], strict=True)
    having = sum(all(word in f"{asked} {answered}".lower() for word in words) for asked, answered in texts)
    assert 0 < having < SAMPLES
    page.search(" ".join(words))
    assert page.text(".count") == f"{having} of {SAMPLES} samples."
    assert page.one(".count").get_attribute("aria-live") == "polite"
    page.search("no sample has these words")
    assert page.text(".count") == f"0 of {SAMPLES} samples."
    assert "No sample matches" in page.text(".samples tbody")


def test_columns_sort_both_ways_with_what_is_not_known_last(browser: Page, pages: Pages) -> None:
    path, content = pages["one"]
    page = browser.open(path)
    tokens = content["samples"]["tokens"]
    assert page.sort("tokens") == "descending"
    assert page.column("tokens") == [str(n) for n in sorted(tokens, reverse=True)[:25]]
    assert page.sort("tokens") == "ascending"
    assert page.column("tokens") == [str(n) for n in sorted(tokens)[:25]]
    unseen = content["samples"]["runs"][0]["offered"].count(0)
    assert page.sort("score") == "descending"
    assert "–" not in page.column("score") and unseen
    while page.run("const next = document.querySelector('.pager').lastChild; next.click(); return !next.disabled"):
        pass
    assert page.column("score")[-1] == "–"
    assert page.sort("score") == "ascending"
    assert "–" not in page.column("score")


def test_never_offered_is_not_never_kept(browser: Page, pages: Pages) -> None:
    path, content = pages["one"]
    page = browser.open(path)
    run = content["samples"]["runs"][0]
    pairs = list(zip(run["offered"], run["kept"], strict=True))
    expected = {
        "kept": sum(kept > 0 for _, kept in pairs),
        "never": sum(offered > 0 and not kept for offered, kept in pairs),
        "unseen": sum(not offered for offered, _ in pairs),
    }
    assert sum(expected.values()) == SAMPLES
    for name, many in expected.items():
        page.click(f'input[name="filter"][value="{name}"]')
        assert page.text(".count") == f"{many} of {SAMPLES} samples.", name
    page.click('input[name="filter"][value="kept"]')
    assert page.column("kept") == [str(n) for n in sorted(run["kept"], reverse=True)[:25]]


def test_a_sample_opens_in_place_with_its_text_and_what_every_run_made_of_it(browser: Page, pages: Pages) -> None:
    path, content = pages["several"]
    page = browser.open(path)
    page.click(".sample-button")
    assert page.one(".sample-button").get_attribute("aria-expanded") == "true"
    shown = page.text(".detail")
    assert content["samples"]["prompt"][0] in shown and content["samples"]["answer"][0] in shown
    assert content["samples"]["id"][0] in shown
    assert page.texts(".detail tbody th") == [run["name"] for run in content["runs"]]
    page.click(".sample-button")
    assert page.all(".detail") == []


def on_map(page: Page, sample: int, content: Payload) -> tuple[Any, float, float]:
    """The map, and where on it a sample lies, from the middle of it in pixels."""
    surface = page.one(".map canvas")
    page.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", surface)
    size = page.run("const r = arguments[0].getBoundingClientRect(); return [r.width, r.height]", surface)
    x, y = content["map"]["x"], content["map"]["y"]
    spans = [max(values) - min(values) for values in (x, y)]
    scale = min((size[0] - 36) / spans[0], (size[1] - 36) / spans[1])
    return surface, (x[sample] - (max(x) + min(x)) / 2) * scale, -(y[sample] - (max(y) + min(y)) / 2) * scale


def test_pointing_at_the_map_shows_the_text_of_the_sample_and_a_click_opens_it(browser: Page, pages: Pages) -> None:
    path, content = pages["several"]
    page = browser.open(path)
    places = list(zip(content["map"]["x"], content["map"]["y"], strict=True))
    lonely = max(
        range(SAMPLES), key=lambda n: sorted((x - places[n][0]) ** 2 + (y - places[n][1]) ** 2 for x, y in places)[1]
    )
    surface, right, down = on_map(page, lonely, content)
    assert not page.one(".map-tip").is_displayed()
    page.point(surface, right, down)
    page.wait(lambda: page.one(".map-tip").is_displayed())
    assert content["samples"]["prompt"][lonely][:200] in page.text(".map-tip")
    page.mouse().click().perform()
    page.wait(lambda: page.all("dialog[open]"))
    assert content["samples"]["answer"][lonely] in page.text("dialog")
    page.press("ESCAPE")
    page.wait(lambda: not page.all("dialog"))


def test_the_keyboard_walks_the_map_and_says_where_it_is(browser: Page, pages: Pages) -> None:
    page = browser.open(pages["one"][0])
    page.run("document.querySelector('.map canvas').focus()")
    page.press("ARROW_RIGHT")
    first = page.text("#map-words")
    page.press("ARROW_RIGHT")
    second = page.text("#map-words")
    assert first.startswith("Question ") and second.startswith("Question ") and first != second
    page.press("ENTER")
    page.wait(lambda: page.all("dialog[open]"))
    assert second[:40] in page.text("dialog")


def test_the_map_is_coloured_by_what_is_asked_for(browser: Page, pages: Pages) -> None:
    path, content = pages["several"]
    page = browser.open(path)
    pixels = "return document.querySelector('.map canvas').toDataURL()"
    before = page.run(pixels)
    choose = """const field = document.querySelectorAll('#map select')[arguments[0]];
        field.value = arguments[1]; field.dispatchEvent(new Event('change'));"""
    page.run(choose, 0, "source")
    assert page.run(pixels) != before
    sources = content["samples"]["labels"]["source"]
    keys = page.texts("#map .key-button")
    assert sorted(keys) == sorted(f"{name}{sources['codes'].count(n)}" for n, name in enumerate(sources["values"]))
    page.run(choose, 0, "times kept")
    first = page.texts("#map .key-button")
    page.run(choose, 1, "2")
    assert page.texts("#map .key-button") != first
