"""The page of `curate watch` in a browser: a server in a thread, and a way to open its page in the middle of a run.

with watched(store, "live") as watch:
    page = watch.open(browser)
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

from curate.report.found_runs import find_run
from curate.store import Store
from curate.watch.follower import RunFollower
from curate.watch.server import ADDRESS, End, WatchServer, listen
from tests.support.report_pages import DESKTOP, OFFLINE, READY, Page

ONLINE = {**OFFLINE, "offline": False}


class Watch:
    """A running server, and what a test asks of it."""

    def __init__(self, server: WatchServer, port: int, thread: threading.Thread) -> None:
        self.server = server
        self.port = port
        self.thread = thread
        self.end: End | None = None
        self.error: BaseException | None = None

    @property
    def address(self) -> str:
        return f"http://{ADDRESS}:{self.port}/{self.server.token}/"

    def get(self, path: str | None = None, method: str = "GET", **headers: str) -> HTTPResponse:
        """Make a request; names of headers have `_` for `-`. `Host` is that of the address unless it is given."""
        connection = HTTPConnection(ADDRESS, self.port, timeout=30)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path or f"/{self.server.token}/", skip_host="Host" in given)
        for name, value in given.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse()

    def open(self, page: Page, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> Page:
        """Open the page in a browser, and wait until it is drawn."""
        width, height = size
        page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", ONLINE)
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        page.prefer("prefers-color-scheme", scheme)
        page.driver.get_log("browser")
        page.driver.get(self.address)
        page.wait(lambda: page.run(READY))
        return page

    def wait_for_step(self, page: Page, step: int) -> None:
        """Wait until the page shows a step."""
        page.wait(lambda: page.run("return Number(document.documentElement.dataset.step)") >= step)

    def wait(self, happens: object, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not happens():  # type: ignore[operator]
            assert time.monotonic() < end, "the server did not reach the expected state in time"
            time.sleep(0.02)


@contextmanager
def watched(store: Store, name: str, *, stay: bool = False) -> Iterator[Watch]:
    """Serve the page of a run while the block runs."""
    follower = RunFollower(store, find_run(store, name))
    server = WatchServer(follower, stay=stay)
    with listen(0) as listening:
        loop = asyncio.new_event_loop()

        def run() -> None:
            try:
                watch.end = loop.run_until_complete(server.serve(listening))
            except BaseException as error:
                watch.error = error

        thread = threading.Thread(target=run)
        watch = Watch(server, listening.getsockname()[1], thread)
        thread.start()
        try:
            watch.wait(lambda: server._number or watch.error)
            yield watch
        finally:
            if thread.is_alive():
                loop.call_soon_threadsafe(server.stop)
            thread.join(30)
            loop.close()
            follower.close()
            assert not thread.is_alive(), "the server has not ended"


def picture(page: Page, file: Path) -> Path:
    """Write a picture of the visible part of a page."""
    page.driver.save_screenshot(str(file))
    return file
