"""Faults in a running command. Each function returns the outcome in words, or raises `AssertionError`."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from curate.store import Store

from .commands import Running
from .injection import Fault
from .repairs import assert_clear_error, count_points, drop, rerun_and_check, some
from .stages import STEPS, UDS, Harness

WRITERS = ("write_table", "save", "serialize_file", "write_index")


def killed_at_points(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Kill the command (SIGKILL) at every point, or at some points."""
    points = some(range(1, len(harness.points(stage)) + 1), most, rng)
    for at in points:
        _break_and_rerun(harness, stage, Fault("", "kill", at), -signal.SIGKILL)
    return f"{count_points(points)}: rerun the same" if points else "writes nothing"


def torn_files(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Kill the command (SIGKILL) in the middle of a write by C++ or Rust."""
    found = harness.points(stage)
    points = some([n for n, what in enumerate(found, 1) if what.split()[0] in WRITERS], most, rng)
    for at in points:
        _break_and_rerun(harness, stage, Fault("", "torn", at), -signal.SIGKILL)
    return f"{count_points(points)}: rerun the same" if points else "writes nothing"


def killed_at_random(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Kill the command (SIGKILL) at random moments."""
    harness.undisturbed_result(stage)
    times = most or 8
    for _ in range(times):
        folder = harness.case()
        running = harness.start(stage, folder)
        running.ended.wait(rng.uniform(0, harness.seconds[stage]))
        running.send(signal.SIGKILL)
        running.wait()
        rerun_and_check(harness, stage, folder, gc_first=rng.random() < 0.5)
    return f"{times}: rerun the same"


def disk_full(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Let every write fail from a point on."""
    return _failing_writes(harness, stage, "full", most, rng)


def read_only(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Let every change of the disk fail from a point on."""
    return _failing_writes(harness, stage, "readonly", most, rng)


def file_limit(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Limit the size of files. C++ and Rust meet the limit in the middle of a write."""
    failed = 0
    limits = some([1 << 9, 1 << 11, 1 << 12, 3 << 12, 1 << 14, 1 << 16, 1 << 18], most, rng)
    for limit in limits:
        folder = harness.case()
        running = harness.run(stage, folder, limit=limit)
        if running.code != 0:
            failed += 1
            assert_clear_error(running)
        rerun_and_check(harness, stage, folder, gc_first=False)
    return f"{failed} of {len(limits)} ended with a clear error; rerun the same"


def small_disk(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Run on a real file system with little free space: a tmpfs, which then grows."""
    failed = 0
    sizes = some([0, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16, 1 << 18, 1 << 20], most, rng)
    for free in sizes:
        mounted = harness.folder / "mounted"
        mounted.mkdir(exist_ok=True)
        if _mount(mounted, "size=256m"):
            return "not tried: mounting needs root"
        try:
            folder = Path(shutil.copytree(harness.template, mounted / "case"))
            disk = os.statvfs(mounted)
            _mount(mounted, f"remount,size={(disk.f_blocks - disk.f_bfree) * disk.f_frsize + free}")
            running = harness.run(stage, folder)
            if running.code != 0:
                failed += 1
                assert_clear_error(running)
            _mount(mounted, "remount,size=256m")
            rerun_and_check(harness, stage, folder, gc_first=bool(failed % 2))
        finally:
            subprocess.run(["umount", "--lazy", mounted], check=True)
    return f"{failed} of {len(sizes)} ended with a clear error; rerun the same"


def _mount(folder: Path, options: str) -> int:
    command = ["mount", "-t", "tmpfs", "-o", options, "curate-faults", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def twice_at_once(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Run the same command twice at the same time."""
    folder = harness.case()
    both = [harness.start(stage, folder) for _ in range(2)]
    codes = [running.wait() for running in both]
    assert 0 in codes, "\n".join(running.err for running in both)
    for running in both:
        if running.code:
            assert_clear_error(running)
            assert "Another process" in running.err, running.err
    harness.assert_same_result(stage, folder, both[codes.index(0)])
    harness.assert_clean(folder)
    drop(folder)
    return "both the same" if codes == [0, 0] else "one names the process that makes it"


LONG_STEPS = 72
LONG = f"train --pool pool --name long {UDS} {STEPS} --max-steps {LONG_STEPS} --num-train-epochs 30 --seed 3"

COMPLETE_STEPS = (
    "SELECT step FROM ledger WHERE run = 'long' GROUP BY step HAVING count(*) = count(DISTINCT slot) ORDER BY step"
)


def during_training(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Run the command while a training run writes to the same store."""
    folder = harness.case()
    training = harness.commands.start(folder, *LONG.split())
    _until(lambda: bool(list(folder.glob("store/artifacts/train/*/checkpoints"))), training)
    running = harness.run(stage, folder)
    still_training = not training.ended.is_set()
    assert training.wait() == 0, training.err
    assert running.code == 0, running.err
    steps = Store(folder / "store").query(COMPLETE_STEPS).to_pylist()
    assert [row["step"] for row in steps] == list(range(1, LONG_STEPS + 1)), f"the concurrent run has only {steps}"
    _drop_run(folder, "long")
    harness.assert_same_result(stage, folder, running)
    drop(folder)
    return "neither disturbs the other" if still_training else "ended before the stage did"


def clock_jumps(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Let the clock jump a day forward and back at every read."""
    return _no_effect(harness, stage, Fault("", clock=86400.0))


def shm_full(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Let every write to /dev/shm fail."""
    return _no_effect(harness, stage, Fault("", shm=True))


def interrupted_twice(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Press Ctrl-C, and once more a moment later."""
    harness.undisturbed_result(stage)
    ends = set()
    for _ in range(most or 4):
        folder = harness.case()
        running = harness.start(stage, folder)
        running.ended.wait(rng.uniform(0.2, harness.seconds[stage]))
        running.send(signal.SIGINT)
        running.ended.wait(rng.uniform(0, 0.2))
        running.send(signal.SIGINT)
        assert running.wait() in (0, 130, -signal.SIGINT), f"ended with {running.code}: {running.err}"
        assert "Traceback" not in running.err, running.err
        ends.add({0: "ended", 130: "130", -2: "SIGINT"}[running.code or 0])
        rerun_and_check(harness, stage, folder, gc_first=False)
    return f"{' or '.join(sorted(ends))}; rerun the same"


CLOSED = "Error: The program that reads stdout has closed it, so the output is not complete. What was made is kept."


def stdout_closed(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Close the reader of the command's output."""
    folder = harness.case()
    running = harness.run(stage, folder, closed=True)
    errors = [line for line in running.err.splitlines() if "Traceback" in line or "Error" in line]
    assert not errors or errors == [CLOSED], running.err
    rerun_and_check(harness, stage, folder, gc_first=False)
    return f"ends with a sentence at most ({running.code}); rerun the same"


def _break_and_rerun(harness: Harness, stage: str, fault: Fault, code: int) -> None:
    folder = harness.case()
    running = harness.run(stage, folder, fault=Fault(f"{folder}/", fault.act, fault.at))
    if running.code == 0:  # some points depend on the time: this run had fewer
        drop(folder)
        return
    assert running.code == code, f"point {fault.at}: ended with {running.code}: {running.err}"
    try:
        rerun_and_check(harness, stage, folder, gc_first=bool(fault.at % 2))
    except AssertionError as error:
        raise AssertionError(f"{fault.act} at point {fault.at} of {stage} in {folder}: {error}") from None


def _failing_writes(harness: Harness, stage: str, act: str, most: int | None, rng: random.Random) -> str:
    points = some(range(1, len(harness.points(stage)) + 1), most or 24, rng)
    clear = 0
    for at in points:
        folder = harness.case()
        running = harness.run(stage, folder, fault=Fault(f"{folder}/", act, at))
        try:
            if running.code != 0:
                clear += 1
                assert_clear_error(running)
            rerun_and_check(harness, stage, folder, gc_first=False)
        except AssertionError as error:
            raise AssertionError(f"{act} from point {at} of {stage} in {folder}: {error}") from None
    return f"{clear} of {len(points)} ended with a clear error; rerun the same" if points else "writes nothing"


def _no_effect(harness: Harness, stage: str, fault: Fault) -> str:
    folder = harness.case()
    fault = Fault(str(folder), clock=fault.clock, shm=fault.shm)
    harness.assert_same_result(stage, folder, harness.run(stage, folder, fault=fault))
    harness.assert_clean(folder)
    drop(folder)
    return "the same"


def _until(happened: Callable[[], bool], running: Running) -> None:
    while not happened() and not running.ended.is_set():
        time.sleep(0.02)


def _drop_run(folder: Path, name: str) -> None:
    """Remove a run that another command made, so that the rest can be compared."""
    store = Store(folder / "store")
    shutil.rmtree(store.get(name).path)
    (store.root / "names" / f"{name}.json").unlink()
