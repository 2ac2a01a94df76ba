"""Serve the page on this machine, and send it what is new as server-sent events.

One loop reads the run's records, in a thread, and only while a browser listens. It pauses 50 times as long as it
worked, so that a run on the same machine keeps its cores.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn import Config, Server

from ..errors import ConfigError
from ..report.page import as_json, page
from ..runtime.terminal import say
from .access import Guard, is_token, new_token
from .content import LiveContent
from .follower import RunFollower
from .run_state import End, RunState

ADDRESS = "127.0.0.1"
EVERY = 1.0
"""Smallest number of seconds between two looks at the run."""
PAUSES = 50
"""A look that takes a second of a processor is followed by this many seconds without one."""
HEARTBEAT = 15.0
"""Seconds after which a browser gets a sign of life, so that a connection that broke is noticed."""
LOWEST = 19
"""Priority of the process while it serves: a run on the same machine comes first."""
MOST_LISTENERS = 16
"""Number of pages that may listen at the same time."""
FAREWELL = 3.0
"""Seconds in which the browsers receive the end of the run before the server ends."""


class WatchServer:
    """The page of a run, and the loop that keeps it up to date.

    Args:
        follower: the records of the run.
        stay: go on after the run has ended.
        token: token of the address; None for a new one.
    """

    def __init__(self, follower: RunFollower, *, stay: bool = False, token: str | None = None) -> None:
        self.follower = follower
        self.stay = stay
        self.token = token or new_token()
        self.listeners = 0
        self.run_state = RunState(follower)
        self._content = LiveContent(follower)
        self._sent = ""
        self._number = 0
        self._shown: object = None
        self._leaving = False
        self._working = threading.Lock()
        routes = [Route("/{token}/", self._page), Route("/{token}/events", self._events)]
        application = Starlette(routes=routes)
        application.router.redirect_slashes = False
        self.app = Guard(application, {"Content-Security-Policy": "frame-ancestors 'none'"})

    def refresh(self) -> float:
        """Read what is new and make the content again; return the seconds of a processor that it took."""
        with self._working:
            began = time.process_time()
            state = self.run_state.look()
            for _ in self.follower.poll(ended=state == "ended"):
                pass
            shown = (self.follower.step, self.follower.metrics.version, state, self.run_state.sentence())
            if shown != self._shown:
                self._shown = shown
                self._sent = as_json(self._content.make(state, self.run_state.sentence()))
                self._number += 1
            return time.process_time() - began

    async def serve(self, listening: socket.socket) -> End:
        """Serve until the run has ended, or a signal stops it; return why.

        Raises:
            StoreError: the records of the run are damaged.
        """
        self._news, self._wake, self._stopped = asyncio.Condition(), asyncio.Event(), asyncio.Event()
        config = Config(
            self.app, lifespan="off", log_config=None, access_log=False, server_header=False, ws="none",
            timeout_graceful_shutdown=1, h11_max_incomplete_event_size=16_384,
        )  # fmt: skip
        server = _QuietServer(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        following = asyncio.create_task(self._follow())
        stopping = asyncio.create_task(self._stopped.wait())
        self._listen_to_signals()
        try:
            await asyncio.wait({serving, following, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                return following.result()
            return End(0, "The watch has ended. The run is not affected.")
        finally:
            self._leaving = True
            async with self._news:
                self._news.notify_all()
            server.should_exit = True
            for task in (following, stopping):
                task.cancel()
            await asyncio.gather(serving, following, stopping, return_exceptions=True)
            await asyncio.to_thread(self._wait_for_work)

    def _wait_for_work(self) -> None:
        """Wait until no thread reads the run: a thread outlives the task that waits for it."""
        with self._working:
            return

    def stop(self) -> None:
        """End the watch; from the event loop."""
        self._stopped.set()

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError, RuntimeError, NotImplementedError):  # not in the main thread
                loop.add_signal_handler(number, self.stop)

    async def _follow(self) -> End:
        """Keep the content up to date while a page listens, until the run has ended."""
        while True:
            before = self._number
            watched = self.listeners > 0
            cost = await asyncio.to_thread(self.refresh if watched or not before else self._look)
            if self._number != before:
                async with self._news:
                    self._news.notify_all()
            end = self.run_state.end()
            if end is not None and not self.stay:
                await asyncio.to_thread(self.refresh)
                await self._say_farewell()
                return self.run_state.end() or end  # now all steps have been read
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._pause(watched), max(EVERY, PAUSES * cost))

    def _look(self) -> float:
        self.run_state.look()
        return 0.0

    async def _pause(self, watched: bool) -> None:
        """Wait for the first listener; the loop's own time limit ends the wait otherwise."""
        if watched:
            await asyncio.Event().wait()
        await self._wake.wait()

    async def _say_farewell(self) -> None:
        """Let the browsers receive the last content."""
        self._leaving = True
        async with self._news:
            self._news.notify_all()
        deadline = time.monotonic() + FAREWELL
        while self.listeners and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    async def _page(self, request: Request) -> Response:
        if not is_token(request.path_params["token"], self.token):
            return _nothing()
        if not self.listeners:  # nothing has been read since the last page was closed
            await asyncio.to_thread(self.refresh)
        import json

        text = await asyncio.to_thread(page, json.loads(self._sent), live=True)
        return HTMLResponse(text)

    async def _events(self, request: Request) -> Response:
        if not is_token(request.path_params["token"], self.token):
            return _nothing()
        if self.listeners >= MOST_LISTENERS:
            return PlainTextResponse(f"{MOST_LISTENERS} pages listen already. Close one.", 503)
        return StreamingResponse(self._stream(request), media_type="text/event-stream")

    async def _stream(self, request: Request) -> AsyncIterator[str]:
        """Yield the newest content whenever it changes, and a comment now and then."""
        self.listeners += 1
        self._wake.set()
        seen, alive = 0, time.monotonic()
        try:
            yield "retry: 2000\n\n"
            while True:
                leaving = self._leaving
                if self._number > seen:
                    seen, alive = self._number, time.monotonic()
                    yield f"event: content\ndata: {self._sent}\n\n"
                if leaving:
                    yield "event: end\ndata: {}\n\n"
                    return
                async with self._news:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), 1.0)
                if await request.is_disconnected():
                    return
                if time.monotonic() - alive > HEARTBEAT:
                    alive = time.monotonic()
                    yield ": alive\n\n"
        finally:
            self.listeners -= 1


