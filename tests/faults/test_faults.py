"""After any fault, nothing is lost or duplicated, and the same command makes the same result.

These tests are a part of the matrix that `python -m tests.faults` prints. CURATE_FAULTS=all runs all of it (about an
hour).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.faults.commands import PROJECT, QUIET, from_scratch
from tests.faults.injection import Fault
from tests.faults.matrix import FAULTS, faults_of
from tests.faults.repairs import assert_clear_error
from tests.faults.stages import STAGES, Harness

SAMPLE = [
    ("demo-pool", "disk full"),
    ("demo-model", "kill -9"),
    ("report", "kill -9"),
    ("ingest", "kill -9"),
    ("ingest", "twice at once"),
    ("ingest", "file limit"),
    ("select", "small disk"),
    ("embed", "torn file"),
    ("embed", "flipped byte"),
    ("cluster", "disk full"),
    ("cluster", "clock jumps"),
    ("select", "kill -9 any time"),
    ("train", "kill -9"),
    ("train", "bad checkpoint"),
    ("train", "cut off"),
    ("curriculum", "gone"),
    ("curriculum", "during training"),
    ("subset", "kill -9"),
    ("dedup", "disk full"),
    ("decontaminate", "kill -9"),
    ("grade", "kill -9"),
    ("split", "kill -9"),
    ("evaluate", "Ctrl-C twice"),
    ("evaluate", "/dev/shm full"),
    ("attribute", "kill -9"),
    ("export", "read-only"),
    ("query", "stdout closed"),
]
"""Cases with each stage and each fault of one process at least once. The case of train also covers compare, which makes
runs. tests/executors and tests/training have cases of the faults of several processes."""

ALL = os.environ.get("CURATE_FAULTS") == "all"
CASES = [(stage, fault) for stage in STAGES for fault in faults_of(stage)] if ALL else SAMPLE


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    harness = Harness.open(tmp_path_factory.mktemp("faults"))
    yield harness
    harness.close()


@pytest.mark.parametrize(("stage", "fault"), CASES, ids=[f"{stage}-{fault}" for stage, fault in CASES])
def test_after_a_fault_the_store_is_sound_and_the_same_command_makes_the_same(
    harness: Harness, stage: str, fault: str
) -> None:
    assert faults_of(stage)[fault](harness, stage, None if ALL else 1, random.Random(f"0 {stage} {fault}"))


def test_every_stage_and_every_fault_is_in_the_part_that_is_always_run() -> None:
    assert {fault for _, fault in SAMPLE} == set(FAULTS)
    assert {stage for stage, _ in SAMPLE} | {"compare"} == set(STAGES)


def test_a_fault_in_a_new_process_is_the_same_as_in_a_forked_one(harness: Harness) -> None:
    points = harness.points("curriculum")
    folder, log = harness.case(), harness.folder / "scratch.log"
    log.touch()
    command = STAGES["curriculum"].split()
    counted = from_scratch(folder, *command, fault=Fault(f"{folder}/", "count", log=str(log)))
    assert counted.returncode == 0, counted.stderr
    found = log.read_text().splitlines()
    scratch = [re.sub(r"\.\d+\.tmp", "", line.replace(str(folder), "")).split() for line in found]
    forked = [re.sub(r"\.\d+\.tmp", "", re.sub(r"/\S*/case-\d+", "", line)).split() for line in points]
    assert scratch == forked, "the same points in the same order"
    broken = harness.case()
    fault = Fault(f"{broken}/", "kill", len(points) // 2)
    assert from_scratch(broken, *command, fault=fault).returncode == -signal.SIGKILL
    harness.assert_same_result("curriculum", broken, harness.run("curriculum", broken))
    harness.assert_clean(broken)


def test_the_commands_themselves_find_collect_and_verify(harness: Harness) -> None:
    folder = harness.case()
    points = len(harness.points("embed"))
    killed = harness.run("embed", folder, fault=Fault(f"{folder}/", "kill", points // 2))
    assert killed.code == -signal.SIGKILL
    assert "unfinished" not in harness.commands.done(folder, "gc").out, "what could be resumed stays unless asked for"
    listed = harness.commands.done(folder, "gc", "--drafts")
    assert "'it' (embed), unfinished" in listed.out and "--yes" in listed.err
    assert "'it' (embed), unfinished" in harness.commands.done(folder, "gc", "--drafts", "--yes").out
    assert "There is nothing to remove" in harness.commands.done(folder, "gc").err
    assert "all files are as they were written" in harness.commands.done(folder, "verify").err
    harness.assert_same_result("embed", folder, harness.run("embed", folder))


def test_a_reader_that_stops_after_one_line_causes_no_error(harness: Harness) -> None:
    query = f'{sys.executable} -m curate query "SELECT * FROM range(100000)" --format csv | head -1'
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(PROJECT)}
    piped = subprocess.run(
        ["bash", "-c", query], cwd=harness.template, env=environment, capture_output=True, text=True, timeout=120
    )
    assert piped.stdout == "range\n" and piped.stderr == ""


def test_an_error_names_the_process_that_makes_the_artifact(harness: Harness) -> None:
    folder = harness.case()
    first = harness.start("train", folder)
    lock = folder / "store/artifacts/train"
    while not first.ended.is_set() and not [
        p for p in lock.glob("*/draft.lock") if p.read_text() == _held_by(first.pid)
    ]:
        first.ended.wait(0.02)
    second = harness.run("train", folder)
    assert_clear_error(second)
    assert f"({_held_by(first.pid)})" in second.err
    assert first.wait() == 0, first.err
    shutil.rmtree(folder)


def _held_by(pid: int) -> str:
    from curate.store.artifacts.files import HOST

    return f"{pid} on {HOST}"
