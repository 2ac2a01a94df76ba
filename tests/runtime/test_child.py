"""A child process cannot exceed its limits, ends with its parent, and its errors are those of its work."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from curate.errors import CatalogueBusy
from curate.runtime.channel import ChildError, wait_for_end
from curate.runtime.child import Bounds, Child, Stopped, may_fork

LONG = Bounds(seconds=600, memory=None, opening=600)
ROOT = Path(__file__).parents[2]


def child(work: str, bounds: Bounds = LONG, **request: Any) -> Child:
    return Child(f"tests.support.child_work:{work}", request, bounds)


def answer(work: str, **request: Any) -> bytes:
    with child(work, **request) as running:
        running.wait()
        return b"".join(running.parts())


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a small Python, which forks."""
    program = "from curate.runtime.child import *\nlong = Bounds(600, None, 600)\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)


def is_gone(pid: int) -> bool:
    """Wait until a process has ended; a process that its new parent has not asked for yet has ended, too."""
    for _ in range(3000):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_an_answer_arrives_whole_and_the_log_with_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "curate"):
        logging.getLogger("curate").propagate = True
        assert answer("echo", text="é" * 400_000, times=7) == "é".encode() * 2_800_000
    assert [(record.levelno, record.message) for record in caplog.records] == [(logging.WARNING, "told twice")]


def test_a_small_process_forks_and_a_large_one_starts_another_python() -> None:
    assert "numpy" in sys.modules or __import__("numpy")
    assert not may_fork()
    done = python("""
        import sys, threading
        assert sys.platform != "linux" or may_fork()
        with Child("tests.support.child_work:echo", {"text": "ab", "times": 3}, long) as running:
            forked = running._process is None
            running.wait()
            print(b"".join(running.parts()).decode(), forked == (sys.platform == "linux"))
        assert "tests.support.child_work" not in sys.modules
        stop = threading.Event()
        threading.Thread(target=stop.wait).start()
        assert not may_fork()
        stop.set()
    """)
    assert (done.stdout, done.stderr) == ("ababab True\n", "told twice\n"), done.stderr


def test_a_child_that_takes_too_long_is_killed_before_and_after_its_begin() -> None:
    for work, bounds, why in (
        ("never_begin", Bounds(600, None, 0.3), "opening"),
        ("never_end", Bounds(0.3, None, 600), "time"),
    ):
        with child(work, bounds) as running, pytest.raises(Stopped) as stopped:
            pid = running.pid
            running.wait()
        assert stopped.value.why == why and is_gone(pid)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not show the memory of a process")
def test_a_child_that_takes_too_much_memory_is_killed() -> None:
    memory = 60_000_000
    with child("grow", Bounds(600, memory, 600), memory=memory) as running, pytest.raises(Stopped) as stopped:
        running.wait()
    assert stopped.value.why == "memory" and stopped.value.detail == running.peak
    assert running.base + memory < running.peak < running.base + memory + 300_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the data of a process")
def test_the_system_refuses_a_child_much_more_memory_than_its_limit() -> None:
    with child("ask_for_much", Bounds(600, None, 600), memory=60_000_000) as running, pytest.raises(MemoryError):
        running.wait()


@pytest.mark.parametrize("late", [False, True])
def test_a_crash_of_a_child_is_an_error_of_its_work(late: bool) -> None:
    for name in ("SIGSEGV", "SIGABRT"):
        with child("crash", late=late, signal=name) as running, pytest.raises(Stopped) as stopped:
            running.wait()
            list(running.parts())
        assert (stopped.value.why, stopped.value.detail) == ("crash", name)


def test_an_error_of_a_child_is_raised_here() -> None:
    with pytest.raises(CatalogueBusy) as found:
        answer("fail", error="own")
    assert str(found.value) == "The file is held."
    assert "child_work.py" in "".join(found.value.__notes__), "--traceback shows where it was raised"
    with pytest.raises(FileNotFoundError) as missing:
        answer("fail", error="system")
    assert missing.value.filename == "/nowhere/at/all"
    with pytest.raises(UnicodeEncodeError) as lacking:
        answer("fail", error="encoding")
    assert lacking.value.encoding == "ascii"
    with pytest.raises(MemoryError):
        answer("fail", error="memory")
    for error, said in (("none", r"KeyError: 'unforeseen' \(tests/support/child_work.py line"), ("exit", "SystemExit")):
        with pytest.raises(ChildError, match=said):
            answer("fail", error=error)
    with pytest.raises(ChildError, match="ModuleNotFoundError"), Child("no.such.module:work", {}, LONG) as running:
        running.wait()


def test_what_a_library_prints_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    assert int(answer("report")) != os.getpid()
    assert capfd.readouterr() == ("", "")
    done = python("""
        with Child("tests.support.child_work:report", {}, long) as running:
            running.wait()
            list(running.parts())
    """)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("small", [True, False])
def test_a_child_ends_when_its_parent_is_killed(small: bool) -> None:
    code = "import threading, time\n" if small else "import numpy, time\n"
    code += "from curate.runtime.child import *\n"
    code += "with Child('tests.support.child_work:never_begin', {}, Bounds(600, None, 600)) as running:\n"
    code += "    print(running.pid, flush=True)\n    running.wait()\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    assert is_gone(pid)


def test_where_the_system_has_no_signal_for_it_a_child_looks_for_its_parent() -> None:
    seen: list[str] = []
    watching = threading.Thread(target=wait_for_end, args=(os.getppid(), lambda: seen.append("end"), 0.01), daemon=True)
    watching.start()
    watching.join(0.1)
    assert watching.is_alive() and not seen
    wait_for_end(os.getppid() + 1, lambda: seen.append("gone"))
    assert seen == ["gone"]


def test_a_request_of_any_size_is_taken() -> None:
    text = json.dumps(list(range(300_000)))
    assert answer("echo", text=text, times=1).decode() == text
