"""Tests of the report page in a real browser: it opens offline without an error, and no text of a pool can run."""

from __future__ import annotations

import json

import pytest

from tests.support.report_pages import PHONE, Page, Pages
from tests.support.report_payloads import HOSTILE


@pytest.mark.parametrize("name", ["one", "several", "hostile", "bare"])
def test_a_report_opens_offline_without_a_complaint_and_asks_for_nothing(
    browser: Page, pages: Pages, name: str
) -> None:
    page = browser.open(pages[name][0])
    assert page.complaints() == []
    assert (
        page.run("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    )
    titles = page.texts("main h2")
    assert len(titles) == 12
    assert page.texts(".contents a") == titles


def test_every_figure_has_a_text_and_a_table(browser: Page, pages: Pages) -> None:
    page = browser.open(pages["several"][0])
    assert len(page.all("figure")) > 15
    plots = (
        "return [...document.querySelectorAll('.plot')].filter(p => !p.firstChild || p.ariaLabel.length < 10).length"
    )
    assert page.run(plots) == 0
    bare = "return [...document.querySelectorAll('figure')].filter(f => !f.querySelector('table')).length"
    assert page.run(bare) == 0


def test_labels_have_a_figure_for_their_losses_and_for_each_share(browser: Page, pages: Pages) -> None:
    page = browser.open(pages["several"][0])
    titles = [title for title in page.texts("figure h3") if "by label" in title]
    assert titles == [
        "Loss of the candidates by label, before each step",
        "Share of the candidates by label",
        "Share of the kept samples by label",
    ]
    first = (
        "return [...document.querySelectorAll('figure')].find(f => f.textContent.includes('Loss of the candidates by'))"
    )
    panels = page.run(f"{first}.querySelectorAll('.panel').length")
    assert panels > 1 and page.run(f"{first}.querySelectorAll('path.line').length") == 2 * panels


def test_hostile_samples_stay_text_and_nothing_runs(browser: Page, pages: Pages) -> None:
    path, content = pages["hostile"]
    page = browser.open(path)
    shown = page.column("prompt")[: len(HOSTILE)]
    for n, text in enumerate(HOSTILE):
        assert shown[n] == spelled(text)
        page.click(f'.sample-button[data-sample="{n}"]')
    assert len(page.all(".detail")) == len(HOSTILE)
    for n, detail in enumerate(page.texts(".detail")):
        assert spelled(HOSTILE[n]) in detail and spelled(content["samples"]["answer"][n]) in detail
    assert page.run("return typeof window.pwned") == "undefined"
    assert page.all("#page script, #page img") == []
    assert page.texts(".samples tbody .quoted[dir=auto]")[0] == HOSTILE[0]
    assert page.complaints() == []


def spelled(text: str) -> str:
    """A text with its hidden characters as code points: the slow twin of what the page does."""
    hidden = {chr(n) for n in [*range(32), *range(127, 160), 0x200B, 0x2028, 0x2029, 0x2060, 0xFEFF]} - {"\n", "\t"}
    hidden |= set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    return "".join(f"U+{ord(c):04X}" if c in hidden or "\ud800" <= c <= "\udfff" else c for c in text)


def test_a_page_that_would_make_markup_of_text_is_stopped_by_its_own_policy(browser: Page, pages: Pages) -> None:
    page = browser.open(pages["one"][0])
    inject = "const s = document.createElement('script'); s.append('window.pwned = 4'); document.body.append(s);"
    page.run(f"setTimeout(() => {{ {inject} window.tried = true }}, 0)")
    page.wait(lambda: page.run("return window.tried") or page.complaints())
    assert page.run("return typeof window.pwned") == "undefined"
    markup = "try { document.querySelector('main').innerHTML = '<b>bold</b>' } catch (error) { return error.name }"
    assert page.run(markup) == "TypeError"


def test_light_and_dark_differ_by_preference_and_by_switch(browser: Page, pages: Pages) -> None:
    colours = "const s = getComputedStyle(document.documentElement); return [s.backgroundColor, s.color]"
    page = browser.open(pages["one"][0], scheme="light")
    light = page.run(colours)
    page.prefer("prefers-color-scheme", "dark")
    dark = page.run(colours)
    assert light[0] != dark[0] and light[1] != dark[1]
    page.click('input[name="theme"][value="light"]')
    assert page.run(colours) == light
    page.click('input[name="theme"][value="dark"]')
    assert page.run(colours) == dark


@pytest.mark.parametrize("name", ["several", "hostile", "bare"])
def test_on_a_phone_the_page_does_not_scroll_sideways(browser: Page, pages: Pages, name: str) -> None:
    page = browser.open(pages[name][0], PHONE)
    page.run("for (const details of document.querySelectorAll('details')) details.open = true")
    page.run("document.querySelector('.sample-button')?.click()")
    assert page.run("return document.documentElement.scrollWidth") <= PHONE[0]
    page.run("scrollTo(500, 0)")
    assert page.run("return scrollX") == 0


def test_the_keyboard_reaches_the_search_and_the_samples_and_focus_can_be_seen(browser: Page, pages: Pages) -> None:
    page = browser.open(pages["one"][0])
    focused = "const e = document.activeElement; return [e.id, e.className, getComputedStyle(e).outlineStyle]"
    page.press("TAB")
    assert page.run(focused)[1] == "skip"
    seen = []
    for _ in range(150):
        page.press("TAB")
        name, kind, outline = page.run(focused)
        if name == "search" or kind == "sample-button":
            seen.append(name or kind)
            assert outline != "none"
        if kind == "sample-button":
            break
    assert seen == ["search", "sample-button"]
    page.press("ENTER")
    assert page.run("return document.activeElement.ariaExpanded") == "true"
    page.press("ARROW_DOWN")
    assert page.run("return document.activeElement.dataset.sample") == "1"


def test_runs_side_by_side_share_axes_and_differ_in_more_than_colour(browser: Page, pages: Pages) -> None:
    path, content = pages["several"]
    page = browser.open(path)
    assert page.texts(".card h3") == [run["name"] for run in content["runs"]]
    marks = """return [...document.querySelectorAll('.card .key')].map(key =>
        [...key.children].map(part => part.getAttribute('d') + part.getAttribute('stroke-dasharray')).join())"""
    assert len(set(page.run(marks))) == 3
    axes = """return [...document.querySelectorAll('#scores figure')].map(figure => [
        figure.querySelector('h3').textContent,
        new Set([...figure.querySelectorAll('.grid')].map(grid => grid.textContent)).size,
        figure.querySelectorAll('.grid').length])"""
    found = {name: (different, panels) for name, different, panels in page.run(axes)}
    assert found["Loss"] == (1, 3), "a loss is a loss"
    assert found["Score"][1] == 3 and "own" in page.text("#scores .note"), "scores of selectors have no common unit"
    numbers = page.texts(".matrix .cell b")
    assert numbers[0] == "all" and f"{content['agreement']['jaccard'][0][1]:.1%}" == numbers[1]


def test_what_is_missing_says_so_with_its_command_and_draws_nothing(browser: Page, pages: Pages) -> None:
    path, content = pages["bare"]
    page = browser.open(path)
    sentences = page.texts(".absent")
    assert set(content["missing"].values()) | set(content["runs"][0]["missing"].values()) <= set(sentences)
    commands = page.texts(".absent code")
    assert content["missing"]["map"].split(": ", 1)[1] in commands
    assert page.all(".plot, .map, .samples") == []


def test_paper_is_light_and_has_the_first_samples_only(browser: Page, pages: Pages) -> None:
    page = browser.open(pages["one"][0], scheme="dark")
    page.run("dispatchEvent(new Event('beforeprint'))")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "return [...document.querySelectorAll('.samples tbody tr')].filter(r => r.getClientRects().length).length"
    assert page.run(shown) == 12
    assert page.run("return getComputedStyle(document.documentElement).colorScheme") == "light"
    hidden = "return ['.contents', '.controls', '.pager'].map(c => getComputedStyle(document.querySelector(c)).display)"
    assert set(page.run(hidden)) == {"none"}
    page.run("dispatchEvent(new Event('afterprint'))")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert page.run("return document.documentElement.dataset.theme ?? 'system'") == "system"


def test_the_page_holds_its_content_as_json_that_reads_back(pages: Pages) -> None:
    path, content = pages["hostile"]
    text = path.read_text(encoding="utf-8")
    block = text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    assert "<" not in block and json.loads(block) == content
