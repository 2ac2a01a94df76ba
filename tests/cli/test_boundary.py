"""Laws of the boundary: whatever is raised becomes a sentence and an exit code, and a traceback only on request."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from curate.errors import StoreError
from tests.support.paths import ROOT

Call = Callable[..., Any]


class Quiet(BaseException):
    """An exit of another package that is no `Exception`."""


def deep(count: int = 0) -> int:
    return deep(count + 1) + 1


def raising(error: BaseException) -> Callable[..., None]:
    def broken(*_: object) -> None:
        raise error

    return broken


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (raising(ZeroDivisionError("ours")), "An error that curate did not expect: ZeroDivisionError: ours"),
        (raising(ValueError("one\x1b[31m\ntwo")), r"ValueError: one\x1b[31m"),
        (raising(SystemExit(0)), "tried to end the command with exit code 0"),
        (raising(SystemExit("bye")), "tried to end the command with exit code 'bye'"),
        (raising(Quiet("shh")), "An error that curate did not expect: Quiet: shh"),
        (raising(GeneratorExit()), "An error that curate did not expect: GeneratorExit"),
        (raising(MemoryError()), "There is not enough memory"),
        (raising(EOFError("cut off")), "EOFError: cut off"),
        (raising(OSError(errno.ENOSPC, "No space left on device")), "there is no space left on the device"),
        (raising(BrokenPipeError(errno.EPIPE, "Broken pipe")), "The program that reads stdout has closed it"),
        (raising(StoreError("It is \x1b]0;owned\x07.")), r"Error: It is \x1b]0;owned\x07."),
        (lambda *_: deep(), "Something is nested too deeply"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whatever_is_raised_is_a_sentence(curate: Call, toy: ModuleType, work: Any, said: str) -> None:
    toy.run = work  # type: ignore[attr-defined]
    result = curate("toy", "--name", "t")
    assert result.code == 1 and said in result.err, result.err
    assert "Traceback" not in result.err and "\x1b" not in result.err and "\x07" not in result.err


@pytest.mark.parametrize(
    "text",
    [
        "[/x/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711",
        "NCCL communicator was aborted on rank 1.",
        "recvValue failed on TCPStore",
    ],
)
def test_a_broken_connection_to_another_process_of_a_launch_is_a_sentence(
    curate: Call, toy: ModuleType, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    toy.run = raising(RuntimeError(text))  # type: ignore[attr-defined]
    assert "An error that curate did not expect" in curate("toy", "--name", "t").err, "there is one process only"
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = curate("toy", "--name", "t")
    assert found.code == 1 and "The connection to another process of the launch broke or timed out" in found.err
    assert f"Run the same command again to resume. ({text})" in found.err and "did not expect" not in found.err


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_traceback_is_printed_on_request_and_without_escapes(
    curate: Call, toy: ModuleType, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    toy.run = raising(ZeroDivisionError("ours \x1b[31m"))  # type: ignore[attr-defined]
    if by == "variable":
        monkeypatch.setenv("CURATE_TRACEBACK", "1")
    result = curate(*(["--traceback"] if by == "flag" else []), "toy", "--name", "t")
    assert result.code == 1 and "Traceback (most recent call last)" in result.err and "in broken" in result.err
    assert r"ours \x1b[31m" in result.err and "\x1b" not in result.err
    if by == "flag":
        assert "Traceback" not in curate("toy", "--name", "t").err, "the flag holds for its command only"


def shell(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    program = f'"{sys.executable}" -m curate'
    return subprocess.run(
        ["bash", "-c", command.replace("curate", program, 1)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("command", ["--help", "query 'SELECT 1' --format csv", "query 'SELECT 1'", "--version"])
def test_a_full_disk_behind_stdout_is_a_sentence(filled: Path, command: str) -> None:
    done = shell(f"curate {command} > /dev/full", filled)
    assert done.returncode == 1, done.stderr
    assert "there is no space left on the device" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_closed_pipe_behind_stdout_is_a_sentence(filled: Path) -> None:
    sql = "SELECT repeat('x', 1000) AS x FROM range(5000)"
    done = shell(f'curate query "{sql}" --format csv | true; exit ${{PIPESTATUS[0]}}', filled)
    assert done.returncode == 1, done.stderr
    assert "The program that reads stdout has closed it" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("status", 0),
        ("query \"SELECT 'é' AS x\"", 0),
        ("query \"SELECT 'é' AS x\" --format json", 0),
        ("query \"SELECT 'é' AS x\" --format csv", 1),
        ("query --list", 0),
    ],
)
def test_a_stdout_of_ascii_only_is_used_or_named(filled: Path, command: str, code: int) -> None:
    done = shell(f"curate {command}", filled, PYTHONIOENCODING="ascii")
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    if code:
        assert "PYTHONIOENCODING=utf-8" in done.stderr and done.stdout == ""
    if "json" in command:
        assert done.stdout == '[{"x": "\\u00e9"}]\n'


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A folder with a store."""
    from curate.config import Config
    from curate.store import Store

    Store(tmp_path / "store").make("ingest", lambda draft: None, Config(name="a"))
    return tmp_path
