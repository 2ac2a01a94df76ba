"""How large a report is and how long a browser takes to open it, at 6,000 and at 50,000 samples.

The content is made up (two runs, texts of about 60 and 60 words), the page and the browser are real: headless Chromium
through chromedriver, the file opened from disk, each time in a new profile. Columns, and the last line as JSON:

`megabytes`: of the file. `open_s`: from the start of the navigation until the page says that it can be read, drawings
and list included: median and largest of the repeats. `wall_s`: the same seen from outside, with the driver's share.
`cpu_s`: what the page's main thread worked until then, which a busy machine hardly changes. `search_s`: from a key in
the search field to the narrowed list, with the 0.15 s that the field waits for another key: the first search reads
every text once, `search_again_s` does not. `recolour_s`: to draw the map anew by another label. `heap_mb`: of the
script's memory afterwards.

    python benchmarks/report_open.py
    python benchmarks/report_open.py --samples 600 --repeats 1
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from curate.report.page import page
from tests.support.report_payloads import full_payload

READY = "return document.documentElement.dataset.ready"
SEARCH = """
const [words, done] = arguments, began = performance.now(), count = document.querySelector(".count");
const field = document.getElementById("search");
new MutationObserver((_, watch) => {
  watch.disconnect();
  requestAnimationFrame(() => setTimeout(() => done((performance.now() - began) / 1000)));
}).observe(count, { childList: true });
field.value = words;
field.dispatchEvent(new Event("input"));
"""
RECOLOUR = """
const field = document.querySelector("#map select"), began = performance.now();
field.value = "cluster";
field.dispatchEvent(new Event("change"));
return (performance.now() - began) / 1000;
"""


def opened(path: Path) -> dict[str, float]:
    """Seconds and megabytes of one opening of a report, in a browser of its own."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1440,900",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.execute_cdp_cmd("Performance.enable", {})
        began = time.perf_counter()
        driver.get(path.as_uri())
        while not (ready := driver.execute_script(READY)):
            time.sleep(0.01)
        wall = time.perf_counter() - began
        metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        cpu = next(metric["value"] for metric in metrics if metric["name"] == "ThreadTime")
        found: dict[str, Any] = {"open_s": int(ready) / 1000, "wall_s": wall, "cpu_s": cpu}
        found["search_s"] = driver.execute_async_script(SEARCH, "river planet")
        found["search_again_s"] = driver.execute_async_script(SEARCH, "river planet gsm8k")
        found["recolour_s"] = driver.execute_script(RECOLOUR)
        found["heap_mb"] = driver.execute_script("return performance.memory.usedJSHeapSize") / 1e6
        return found
    finally:
        driver.quit()


def measured(samples: int, repeats: int, words: int) -> dict[str, float]:
    """A report of this many samples, opened several times: medians, and the largest time to open."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        size = path.write_bytes(page(full_payload(samples, runs=2, words=words)).encode())
        times = [opened(path) for _ in range(repeats)]
    medians = {key: round(statistics.median(one[key] for one in times), 3) for key in times[0]}
    largest = round(max(one["open_s"] for one in times), 3)
    return {"samples": samples, "megabytes": round(size / 1e6, 2), **medians, "open_largest_s": largest}


def main() -> None:
    """Measure, print a table, then JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[6_000, 50_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--words", type=int, default=120, help="words of a sample, half asked and half answered")
    wish = parser.parse_args()
    found = [measured(samples, wish.repeats, wish.words) for samples in wish.samples]
    columns = list(found[0])
    print(" | ".join(columns))
    for row in found:
        print(" | ".join(f"{row[name]:,}".rjust(len(name)) for name in columns))
    print(json.dumps({"repeats": wish.repeats, "words": wish.words, "reports": found}))


if __name__ == "__main__":
    main()
