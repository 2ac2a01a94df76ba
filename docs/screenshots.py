"""Take the pictures of the documentation from the demo, in headless Chromium, in light and dark colours.

    make demo && make screenshots

A picture is a function that opens a page and returns the element at its top; `PICTURES` lists them. So the pictures
show what the commands write now, and nobody draws them. Chromium has no network.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "assets" / "screenshots"
SCHEMES = ("light", "dark")
WIDTH, HEIGHT = 1120, 700
"""Size of a picture, in pixels."""
COLOURS = 128
"""Colours of a picture: charts and text need few, and a file is then a third as large."""
LARGEST = 150_000
"""Bytes of the largest file."""
RUNS = ("demo-compared-rho-s0", "demo-compared-rds-s0", "demo-compared-random-s0")
WATCHED = """train --name watched --pool demo --model demo-model --eval-pool demo-exam --eval-steps 20 --selector uds
    --candidates 32 --keep 8 --max-steps 2000 --max-length 128 --learning-rate 3e-3"""
READY = "return document.documentElement.dataset.ready"
SECONDS = 120.0


class Browser:
    """Headless Chromium without a network, and the pages that were made for it."""

    def __init__(self, driver: Any, store: Path, work: Path) -> None:
        self.driver, self.store, self.work = driver, store, work
        self._reports: dict[tuple[str, ...], Path] = {}
        self._started: list[subprocess.Popen[str]] = []
        self._address = ""

    def open(self, address: str, scheme: str) -> None:
        """Open a page in a colour scheme, and wait until it is ready."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(address)
        end = time.monotonic() + SECONDS
        while not self.driver.execute_script(READY):
            if time.monotonic() > end:
                raise SystemExit(f"{address} was not ready within {SECONDS:g} s.")
            time.sleep(0.1)

    def report(self, *runs: str) -> str:
        """Return the address of the report about some runs, which is written once."""
        if runs not in self._reports:
            file = self.work / f"report-{len(self._reports)}.html"
            options = ["--store", str(self.store), "--to", str(file), "--title", "The demo: three methods"]
            subprocess.run([sys.executable, "-m", "curate", "report", *runs, *options], check=True)
            self._reports[runs] = file
        return self._reports[runs].as_uri()

    def watch(self, step: int) -> str:
        """Return the address of the page about a run that trains; the page knows this step when it opens."""
        if not self._started:
            store = self.work / "store"
            shutil.copytree(self.store, store)
            curate = [sys.executable, "-m", "curate"]
            self._started = [subprocess.Popen([*curate, *WATCHED.split(), "--store", str(store)])]
            while not any(store.glob("artifacts/train/*/draft.json")):
                self._must_train()
                time.sleep(0.5)
            command = [*curate, "watch", "watched", "--store", str(store)]
            self._started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            assert self._started[1].stdout
            self._address = self._started[1].stdout.readline().strip()
        self.driver.get(self._address)
        while int(self.driver.execute_script("return document.documentElement.dataset.step || 0")) < step:
            self._must_train()
            time.sleep(0.5)
        return self._address

    def _must_train(self) -> None:
        if self._started[0].poll() is not None:
            raise SystemExit("The run that is watched has ended before its picture was taken.")

    def close(self) -> None:
        """Stop the run that is watched, and its page."""
        for process in self._started:
            process.terminate()
            process.wait()

    def picture(self, top: str) -> bytes:
        """Return the page as a PNG with few colours; the element that `top` selects is at its top."""
        script = "document.querySelector(arguments[0]).scrollIntoView({block: 'start', behavior: 'instant'})"
        self.driver.execute_script(script, top)
        time.sleep(0.5)  # a frame is drawn after the scroll
        return small(self.driver.get_screenshot_as_png())


def report(browser: Browser, scheme: str) -> str:
    """Open the report at its head."""
    browser.open(browser.report(*RUNS), scheme)
    return "body"


def report_curves(browser: Browser, scheme: str) -> str:
    """Open the report at the losses over the steps."""
    browser.open(browser.report(*RUNS), scheme)
    return "#curves"


def report_groups(browser: Browser, scheme: str) -> str:
    """Open the report at the samples that the runs kept, by group."""
    browser.open(browser.report(*RUNS), scheme)
    return "#kept"


def watch(browser: Browser, scheme: str) -> str:
    """Open the page of a run in its middle."""
    browser.open(browser.watch(40), scheme)
    return "body"


PICTURES: dict[str, Callable[[Browser, str], str]] = {
    "report": report,
    "report-curves": report_curves,
    "report-groups": report_groups,
    "watch": watch,
}
"""Name of a picture -> the function that opens its page in a scheme and returns the selector of what is at its top."""


def files() -> list[Path]:
    """Return the paths of all pictures."""
    return [FOLDER / f"{name}-{scheme}.png" for name in PICTURES for scheme in SCHEMES]


def small(picture: bytes) -> bytes:
    """Return a PNG with `COLOURS` colours, without dithering, which would blur text and enlarge the file."""
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    written = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
    return written.getvalue()


def chromium() -> Any:
    """Start headless Chromium without a network; the program ends with a sentence if it is not installed."""
    from selenium import webdriver

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (program and driver):
        raise SystemExit("There is no chromium or no chromedriver on this machine: install both.")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    metrics = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    started.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    return started


def main() -> None:
    """Take all pictures, or those that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*PICTURES, []], help="Pictures to take; by default all.")
    parser.add_argument("--store", type=Path, default=Path("store"), help="Store of the demo.")
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    driver = chromium()
    browser = None
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
            browser = Browser(driver, given.store, Path(work))
            for name in given.names or PICTURES:
                for scheme in SCHEMES:
                    content = browser.picture(PICTURES[name](browser, scheme))
                    if len(content) > LARGEST:
                        raise SystemExit(f"{name} in {scheme} has {len(content)} bytes: the limit is {LARGEST}.")
                    (FOLDER / f"{name}-{scheme}.png").write_bytes(content)
                    print(FOLDER / f"{name}-{scheme}.png", len(content))
    finally:
        if browser is not None:
            browser.close()
        driver.quit()


if __name__ == "__main__":
    main()