class _QuietServer(Server):
    """A server that leaves the signals to its caller."""

    def capture_signals(self):  # type: ignore[no-untyped-def]
        """Take over no signal."""
        from contextlib import nullcontext

        return nullcontext()


def _nothing() -> Response:
    return PlainTextResponse("There is no page here.", 404)


def listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine alone.

    Args:
        port: the port; 0 for any free one.

    Raises:
        ConfigError: another program uses the port, or it may not be used.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((ADDRESS, port))
        found.listen()  # before the address is printed: a browser may be faster than the server
    except OSError as error:
        found.close()
        why = "is in use" if not isinstance(error, PermissionError) else "may be used by the administrator alone"
        raise ConfigError(
            f"Port {port} of this machine {why}. Give another --port, or leave it out to get a free one."
        ) from None
    return found


def watch_run(follower: RunFollower, *, port: int, stay: bool, show: bool) -> End:
    """Serve the page of a run until the watch ends, and return why it ended.

    Args:
        follower: the records of the run.
        port: the port; 0 for any free one.
        stay: go on after the run has ended.
        show: open the page in the user's browser.
    """
    server = WatchServer(follower, stay=stay)
    if server.run_state.end() is not None and not stay:
        server.refresh()
        end = server.run_state.end()
        assert end is not None
        return end
    with listen(port) as listening:
        address = f"http://{ADDRESS}:{listening.getsockname()[1]}/{server.token}/"
        server.refresh()
        say(address, hide_secrets=False)
        sys.stdout.flush()
        if show:
            import webbrowser

            webbrowser.open(address)
        with suppress(OSError):
            os.nice(LOWEST)
        return asyncio.run(server.serve(listening))
