"""The command `curate docs`: open the documentation that is installed with curate, without a network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..errors import CurateError, did_you_mean
from ..runtime import bundled
from ..runtime.terminal import say

TEXT_BROWSERS = ("www-browser", "links", "elinks", "lynx", "w3m")
"""Browsers in a terminal, by the names that Python gives them."""
EXAMPLES = """
curate docs
curate docs selectors/uds
curate docs --path
"""


def docs(
    page: Annotated[str, typer.Argument(metavar="PAGE", help="Page to open, such as data or selectors/uds.")] = "index",
    path_only: Annotated[bool, typer.Option("--path", help="Print the path of the page and do not open it.")] = False,
) -> None:
    """Run `curate docs`: print the path of a page, and open it in the browser."""
    from ..log import LOGGER

    found = page_of(page)
    say(str(found))
    if not path_only and not _open(found):
        LOGGER.info("There is no browser here: open the file above, or copy its folder to a machine that has one.")


def page_of(name: str) -> Path:
    """Return the HTML file of a page of the documentation.

    Args:
        name: path of the page below `docs/`, with or without its suffix: `selectors/uds`, `data.md`.

    Raises:
        CurateError: the documentation is not here, or has no such page; the message names the nearest one.
    """
    site = bundled.site()
    if site is None:
        remedy = (
            "make it: make docs"
            if bundled.in_clone()
            else "install a wheel that make wheel has built, or read the folder docs/ of the source"
        )
        raise CurateError(f"The documentation is not built here: {remedy}.")
    pages = {file.relative_to(site).with_suffix("").as_posix(): file for file in site.rglob("*.html")}
    wanted = name.removesuffix(".html").removesuffix(".md").strip("/")
    for key in (wanted, f"{wanted}/index"):
        if key in pages:
            return pages[key].resolve()
    known = [each.removesuffix("/index") for each in pages if each != "404"]
    raise CurateError(f"The documentation has no page '{name}'.{did_you_mean(wanted, known)}")


def _open(page: Path) -> bool:
    """Open a page in the browser, and return whether there is one.

    Browsers in a terminal count only if the user has chosen one (`BROWSER`): they would hold the terminal.
    """
    import webbrowser

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    if browser.name in TEXT_BROWSERS and not os.environ.get("BROWSER"):
        return False
    return browser.open(page.as_uri())
