"""Garbage is searched for rarely until a model is loaded, and not at the end, if the process is the command's own."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from curate import garbage
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_model
from tests.conftest import Outcome

PROGRAM = """
import atexit, gc, sys, threading, time
from curate.cli.main import main

class Loop:
    def __del__(self):
        print("freed", flush=True)

loop = Loop()
loop.itself = loop
atexit.register(lambda: print("at exit:", gc.get_threshold()[0], gc.isenabled()))
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
sys.argv = ["curate", "no-command"]
main()
"""


@pytest.fixture
def searches() -> Iterator[tuple[int, int, int]]:
    """Return the thresholds, and restore everything at the end."""
    before = gc.get_threshold()
    gc.unfreeze()
    yield before
    gc.set_threshold(*before)
    garbage._usual.clear()
    gc.unfreeze()


def test_the_command_ends_in_good_order_and_leaves_its_memory_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (2, ["thread", f"at exit: {garbage.STARTING} True"])
    assert "There is no command 'no-command'." in done.stderr


def test_a_loaded_model_ends_the_rare_searches(tiny: str, searches: tuple[int, int, int]) -> None:
    garbage.search_rarely()
    assert gc.get_threshold() == (garbage.STARTING, *searches[1:]) and gc.isenabled()
    load_model(ModelOptions(tiny))
    assert gc.get_threshold() == searches and gc.get_freeze_count() > 100_000


def test_a_program_that_calls_curate_keeps_its_settings(
    curate: Callable[..., Outcome], tiny: str, searches: tuple[int, int, int]
) -> None:
    gc.set_threshold(0, 5, 5)
    assert curate("--version").code == 0
    load_model(ModelOptions(tiny))
    assert gc.get_threshold() == (0, 5, 5) and gc.get_freeze_count() == 0
    garbage.search_rarely()
    assert gc.get_threshold()[0] == 0, "a process that never searches still does not"
