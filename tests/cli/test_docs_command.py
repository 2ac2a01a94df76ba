"""Tests of `curate docs`: it finds the pages that are installed, and opens them without a network."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate.runtime import bundled

Call = Callable[..., Any]


class Browser:
    """A browser that remembers what it opened."""

    def __init__(self, name: str = "firefox") -> None:
        self.name = name
        self.opened: list[str] = []

    def open(self, address: str) -> bool:
        self.opened.append(address)
        return True


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with three pages, and no clone around it."""
    site = tmp_path / "installed" / "curate" / "_shipped" / "docs"
    for name in ("index.html", "selectors/index.html", "selectors/uds.html", "404.html"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("<!doctype html>", encoding="utf-8")
    monkeypatch.setattr(bundled, "PACKAGE", tmp_path / "installed" / "curate")
    return site


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> Browser:
    found = Browser()
    monkeypatch.setattr(webbrowser, "get", lambda: found)
    return found


@pytest.mark.parametrize(
    ("page", "file"),
    [
        (None, "index.html"),
        ("selectors/uds", "selectors/uds.html"),
        ("selectors/uds.md", "selectors/uds.html"),
        ("selectors/", "selectors/index.html"),
    ],
)
def test_a_page_is_opened_in_the_browser(
    curate: Call, installed: Path, browser: Browser, page: str | None, file: str
) -> None:
    result = curate("docs", *([page] if page else []))
    assert (result.code, result.out) == (0, f"{installed / file}\n")
    assert browser.opened == [(installed / file).as_uri()]


def test_path_prints_where_it_is_and_opens_nothing(curate: Call, installed: Path, browser: Browser) -> None:
    assert curate("docs", "--path").out == f"{installed / 'index.html'}\n" and not browser.opened


@pytest.mark.parametrize("name", [None, "w3m"])
def test_without_a_browser_of_its_own_window_the_path_is_enough(
    curate: Call, installed: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    monkeypatch.delenv("BROWSER", raising=False)
    text = Browser(name or "")

    def get() -> Browser:
        if name is None:
            raise webbrowser.Error("could not locate runnable browser")
        return text

    monkeypatch.setattr(webbrowser, "get", get)
    result = curate("docs")
    assert result.code == 0 and result.out.endswith("index.html\n") and "There is no browser here" in result.err
    assert not text.opened, "it would hold the terminal"


def test_a_terminal_s_browser_that_the_user_chose_is_used(
    curate: Call, installed: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER", "w3m")
    browser.name = "w3m"
    assert curate("docs").code == 0 and browser.opened


def test_an_unknown_page_suggests_the_nearest(curate: Call, installed: Path) -> None:
    result = curate("docs", "selectors/udss")
    assert (result.code, result.out) == (1, "")
    assert "has no page 'selectors/udss'. Did you mean 'selectors/uds'?" in result.err
    assert curate("docs", "../../curate").code == 1


@pytest.mark.parametrize(("clone", "remedy"), [(True, "make docs"), (False, "install a wheel")])
def test_without_built_pages_the_command_says_how_to_have_them(
    curate: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clone: bool, remedy: str
) -> None:
    home = tmp_path / "clone"
    (home / "curate").mkdir(parents=True)
    for name in ("pyproject.toml", "mkdocs.yml") if clone else ():
        (home / name).touch()
    monkeypatch.setattr(bundled, "PACKAGE", home / "curate")
    result = curate("docs")
    assert result.code == 1 and f"The documentation is not built here: {remedy}" in result.err.replace("make it: ", "")
    if clone:
        (home / "site").mkdir()
        (home / "site" / "index.html").touch()
        assert curate("docs", "--path").out == f"{home / 'site' / 'index.html'}\n"
