"""The command `curate watch`: show a run while it trains, on a page that only this machine can open.

The package `curate.watch` reads the run and serves the page.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import completion
from ..flags import StoreFlag

if TYPE_CHECKING:
    from ...store import Store

EXAMPLES = """
curate watch
curate watch uds --port 8765
curate watch uds --stay
curate watch uds --once uds.html
"""
PACKAGES = ("starlette", "uvicorn")


def watch(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="Name of the run. The default is the only run that is being made now.",
            autocompletion=completion.unfinished,
        ),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1. The default is any free one.")
    ] = 0,
    stay: Annotated[bool, typer.Option("--stay", help="Go on after the run has ended, until Ctrl-C.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Also open the page in the browser.")] = False,
    once: Annotated[
        Path | None,
        typer.Option("--once", metavar="FILE", help="Write the report of the run so far to a file, and end."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --once if it exists.")] = False,
    store: StoreFlag = Path("store"),
) -> int:
    """Run `curate watch`: print the address of the page, and serve it until the run ends or Ctrl-C."""
    from ...errors import ConfigError
    from ...log import LOGGER
    from ...report.found_runs import find_run
    from ...store import Store
    from ...version import pip_install

    source = Store(store)
    if once is not None:
        _write_once(source, run, once, overwrite=overwrite)
        return 0
    if overwrite:
        raise ConfigError("--overwrite is for --once FILE. Leave it out, or give --once.")
    if lacking := [name for name in PACKAGES if find_spec(name) is None]:
        raise ConfigError(f"curate watch needs the package {lacking[0]}: {pip_install('watch')}.")
    found = find_run(source, run)
    from ...watch.follower import RunFollower
    from ...watch.server import watch_run

    follower = RunFollower(source, found)
    try:
        end = watch_run(follower, port=port, stay=stay, show=open_page)
    finally:
        follower.close()
    LOGGER.log(logging.WARNING if end.code else logging.INFO, end.sentence)
    return end.code


def _write_once(store: Store, name: str | None, to: Path, *, overwrite: bool) -> None:
    """Write the report of a run that may not be finished, and print its path."""
    from ...log import LOGGER
    from ...report.found_runs import find_run
    from ...report.page import page
    from ...report.payload import payload
    from ...report.runs import ReportRequest, report_context
    from ...runtime.terminal import say, size
    from ...store.catalog.session import QuerySession
    from ...store.destinations import check_file, write_file

    target = to.expanduser()
    check_file(target, store.root, overwrite=overwrite, option="--once")
    found = find_run(store, name)
    label = store.display_names().get(found.fingerprint, found.name)
    request = ReportRequest((label,), title=found.name)
    with QuerySession(store) as reader:
        content = payload(report_context(store, reader, request, [found]))
    written = write_file(target, page(content), store.root, overwrite=overwrite)
    LOGGER.info(f"{size(written)} in {target}")
    say(str(target))
