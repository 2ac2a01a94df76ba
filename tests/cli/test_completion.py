"""What the shell completes: commands, their flags, names in the store; and it costs no heavy import."""

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
def place(tmp_path: Path) -> Path:
    """A folder whose store has two names, a draft and a saved question; nothing of it is ever opened."""
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


def completed(line: str, place: Path, *, words: int | None = None) -> set[str]:
    """What bash would be offered at the end of a command line."""
    own = {
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1 if words is None else words),
        "_CURATE_COMPLETE": "complete_bash",
    }
    done = subprocess.run(
        [sys.executable, "-m", "curate"],
        cwd=place,
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
def test_the_shell_completes(line: str, offered: set[str], place: Path) -> None:
    assert completed(line, place) == offered


def test_the_store_that_is_given_is_the_one_whose_names_are_offered(place: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert completed("curate cluster --store ../store --features p", elsewhere) == {"pool"}
    assert completed("curate cluster --features p", elsewhere) == set()


TOLD = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
"""Typer looks which shell it was started from, and the tests' is none: with this it takes the shell's name."""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_shown(shell: str, place: Path) -> None:
    command = [sys.executable, "-m", "curate", "--show-completion", shell]
    done = subprocess.run(command, cwd=place, env={**os.environ, **TOLD}, capture_output=True, text=True, check=True)
    assert "_CURATE_COMPLETE" in done.stdout and "curate" in done.stdout


def test_it_is_installed_for_the_user_s_shell(place: Path) -> None:
    command = [sys.executable, "-m", "curate", "--install-completion", "bash"]
    subprocess.run(command, cwd=place, env={**os.environ, **TOLD, "HOME": str(place)}, capture_output=True, check=True)
    (script,) = (place / ".bash_completions").iterdir()
    assert "_CURATE_COMPLETE" in script.read_text() and str(script) in (place / ".bashrc").read_text()


def test_completing_commands_and_help_imports_nothing_that_takes_time() -> None:
    taken = imported_by("--help")
    assert taken & (HEAVY | {"duckdb", "pydantic", "pyarrow", "yaml", "numpy", "rich"}) == set()
    assert completion.__doc__ and "file names" in completion.__doc__
