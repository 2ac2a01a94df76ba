"""Fixtures for reports in a real browser: an open page that tests act on, and report files of made-up content."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.report_payloads import (
    Payload,
    advised_payload,
    attributed_payload,
    bare_payload,
    copied_payload,
    full_payload,
)

Pages = dict[str, tuple[Path, Payload]]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
SAMPLES = 300
OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
DESKTOP, PHONE = (1440, 900), (390, 844)
READY = "return document.documentElement.dataset.ready"


class Page:
    """An open report, with the actions that the tests need."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> Page:
        """Open a file and wait until the page is ready."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.prefer("prefers-color-scheme", scheme)
        self.driver.get_log("browser")  # drop earlier messages
        self.driver.get(path.as_uri())
        self.wait(lambda: self.run(READY))
        return self

    def prefer(self, name: str, value: str) -> None:
        features = [{"name": name, "value": value}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def run(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)

    def all(self, css: str) -> list[Any]:
        return self.driver.find_elements("css selector", css)

    def one(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def text(self, css: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", css))

    def texts(self, css: str) -> list[str]:
        return list(self.run("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", css))

    def click(self, css: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", css)

    def mouse(self) -> Any:
        """Return a Selenium chain of pointer and key actions."""
        from selenium.webdriver import ActionChains

        return ActionChains(self.driver)

    def press(self, *names: str) -> None:
        """Press keys, given by their names in Selenium."""
        from selenium.webdriver import Keys

        self.mouse().send_keys(*(getattr(Keys, name) for name in names)).perform()

    def point(self, element: Any, right: float, down: float) -> None:
        """Move the pointer to a position, in pixels from the middle of an element."""
        self.mouse().move_to_element_with_offset(element, round(right), round(down)).perform()

    def wait(self, happens: Callable[[], Any], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not happens():
            assert time.monotonic() < end, "the page did not reach the expected state in time"
            time.sleep(0.02)

    def complaints(self) -> list[str]:
        """Return the errors and warnings of the console, which include everything that the policy blocked."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def search(self, words: str) -> None:
        """Search for words and wait until the list changes."""
        before = self.text(".count")
        field = self.one("#search")
        self.run("arguments[0].scrollIntoView({block: 'center'})", field)
        field.clear()
        field.send_keys(words)
        self.wait(lambda: self.text(".count") != before)

    def column(self, key: str) -> list[str]:
        """Return the cells of a column of the list as text."""
        heads = self.run("return [...document.querySelectorAll('.samples thead button')].map(b => b.dataset.key)")
        return self.texts(f".samples tbody tr > :nth-child({heads.index(key) + 1})")

    def sort(self, key: str) -> str:
        """Sort the list by a column and return the direction that its head shows."""
        self.click(f'.samples thead [data-key="{key}"]')
        return str(self.run("return document.querySelector('.samples thead [aria-sort]').ariaSort"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Page]:
    """Start Chromium without a window and without a network. Tests skip if it is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (the dev extra has it)")
    if not (BROWSER and DRIVER):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", OFFLINE)
    yield Page(driver)
    driver.quit()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Write reports as files, and return their paths with their content."""
    from curate.report.page import page

    folder = tmp_path_factory.mktemp("reports")
    contents = {
        "one": full_payload(SAMPLES, runs=1),
        "several": full_payload(SAMPLES, runs=3),
        "hostile": full_payload(SAMPLES, runs=2, hostile=True),
        "bare": bare_payload(),
        "advised": advised_payload(SAMPLES),
        "attributed": attributed_payload(SAMPLES),
        "copied": copied_payload(SAMPLES),
    }
    for name, content in contents.items():
        (folder / f"{name}.html").write_text(page(content), encoding="utf-8")
    return {name: (folder / f"{name}.html", content) for name, content in contents.items()}
