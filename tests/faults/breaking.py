"""Faults that befall a running command: each says what came of it, or raises `AssertionError`."""

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
from .repairs import counted, drop, mend, must_be_clear, some
from .stages import STEPS, UDS, Workshop

WRITERS = ("write_table", "save", "serialize_file", "write_index")


def killed_at_points(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """SIGKILL at every point, or at some."""
    points = some(range(1, len(shop.points(stage)) + 1), most, chance)
    for at in points:
        _break_and_mend(shop, stage, Fault("", "kill", at), -signal.SIGKILL)
    return f"{counted(points)}: rerun the same" if points else "writes nothing"


def torn_files(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """SIGKILL in the middle of what C++ or Rust writes."""
    found = shop.points(stage)
    points = some([n for n, what in enumerate(found, 1) if what.split()[0] in WRITERS], most, chance)
    for at in points:
        _break_and_mend(shop, stage, Fault("", "torn", at), -signal.SIGKILL)
    return f"{counted(points)}: rerun the same" if points else "writes nothing"


def killed_at_random(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """SIGKILL at random moments."""
    shop.whole(stage)
    times = most or 8
    for _ in range(times):
        folder = shop.case()
        running = shop.start(stage, folder)
        running.ended.wait(chance.uniform(0, shop.seconds[stage]))
        running.send(signal.SIGKILL)
        running.wait()
        mend(shop, stage, folder, gc_first=chance.random() < 0.5)
    return f"{times}: rerun the same"


def disk_full(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """From a point on nothing can be written."""
    return _refused(shop, stage, "full", most, chance)


def read_only(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """From a point on nothing can be changed."""
    return _refused(shop, stage, "readonly", most, chance)


def file_limit(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """No file may grow above a size: C++ and Rust meet it in the middle of what they write."""
    refused = 0
    limits = some([1 << 9, 1 << 11, 1 << 12, 3 << 12, 1 << 14, 1 << 16, 1 << 18], most, chance)
    for limit in limits:
        folder = shop.case()
        running = shop.run(stage, folder, limit=limit)
        if running.code != 0:
            refused += 1
            must_be_clear(running)
        mend(shop, stage, folder, gc_first=False)
    return f"{refused} of {len(limits)} refused clearly; rerun the same"


def small_disk(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """A file system with a little room on it, a real one: a tmpfs, which then grows."""
    refused = 0
    rooms = some([0, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16, 1 << 18, 1 << 20], most, chance)
    for room in rooms:
        mounted = shop.folder / "mounted"
        mounted.mkdir(exist_ok=True)
        if _mount(mounted, "size=256m"):
            return "not tried: mounting takes root"
        try:
            folder = Path(shutil.copytree(shop.template, mounted / "case"))
            disk = os.statvfs(mounted)
            _mount(mounted, f"remount,size={(disk.f_blocks - disk.f_bfree) * disk.f_frsize + room}")
            running = shop.run(stage, folder)
            if running.code != 0:
                refused += 1
                must_be_clear(running)
            _mount(mounted, "remount,size=256m")
            mend(shop, stage, folder, gc_first=bool(refused % 2))
        finally:
            subprocess.run(["umount", "--lazy", mounted], check=True)
    return f"{refused} of {len(rooms)} refused clearly; rerun the same"


def _mount(folder: Path, options: str) -> int:
    command = ["mount", "-t", "tmpfs", "-o", options, "curate-faults", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def twice_at_once(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """Two of the same command."""
    folder = shop.case()
    both = [shop.start(stage, folder) for _ in range(2)]
    codes = [running.wait() for running in both]
    assert 0 in codes, "\n".join(running.err for running in both)
    for running in both:
        if running.code:
            must_be_clear(running)
            assert "Another process" in running.err, running.err
    shop.must_be_as_ever(stage, folder, both[codes.index(0)])
    shop.must_be_clean(folder)
    drop(folder)
    return "both the same" if codes == [0, 0] else "one is told who makes it"


LONG_STEPS = 72
LONG = f"train --pool pool --name long {UDS} {STEPS} --max-steps {LONG_STEPS} --num-train-epochs 30 --seed 3"

BESIDE = "SELECT step FROM ledger WHERE run = 'long' GROUP BY step HAVING count(*) = count(DISTINCT slot) ORDER BY step"


def beside_training(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """While a run is going on in the same store."""
    folder = shop.case()
    training = shop.commands.start(folder, *LONG.split())
    _until(lambda: bool(list(folder.glob("store/artifacts/train/*/checkpoints"))), training)
    running = shop.run(stage, folder)
    beside = not training.ended.is_set()
    assert training.wait() == 0, training.err
    assert running.code == 0, running.err
    steps = Store(folder / "store").query(BESIDE).to_pylist()
    assert [row["step"] for row in steps] == list(range(1, LONG_STEPS + 1)), f"the run beside has only {steps}"
    _drop_run(folder, "long")
    shop.must_be_as_ever(stage, folder, running)
    drop(folder)
    return "neither disturbs the other" if beside else "ended before the stage did"


def clock_jumps(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """The clock goes a day forth and back with every look."""
    return _unharmed(shop, stage, Fault("", clock=86400.0))


def shm_full(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """Nothing can be written to /dev/shm."""
    return _unharmed(shop, stage, Fault("", shm=True))


def interrupted_twice(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """Ctrl-C, and once more a moment later."""
    shop.whole(stage)
    ends = set()
    for _ in range(most or 4):
        folder = shop.case()
        running = shop.start(stage, folder)
        running.ended.wait(chance.uniform(0.2, shop.seconds[stage]))
        running.send(signal.SIGINT)
        running.ended.wait(chance.uniform(0, 0.2))
        running.send(signal.SIGINT)
        assert running.wait() in (0, 130, -signal.SIGINT), f"ended with {running.code}: {running.err}"
        assert "Traceback" not in running.err, running.err
        ends.add({0: "ended", 130: "130", -2: "SIGINT"}[running.code or 0])
        mend(shop, stage, folder, gc_first=False)
    return f"{' or '.join(sorted(ends))}; rerun the same"


def stdout_closed(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """Nobody reads what it prints."""
    folder = shop.case()
    running = shop.run(stage, folder, closed=True)
    assert "Traceback" not in running.err and "Error" not in running.err, running.err
    mend(shop, stage, folder, gc_first=False)
    return f"ends quietly ({running.code}); rerun the same"


def _break_and_mend(shop: Workshop, stage: str, fault: Fault, code: int) -> None:
    folder = shop.case()
    running = shop.run(stage, folder, fault=Fault(f"{folder}/", fault.act, fault.at))
    if running.code == 0:  # there are points that come by the clock: fewer this time
        drop(folder)
        return
    assert running.code == code, f"point {fault.at}: ended with {running.code}: {running.err}"
    try:
        mend(shop, stage, folder, gc_first=bool(fault.at % 2))
    except AssertionError as error:
        raise AssertionError(f"{fault.act} at point {fault.at} of {stage} in {folder}: {error}") from None


def _refused(shop: Workshop, stage: str, act: str, most: int | None, chance: random.Random) -> str:
    points = some(range(1, len(shop.points(stage)) + 1), most or 24, chance)
    clear = 0
    for at in points:
        folder = shop.case()
        running = shop.run(stage, folder, fault=Fault(f"{folder}/", act, at))
        try:
            if running.code != 0:
                clear += 1
                must_be_clear(running)
            mend(shop, stage, folder, gc_first=False)
        except AssertionError as error:
            raise AssertionError(f"{act} from point {at} of {stage} in {folder}: {error}") from None
    return f"{clear} of {len(points)} refused clearly; rerun the same" if points else "writes nothing"


def _unharmed(shop: Workshop, stage: str, fault: Fault) -> str:
    folder = shop.case()
    fault = Fault(str(folder), clock=fault.clock, shm=fault.shm)
    shop.must_be_as_ever(stage, folder, shop.run(stage, folder, fault=fault))
    shop.must_be_clean(folder)
    drop(folder)
    return "the same"


def _until(happened: Callable[[], bool], running: Running) -> None:
    while not happened() and not running.ended.is_set():
        time.sleep(0.02)


def _drop_run(folder: Path, name: str) -> None:
    """Take away what another command has made, so that the rest can be compared."""
    store = Store(folder / "store")
    shutil.rmtree(store.get(name).path)
    (store.root / "names" / f"{name}.json").unlink()
