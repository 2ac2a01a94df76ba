"""Tests of the page of `curate watch` in a real browser, while a run writes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from curate import Store
from tests.report.test_browser import spelled
from tests.support.live_runs import LiveRun
from tests.support.report_pages import OFFLINE, PHONE, Page
from tests.support.reports import POOL
from tests.support.watch_pages import Watch, watched

SECTIONS = ["now", "figures", "curves", "spikes", "kept", "scores", "distributions", "time", "configuration"]


@pytest.fixture(scope="module")
def run(reported: Path, tmp_path_factory: pytest.TempPathFactory, browser: Page) -> Iterator[LiveRun]:
    """A run with a spike, which the tests of this module make longer."""
    run = LiveRun(Store(shutil.copytree(reported, tmp_path_factory.mktemp("page") / "store")), losses={14: 8.0})
    yield run.write(20)
    run.end()


@pytest.fixture(scope="module")
def watch(run: LiveRun, browser: Page) -> Iterator[Watch]:
    with watched(run.store, "live") as found:
        yield found
        browser.driver.get("about:blank")
    browser.driver.execute_cdp_cmd("Network.emulateNetworkConditions", OFFLINE)


def test_the_page_follows_the_run_without_a_complaint_and_asks_its_server_alone(
    browser: Page, watch: Watch, run: LiveRun
) -> None:
    page = watch.open(browser)
    assert page.run("return [...document.querySelectorAll('main > section')].map(s => s.id)") == SECTIONS
    assert page.texts(".contents a") == page.texts("main h2")
    before = page.text("#now .lead")
    assert before.startswith(f"Step {run.step}:") and f"step {run.step} of 40" in page.text("#standfirst")
    run.write(2)
    watch.wait_for_step(page, run.step)
    assert page.text("#now .lead").startswith(f"Step {run.step}:")
    assert page.run("return document.getElementById('progress').value") == run.step
    asked = page.run(
        "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"
    )
    assert set(asked) <= {f"{watch.address}events"}
    assert page.complaints() == []
    empty = (
        "return [...document.querySelectorAll('.plot')].filter(p => !p.firstChild || p.ariaLabel.length < 10).length"
    )
    assert page.run(empty) == 0 and len(page.all(".plot")) >= 12


def test_every_picture_has_a_table_and_its_sql_can_be_copied(browser: Page, watch: Watch) -> None:
    page = watch.open(browser)
    bare = "return [...document.querySelectorAll('figure')].filter(f => !f.querySelector('table')).length"
    assert page.run(bare) == 0
    without = (
        "return [...document.querySelectorAll('figure')].filter(f => !f.querySelector('.sql')).map(f => f.innerText)"
    )
    assert page.run(without) == []
    shown = "const f = [...document.querySelectorAll('#curves figure')][0]; "
    assert page.texts("#curves h3")[0] == "Held-out loss"
    page.run(shown + "f.querySelector('.sql').open = true; f.querySelector('.sql button').click()")
    page.wait(lambda: page.run(shown + "return f.querySelector('.sql button').textContent") != "Copy")
    sql = page.run(shown + "return f.querySelector('.sql code').textContent")
    assert sql.startswith("SELECT step, value FROM metrics WHERE run = 'live'")
    assert len(watch.server.follower.store.query(sql)) == watch.server.follower.step // 5


def test_texts_of_the_pool_stay_text_and_a_spike_shows_its_rows(browser: Page, watch: Watch, run: LiveRun) -> None:
    page = watch.open(browser)
    page.run("for (const details of document.querySelectorAll('.rows details')) details.open = true")
    texts = page.texts(".rows details .text")
    assert len(texts) >= 12 and page.all("#page script, #page img") == []
    prompts = {spelled(row["instruction"].replace("\r\n", "\n")) for row in POOL}
    assert all(text in prompts for text in texts[::2])
    assert page.texts("#spikes h3") == ["Step 14"]
    kept = [row for row in run.rows if row["step"] == 14 and row["kept"]]
    assert len(page.all("#spikes .rows tbody > tr")) == len(kept)
    assert page.run("return typeof window.pwned") == "undefined" and page.complaints() == []


def test_what_is_open_and_focused_stays_and_pause_holds_the_page(browser: Page, watch: Watch, run: LiveRun) -> None:
    page = watch.open(browser)
    page.run("document.querySelector('#curves figure .sql').open = true")
    page.run("document.querySelector('#curves figure .sql summary').focus()")
    run.write(1)
    watch.wait_for_step(page, run.step)
    focused = "const e = document.activeElement; return [e.tagName, e.textContent, e.closest('section')?.id]"
    assert page.run("return document.querySelector('#curves figure .sql').open")
    assert page.run(focused) == ["SUMMARY", "Show the SQL", "curves"]
    page.click("#pause")
    step = run.step
    seen = watch.server._number
    run.write(1)
    watch.wait(lambda: watch.server._number > seen)
    page.wait(lambda: page.run("return document.getElementById('pause').getAttribute('aria-pressed')") == "true")
    assert page.run("return Number(document.documentElement.dataset.step)") == step
    page.click("#pause")
    watch.wait_for_step(page, run.step)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_scrolls_sideways_and_colours_follow_the_system(
    browser: Page, watch: Watch, run: LiveRun, scheme: str
) -> None:
    page = watch.open(browser, PHONE, scheme)
    page.run("for (const details of document.querySelectorAll('details')) details.open = true")
    assert page.run("return document.documentElement.scrollWidth") <= PHONE[0]
    red = page.run("return getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/)[0]")
    assert (int(red) > 128) == (scheme == "light")


def test_the_keyboard_reaches_pause_sql_and_samples_and_the_state_is_announced(browser: Page, watch: Watch) -> None:
    page = watch.open(browser)
    page.press("TAB")
    focused = (
        "const e = document.activeElement; return [e.id || e.className || e.tagName, getComputedStyle(e).outlineStyle]"
    )
    assert page.run(focused)[0] == "skip"
    seen = set()
    for _ in range(60):
        page.press("TAB")
        name, outline = page.run(focused)
        assert outline != "none" or name == "INPUT"
        seen.add(name)
    assert {"pause", "SUMMARY", "scroll"} <= seen
    status = "const s = document.getElementById('status'); return [s.getAttribute('role'), s.getAttribute('aria-live')]"
    assert page.run(status) == ["status", "polite"]
    page.wait(lambda: page.text("#status") == "Connected.")
    unnamed = (
        "return [...document.querySelectorAll('button, summary, input, progress, [role=region]')]"
        ".filter(e => !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).length"
    )
    assert page.run(unnamed) == 0


def test_the_page_says_that_the_run_has_ended_and_keeps_its_state(browser: Page, run: LiveRun) -> None:
    other = LiveRun(run.store, "other", seed=9).write(12)
    with watched(run.store, "other") as watch:
        page = watch.open(browser)
        watch.wait(lambda: watch.server.listeners == 1)
        other.write(1)
        other.end()
        page.wait(lambda: page.text("#status").startswith("The watch has ended."))
        watch.thread.join(30)
        assert page.run("return document.documentElement.dataset.state") == "ended"
        assert page.text("#standfirst") == "The run 'other' has ended after 13 steps."
        assert len(page.all(".plot svg")) > 8 and page.complaints() == []
