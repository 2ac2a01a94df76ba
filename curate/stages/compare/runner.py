"""Making the runs of a comparison: one after the other in this process, or several at a time in processes of their own.

A run that fails is remembered with its error, and so is what would have been made from it; all others are made. What is
there is found, and a run that was stopped goes on at its checkpoint: both are the store's doing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ...errors import CurateError, is_interrupt, of_system
from ...log import LOGGER
from ...runtime.distributed import cores
from ...store import Artifact, Store
from .. import made_from, run_stage
from .plan import Task

PATIENCE = 0.1
"""Seconds between looks at running processes."""

GRACE = 30.0
"""Seconds that an interrupted process has to write down where it is."""


@dataclass
class RunProgress:
    """What has become of tasks, by name: an artifact or an error.

    Attributes:
        store: where all is made.
        total: how many tasks there are.
    """

    store: Store
    total: int
    made: dict[str, Artifact] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def say(self, name: str, stage: str, end: str) -> None:
        """A line on how a task ended."""
        LOGGER.info(f"[{len(self.made) + len(self.failed)}/{self.total}] {stage} {name} ... {end}")

    def fail(self, name: str, task: Task, error: str) -> None:
        """Remember an error."""
        self.failed[name] = error
        self.say(name, task.stage, f"failed: {error}")

    def blocked(self, name: str, task: Task) -> bool:
        """Whether something that it is made from has failed; then so has it."""
        lost = next((need for need in task.needs if need in self.failed), None)
        if lost is not None:
            self.fail(name, task, f"'{lost}', which it is made from, failed")
        return lost is not None


def make_all(store: Store, tasks: Mapping[str, Task], jobs: int, folder: Path) -> RunProgress:
    """Make tasks in their order, or `jobs` at a time where they do not wait for each other.

    Args:
        store: where.
        tasks: by name, each after what it needs.
        jobs: processes at a time; 1: none but this.
        folder: for the processes' configs and logs.
    """
    progress = RunProgress(store, len(tasks))
    if jobs == 1:
        for name, task in tasks.items():
            if not progress.blocked(name, task):
                _make_here(progress, name, task)
    else:
        _make_in_processes(progress, dict(tasks), jobs, folder)
    return progress


def _make_here(progress: RunProgress, name: str, task: Task) -> None:
    start, there = time.monotonic(), _is_made(progress.store, task)
    try:
        progress.made[name] = run_stage(progress.store, task.stage, task.config)
    except CurateError as error:
        progress.fail(name, task, str(error))
    except Exception as error:  # one run's failure must not cost the others, unless it is one of theirs as well
        if of_system(error) or is_interrupt(error):
            raise
        LOGGER.warning(traceback.format_exc())
        progress.fail(name, task, f"{type(error).__name__}: {error}")
    else:
        progress.say(name, task.stage, "found" if there else f"made in {time.monotonic() - start:.1f} s")


def _is_made(store: Store, task: Task) -> bool:
    """Whether it is there; what cannot be told because an input is missing is not."""
    try:
        return store.is_made(task.stage, task.config, made_from(store, task.stage, task.config)[1])
    except CurateError:
        return False


@dataclass
class _Process:
    task: Task
    running: subprocess.Popen[bytes]
    log: Path
    start: float


def _make_in_processes(progress: RunProgress, waiting: dict[str, Task], jobs: int, folder: Path) -> None:
    running: dict[str, _Process] = {}
    try:
        while waiting or running:
            for name, task in list(waiting.items()):
                if progress.blocked(name, task):
                    del waiting[name]
                elif len(running) < jobs and all(need in progress.made for need in task.needs):
                    del waiting[name]
                    if _is_made(progress.store, task):
                        _make_here(progress, name, task)
                    else:
                        running[name] = _start(progress.store, name, task, jobs, folder)
            for name, process in list(running.items()):
                if process.running.poll() is not None:
                    _end(progress, name, running.pop(name))
            if running:
                time.sleep(PATIENCE)
    finally:
        _stop(running)


def _start(store: Store, name: str, task: Task, jobs: int, folder: Path) -> _Process:
    """`python -m curate STAGE` on the task's config, with its share of the cores."""
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / f"{name}.yaml", folder / f"{name}.log"
    config.write_text(yaml.safe_dump(task.config.model_dump(mode="json")), encoding="utf-8")
    threads = str(max(1, cores() // jobs))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "CURATE_PROGRESS": "0"}
    command = [sys.executable, "-m", "curate", task.stage, "--config", str(config), "--store", str(store.root)]
    with log.open("wb") as errors:
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
    return _Process(task, running, log, time.monotonic())


def _end(progress: RunProgress, name: str, process: _Process) -> None:
    if process.running.returncode == 0:
        progress.made[name] = progress.store.get(name, process.task.stage)
        progress.say(name, process.task.stage, f"made in {time.monotonic() - process.start:.1f} s")
        return
    lines = process.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = next((line for line in reversed(lines) if line.startswith("Error: ")), lines[-1] if lines else "no word")
    progress.fail(
        name, process.task, f"{said.removeprefix('Error: ')} (exit {process.running.returncode}; {process.log})"
    )


def _stop(running: Mapping[str, _Process]) -> None:
    """End what still runs as Ctrl-C would. In a terminal each has been told with us, and is given a moment."""
    for process in running.values():
        try:
            process.running.wait(1)
        except subprocess.TimeoutExpired:
            process.running.send_signal(signal.SIGINT)
    for process in running.values():
        try:
            process.running.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.running.kill()
            process.running.wait()
