"""A process of a launch ends with one sentence if the launcher stops it or ends, or if its neighbour hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from curate.runtime.launch_watch import obey_launcher, watch_neighbour

WORLD = {"WORLD_SIZE": "2", "RANK": "0", "TORCHELASTIC_RUN_ID": "x"}

OBEY = """
import os, sys, time
from curate.runtime.launch_watch import obey_launcher

obey_launcher()
if sys.argv[1] == "fork" and not (child := os.fork()):
    time.sleep(60)
print(child if sys.argv[1] == "fork" else "ready", flush=True)
sys.stdin.readline()
print("goes on", flush=True)
sys.stdin.readline()
"""


def start(program: str, *args: str, **environment: str) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", program, *args]
    return subprocess.Popen(command, **pipes, text=True, env={**os.environ, **WORLD, **environment})


def test_a_process_that_torchrun_stops_says_so_even_if_its_main_thread_waits() -> None:
    process = start(OBEY, "wait")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    _, stderr = process.communicate()
    assert stderr == (
        "Error: torchrun stopped process 0 of 2, because another process of the launch ended or torchrun was stopped "
        "itself. Run the same command again to resume.\n"
    )


def test_a_signal_to_a_forked_child_does_not_end_its_parent() -> None:
    process = start(OBEY, "fork")
    assert process.stdout is not None and process.stdin is not None
    os.kill(int(process.stdout.readline()), signal.SIGTERM)
    print(file=process.stdin, flush=True)
    assert process.stdout.readline() == "goes on\n"
    _, stderr = process.communicate("\n", timeout=60)
    assert (process.returncode, stderr) == (0, "")


LAUNCHER = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1], 'wait']); sys.stdin.read()"


def test_a_process_ends_with_its_launcher() -> None:
    launcher = start(LAUNCHER, OBEY)
    assert launcher.stdout is not None and launcher.stderr is not None
    assert launcher.stdout.readline() == "ready\n"
    launcher.kill()
    said = launcher.stderr.read()  # until the other process has ended, too
    assert said == "Error: torchrun has ended, so process 0 of 2 ends, too. Run the same command again to resume.\n"
    launcher.communicate(timeout=60)


WATCH = """
import sys
from curate.runtime.launch_watch import watch_neighbour

watch_neighbour(float(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def rendezvous() -> Iterator[tuple[Any, dict[str, str]]]:
    """Yield a key-value store as torchrun keeps it, and the environment that leads a process to it."""
    distributed = pytest.importorskip("torch.distributed", reason="torch.distributed is not here")
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    yield store, address


def test_a_neighbour_without_signs_of_life_counts_as_hanging_and_one_that_has_done_its_part_does_not(
    rendezvous: tuple[Any, dict[str, str]],
) -> None:
    store, address = rendezvous
    store.set("curate/0/1", "7 4711 on elsewhere")
    process = start(WATCH, "1", **address)
    assert process.wait(120) == 1
    _, stderr = process.communicate()
    assert stderr == (
        "Error: Process 1 of 2 (4711 on elsewhere) has given no sign of life for 1 s: it hangs, or its machine cannot "
        "be reached. So process 0 of 2 ends. Run the same command again to resume. If the process was only slow, give "
        "a larger --process-timeout.\n"
    )
    store.set("curate/0/1", "done")
    process = start(WATCH, "3", **address)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    beats = [store.get("curate/0/0")]
    while len(set(beats)) < 8:  # eight signs take longer than the timeout: each comes a quarter of it later
        time.sleep(0.05)
        beats.append(store.get("curate/0/0"))
    _, stderr = process.communicate("\n", timeout=60)
    assert (process.returncode, stderr) == (0, "")
    assert store.get("curate/0/0") == b"done", "a process that ends in good order says so"


def test_without_torchrun_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, handler = threading.active_count(), signal.getsignal(signal.SIGTERM)
    for name in (*WORLD, "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    obey_launcher()
    watch_neighbour(1.0)
    monkeypatch.setenv("WORLD_SIZE", "2")  # set by another launcher
    obey_launcher()
    watch_neighbour(1.0)
    assert threading.active_count() == threads and signal.getsignal(signal.SIGTERM) is handler
