"""A small part of `python -m tests.fuzz --stores 1000`, and proof that each of its checks can fail."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.commands import PROJECT
from tests.fuzz.stores.campaign import watched
from tests.fuzz.stores.checks import of_calls
from tests.fuzz.stores.commands import EVERY, READ_BY, Command
from tests.fuzz.stores.mutations import KINDS, Mutant
from tests.fuzz.stores.running import STRACE, Ran, forked
from tests.fuzz.stores.watching import Proxy
from tests.fuzz.stores.world import MARKS, OUTSIDE, SECRET, STORE, WRITABLE

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel of Linux watches the files")


# Checks can fail


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder like the world of a mutant, with an empty store."""
    world = tmp_path / "w"
    for name in (STORE, MARKS, OUTSIDE, "home", "tmp"):
        (world / name).mkdir(parents=True)
    (world / OUTSIDE / "notes.txt").write_text(SECRET)
    (world / "pool.jsonl").write_text("{}\n")
    return world


def found(world: Path, act: Callable[[], int], *, name: str = "status", **options: float) -> str:
    """Return what the checks say of a command that does `act`."""
    command, proxy = Command(name, []), Proxy()

    def run() -> Ran:
        return forked(world, command, proxy.environment, act=lambda args: act(), **options)

    _, wrong = watched(world, command, run, proxy)
    return "\n".join(wrong)


def refuse(text: str) -> int:
    print(text, file=sys.stderr, flush=True)
    return 1


def test_an_honest_command_and_an_honest_refusal_pass(world: Path) -> None:
    assert found(world, lambda: print("all is well") or 0) == ""
    assert found(world, lambda: refuse("Error: store/x is damaged. Delete it.")) == ""
    assert found(world, lambda: (world / STORE / "x").write_text("x") and 0, name="gc --yes") == ""


def _raise() -> int:
    raise ValueError("x")


FAULTS: dict[str, tuple[Callable[[], int], str]] = {
    "a traceback": (lambda: refuse("Traceback (most recent call last):\nError: x"), "traceback"),
    "an unexpected error": (lambda: refuse("Error: An error that curate did not expect: KeyError: 3 (x)."), "KeyError"),
    "a class of an exception": (lambda: refuse("Error: duckdb.IOException: no file"), "class of an exception"),
    "no sentence": (lambda: 1, "no sentence"),
    "an odd exit code": (lambda: 3, "exit code: 3"),
    "a crash": (lambda: os.kill(os.getpid(), signal.SIGSEGV) or 0, "exit code: -11"),
    "a control character": (lambda: print("\x1b]0;title\x07") or 0, "control character"),
    "a control character on stderr": (lambda: refuse("Error: \u202ex"), "control character"),
    "bytes": (lambda: os.write(1, b"\xff\n") and 0, "not UTF-8"),
    "text of another file": (lambda: print(SECRET) or 0, "secret"),
    "a reading outside": (lambda: Path(OUTSIDE, "notes.txt").read_text() and 0, f"opens {OUTSIDE}/notes.txt"),
    "a listing outside": (lambda: os.listdir(OUTSIDE) and 0, f"opens {OUTSIDE}"),
    "a new file": (lambda: Path("x").write_text("x") and 0, "outside: x is new"),
    "a changed file": (lambda: Path("pool.jsonl").write_text("[]\n") and 0, "outside: pool.jsonl is changed"),
    "a touched file": (lambda: os.utime("pool.jsonl", (1, 1)) or 0, "outside: pool.jsonl"),
    "a removed file": (lambda: os.remove("pool.jsonl") or 0, "pool.jsonl is gone"),
    "code that ran": (lambda: os.mkdir(f"{MARKS}/ran") or 0, "code ran"),
    "a change by a reader": (lambda: Path(STORE, "x").write_text("x") and 0, "changes the store: x is new"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_check_fails_where_a_command_does(world: Path, fault: str) -> None:
    act, expected = FAULTS[fault]
    assert expected in found(world, act)


def test_a_command_that_hangs_is_killed_and_told(world: Path) -> None:
    began = time.monotonic()
    assert "hang" in found(world, lambda: time.sleep(600) or 0, patience=0.5)
    assert time.monotonic() - began < 300


def test_a_request_for_the_network_arrives_at_the_proxy(world: Path) -> None:
    def ask() -> int:
        import urllib.request

        try:
            urllib.request.urlopen("http://example.org/x", timeout=0.3)
        except OSError:
            return 0
        return 0

    assert "network: GET http://example.org/x" in found(world, ask)


def test_a_command_has_no_rights_of_root(world: Path) -> None:
    (world / STORE).chmod(0o555)

    def write() -> int:
        try:
            Path(STORE, "x").write_text("x")
        except PermissionError:
            return 0
        return 3

    assert found(world, write) == ""


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
def test_system_calls_outside_the_store_are_seen(world: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("x")

    def act() -> int:
        Path("../elsewhere").write_text("y")
        Path("../elsewhere").unlink()
        Path(STORE, "x").write_text("x")
        Path(STORE, "link").symlink_to("../outside/notes.txt")
        Path(STORE, "link").read_text()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asks:
            asks.connect(("192.0.2.1", 53))
        subprocess.run(["/bin/true"], check=True)
        return 0

    ran = forked(world, Command("x", []), {}, act=lambda args: act(), traced=True)
    assert ran.code == 0, ran.err
    said = sorted(set(of_calls(ran.calls or [], world)))
    assert len(said) == 5, said
    for each in ("writes to", "unlink of", "reads outside/notes.txt", "connects to", "runs /bin/true"):
        assert each in "\n".join(said)


# Mutants


def test_every_command_of_the_command_line_is_run() -> None:
    from curate.cli.main import COMMANDS
    from curate.stages import STAGES

    assert {*COMMANDS, *STAGES} <= {command.args[0] for command in EVERY if command.args}
    names = {command.name for command in EVERY}
    assert set(READ_BY) <= set(KINDS) and {name for some in READ_BY.values() for name in some} <= names
    assert STORE in WRITABLE


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.CompletedProcess[str]]]:
    """The honest world, and what the program prints about one mutant of each kind."""
    folder = tmp_path_factory.mktemp("fuzz")
    line = [sys.executable, "-m", "tests.fuzz", "--stores", str(len(KINDS)), "--quick", "--jobs", "1"]
    line += ["--keep", str(folder)]
    ran = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True)
    yield folder, ran
    shutil.rmtree(folder)


def test_one_mutant_of_each_kind_breaks_nothing(printed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, ran = printed
    assert ran.returncode == 0, ran.stdout + ran.stderr
    counted = re.match(r"(\d+) stores, (\d+) commands", ran.stdout)
    assert counted and int(counted[1]) == len(KINDS) and int(counted[2]) == 2 * len(KINDS)
    assert "No check failed." in ran.stdout
    last = next(line for line in ran.stdout.splitlines() if line.startswith("all "))
    ok, refused, failed = map(int, last.split()[-1].split("/"))
    assert ok > 4 and refused > 4 and failed == 0, "mutants are neither all refused nor all accepted"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_makes_the_same_mutant(
    printed: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path, kind: str
) -> None:
    mutant = Mutant(7, list(KINDS).index(kind) + len(KINDS))
    assert mutant.kind == kind
    one, other = (mutant.make(printed[0] / "honest", tmp_path / name) for name in ("one", "two"))
    assert one == other
