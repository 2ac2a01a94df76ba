"""Whatever is broken, and wherever: nothing is lost, nothing is there twice, and the same command makes the same.

Here a part of the matrix that `python -m tests.faults` prints; all of it with CURATE_FAULTS=all (an hour or so).
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
from tests.faults.matrix import FAULTS
from tests.faults.repairs import must_be_clear
from tests.faults.stages import STAGES, Workshop

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
    ("curriculum", "beside training"),
    ("evaluate", "Ctrl-C twice"),
    ("evaluate", "/dev/shm full"),
    ("export", "read-only"),
    ("query", "stdout closed"),
]
"""Each stage and each fault at least once; compare, which makes runs, is trained with."""

ALL = os.environ.get("CURATE_FAULTS") == "all"
CASES = [(stage, fault) for stage in STAGES for fault in FAULTS] if ALL else SAMPLE


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    shop = Workshop.open(tmp_path_factory.mktemp("faults"))
    yield shop
    shop.close()


@pytest.mark.parametrize(("stage", "fault"), CASES, ids=[f"{stage}-{fault}" for stage, fault in CASES])
def test_after_a_fault_the_store_is_sound_and_the_same_command_makes_the_same(
    shop: Workshop, stage: str, fault: str
) -> None:
    assert FAULTS[fault](shop, stage, None if ALL else 1, random.Random(f"0 {stage} {fault}"))


def test_every_stage_and_every_fault_is_in_the_part_that_is_always_run() -> None:
    assert {fault for _, fault in SAMPLE} == set(FAULTS)
    assert {stage for stage, _ in SAMPLE} | {"compare"} == set(STAGES)


def test_a_command_from_scratch_is_broken_and_mended_as_one_that_was_forked(shop: Workshop) -> None:
    points = shop.points("curriculum")
    folder, log = shop.case(), shop.folder / "scratch.log"
    log.touch()
    command = STAGES["curriculum"].split()
    counted = from_scratch(folder, *command, fault=Fault(f"{folder}/", "count", log=str(log)))
    assert counted.returncode == 0, counted.stderr
    found = log.read_text().splitlines()
    places = [re.sub(r"\.\d+\.tmp", "", line.replace(str(folder), "")).split() for line in found]
    forked = [re.sub(r"\.\d+\.tmp", "", re.sub(r"/\S*/case-\d+", "", line)).split() for line in points]
    assert places == forked, "the same points in the same order"
    broken = shop.case()
    fault = Fault(f"{broken}/", "kill", len(points) // 2)
    assert from_scratch(broken, *command, fault=fault).returncode == -signal.SIGKILL
    shop.must_be_as_ever("curriculum", broken, shop.run("curriculum", broken))
    shop.must_be_clean(broken)


def test_the_commands_themselves_find_collect_and_verify(shop: Workshop) -> None:
    folder = shop.case()
    points = len(shop.points("embed"))
    killed = shop.run("embed", folder, fault=Fault(f"{folder}/", "kill", points // 2))
    assert killed.code == -signal.SIGKILL
    assert "unfinished" not in shop.commands.done(folder, "gc").out, "what could be resumed stays unless asked for"
    said = shop.commands.done(folder, "gc", "--drafts")
    assert "'it' (embed), unfinished" in said.out and "--yes" in said.err
    assert "'it' (embed), unfinished" in shop.commands.done(folder, "gc", "--drafts", "--yes").out
    assert "There is nothing to remove" in shop.commands.done(folder, "gc").err
    assert "all files are as they were written" in shop.commands.done(folder, "verify").err
    shop.must_be_as_ever("embed", folder, shop.run("embed", folder))


def test_a_reader_that_wants_one_line_gets_it_and_nobody_complains(shop: Workshop) -> None:
    query = f'{sys.executable} -m curate query "SELECT * FROM range(100000)" --format csv | head -1'
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(PROJECT)}
    piped = subprocess.run(
        ["bash", "-c", query], cwd=shop.template, env=environment, capture_output=True, text=True, timeout=120
    )
    assert piped.stdout == "range\n" and piped.stderr == ""


def test_who_holds_the_store_is_said(shop: Workshop) -> None:
    folder = shop.case()
    first = shop.start("train", folder)
    lock = folder / "store/artifacts/train"
    while not first.ended.is_set() and not [
        p for p in lock.glob("*/draft.lock") if p.read_text() == _held_by(first.pid)
    ]:
        first.ended.wait(0.02)
    second = shop.run("train", folder)
    must_be_clear(second)
    assert f"({_held_by(first.pid)})" in second.err
    assert first.wait() == 0, first.err
    shutil.rmtree(folder)


def _held_by(pid: int) -> str:
    from curate.store.artifacts.files import HOST

    return f"{pid} on {HOST}"
