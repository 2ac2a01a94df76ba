"""Tests of the shell completion: it completes commands, flags and names in the store, and imports nothing slow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from curate.cli import completion
from tests.cli.test_main import HEAVY, imported_by


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder whose store has two names, an unfinished artifact and a saved question."""
    store = tmp_path / "store"
    for name in ("pool", "other"):
        (store / "names").mkdir(parents=True, exist_ok=True)
        (store / "names" / f"{name}.json").write_text("{}")
    draft = store / "artifacts" / "train" / "0123"
    draft.mkdir(parents=True)
    (draft / "draft.json").write_text(json.dumps({"name": "going"}))
    (store / "queries").mkdir()
    (store / "queries" / "mine.sql").write_text("SELECT 1")
    return tmp_path


def completed(line: str, folder: Path, *, words: int | None = None) -> set[str]:
    """Return the completions that bash would offer at the end of a command line."""
    own = {
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1 if words is None else words),
        "_CURATE_COMPLETE": "complete_bash",
    }
    done = subprocess.run(
        [sys.executable, "-m", "curate"],
        cwd=folder,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("curate in", {"ingest", "inspect"}),
        ("curate query --form", {"--format"}),
        ("curate query m", {"mine", "most_kept", "most_forgotten"}),
        ("curate run compare", {"compare_selectors"}),
        ("curate resume g", {"going"}),
        ("curate cluster --features o", {"other"}),
        ("curate nothing x", set()),
    ],
)
def test_the_shell_completes(line: str, offered: set[str], folder: Path) -> None:
    assert completed(line, folder) == offered


def test_the_store_that_is_given_is_the_one_whose_names_are_offered(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert completed("curate cluster --store ../store --features p", elsewhere) == {"pool"}
    assert completed("curate cluster --features p", elsewhere) == set()


NO_DETECTION = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
"""Typer detects the shell that started it, but tests have none. This setting lets it take the name of a shell."""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_shown(shell: str, folder: Path) -> None:
    command = [sys.executable, "-m", "curate", "--show-completion", shell]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **NO_DETECTION}, capture_output=True, text=True, check=True
    )
    assert "_CURATE_COMPLETE" in done.stdout and "curate" in done.stdout


def test_it_is_installed_for_the_user_s_shell(folder: Path) -> None:
    command = [sys.executable, "-m", "curate", "--install-completion", "bash"]
    subprocess.run(
        command, cwd=folder, env={**os.environ, **NO_DETECTION, "HOME": str(folder)}, capture_output=True, check=True
    )
    (script,) = (folder / ".bash_completions").iterdir()
    assert "_CURATE_COMPLETE" in script.read_text() and str(script) in (folder / ".bashrc").read_text()


def test_completing_commands_and_help_imports_nothing_that_takes_time() -> None:
    taken = imported_by("--help")
    assert taken & (HEAVY | {"duckdb", "pydantic", "pyarrow", "yaml", "numpy", "rich"}) == set()
    assert completion.__doc__ and "file names" in completion.__doc__
