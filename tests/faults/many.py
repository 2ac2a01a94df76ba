"""Accidents of commands whose work several processes share. Each function returns the outcome, or raises."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import psutil

from .commands import Running
from .injection import Fault
from .launches import Launch
from .repairs import drop, some
from .stages import STAGES, Content, Harness

TIMEOUT = 20
"""Seconds without a sign of life; on a busy machine one process may start so much later than the other."""
SHARED = ("train", "embed", "select", "evaluate", "attribute")
"""Stages whose work torchrun shares out."""

ON_RAY = ("embed", "select", "evaluate")
"""Stages whose work Ray shares out."""


def rank_killed(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Kill a process of two (SIGKILL) where it changes the disk."""
    return _at_points(harness, stage, "kill", most or 3, rng)


def rank_hangs(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Stop a process of two (SIGSTOP) where it changes the disk."""
    return _at_points(harness, stage, "stop", most or 2, rng)


def torchrun_killed(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Kill torchrun (SIGKILL) at random moments."""
    times = most or 2
    for _ in range(times):
        folder = harness.case()
        launch = Launch.by_torchrun(folder, *_command(stage))
        _until_begun(launch, folder)
        time.sleep(rng.uniform(0, 3))
        launch.process.send_signal(signal.SIGKILL)
        if launch.wait() == 0:
            _drop(folder)
            continue
        launch.assert_sentences()
        _rerun(harness, stage, folder)
    return f"{times}: all end; rerun the same"


def ray_worker_killed(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Kill a worker of Ray's (SIGKILL): the command goes on."""
    folder = harness.case()
    launch = Launch.by_ray(folder, *_command(stage))
    _wait_for_workers(launch)
    assert launch.kill(_is_worker)
    code = launch.wait()
    assert code == 0, launch.said()
    _assert_same(harness, stage, folder, launch, code)
    return "ends as without the fault"


def ray_head_killed(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Kill the head of the cluster (SIGKILL), and in another run the raylet of this machine."""
    for name in some(("gcs_server", "raylet"), most, rng):
        folder = harness.case()
        launch = Launch.by_ray(folder, *_command(stage))
        _wait_for_workers(launch)
        launch.kill(lambda process, name=name: process.name() == name)
        code = launch.wait()
        assert code == 1, f"{name}: ended with {code}: {launch.said()}"
        launch.assert_sentences("")
        _rerun(harness, stage, folder)
    return "a clear error; rerun the same"


def ray_driver_killed(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Kill the command (SIGKILL) while its workers run: they end, too."""
    folder = harness.case()
    launch = Launch.by_ray(folder, *_command(stage))
    _wait_for_workers(launch)
    launch.process.send_signal(signal.SIGKILL)
    assert launch.wait() == -signal.SIGKILL
    _rerun(harness, stage, folder)
    return "all end; rerun the same"


def _command(stage: str) -> list[str]:
    return [*STAGES[stage].split(), "--process-timeout", str(TIMEOUT)]


def _at_points(harness: Harness, stage: str, act: str, most: int, rng: random.Random) -> str:
    broken = 0
    for rank in (0, 1):
        points = _points(harness, stage, rank)
        for at in some(range(1, points + 1), most, rng):
            folder = harness.case()
            launch = Launch.by_torchrun(folder, *_command(stage), fault=Fault(f"{folder}/", act, at, rank=rank))
            code = launch.wait()
            if code == 0:  # some points depend on the time: this run had fewer, or they come after the work
                _drop(folder)
                continue
            broken += 1
            try:
                launch.assert_sentences(str(1 - rank))
                _rerun(harness, stage, folder)
            except AssertionError as error:
                raise AssertionError(f"{act} at point {at} of rank {rank} in {folder}: {error}") from None
    assert broken, "no launch reached its point"
    return f"{broken} points: a clear error; rerun the same"


def _points(harness: Harness, stage: str, rank: int) -> int:
    """Return the number of points of a rank."""
    folder = harness.case()
    log = folder / "points.log"
    log.touch()
    fault = Fault(f"{folder}/", "count", log=str(log), rank=rank)
    launch = Launch.by_torchrun(folder, *_command(stage), fault=fault)
    assert launch.wait() == 0, launch.said()
    count = len(log.read_text(encoding="utf-8").splitlines())
    _drop(folder)
    assert count, f"rank {rank} of {stage} changes nothing"
    return count


def _expected(harness: Harness, stage: str) -> Content:
    """Return the result without a fault: that of one process, or of two where sums of floats depend on the number."""
    if stage != "train":
        return harness.undisturbed_result(stage)
    if (key := f"{stage} in two") not in harness.expected:
        folder = harness.case()
        launch = Launch.by_torchrun(folder, *_command(stage))
        code = launch.wait()
        assert code == 0, launch.said()
        harness.expected[key] = harness.content(stage, folder, _ended(launch, code))
        _drop(folder)
    return harness.expected[key]


def _rerun(harness: Harness, stage: str, folder: Path) -> None:
    """Run the same command again with two processes of torchrun, and compare the result."""
    launch = Launch.by_torchrun(folder, *_command(stage))
    _assert_same(harness, stage, folder, launch, launch.wait())


def _assert_same(harness: Harness, stage: str, folder: Path, launch: Launch, code: int) -> None:
    assert code == 0, launch.said()
    expected, found = _expected(harness, stage), harness.content(stage, folder, _ended(launch, code))
    unlike = sorted(key for key in {*expected, *found} if expected.get(key) != found.get(key))
    assert not unlike, f"differs from the result without a fault: {', '.join(unlike)}"
    harness.assert_clean(folder)
    _drop(folder)


def _drop(folder: Path) -> None:
    """Remove the folder of a case that passed, and its logs."""
    drop(folder)
    for logs in folder.parent.glob(f"{folder.name}.logs*"):
        shutil.rmtree(logs)


def _ended(launch: Launch, code: int) -> Running:
    return Running(0, launch.logs, launch.process.pid, code)


def _until_begun(launch: Launch, folder: Path) -> None:
    while launch.process.poll() is None and not list(folder.glob("store/artifacts/*/*/draft.json")):
        time.sleep(0.05)


def _is_worker(process: psutil.Process) -> bool:
    return process.name().startswith(("ray::Map", "ray::Worker"))


def _wait_for_workers(launch: Launch) -> None:
    while launch.process.poll() is None and not any(map(_is_worker, launch.processes())):
        time.sleep(0.1)
