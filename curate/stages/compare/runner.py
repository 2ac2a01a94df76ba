"""Make the artifacts of a comparison: one after the other in this process, or several at a time in other processes.

If a task fails, its error is recorded, the tasks that need it fail too, and all others are still made. The store finds
artifacts that exist already, and continues a stopped run at its checkpoint.
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

from ...errors import TRACEBACK, CurateError, is_interrupt, of_system
from ...log import LOGGER, Heartbeat
from ...runtime.distributed import cores
from ...store import Artifact, Store
from ...store.artifacts.files import write_text
from ...store.artifacts.safe_files import create_file, open_to_read
from .. import is_made, run_stage
from ..consent import flags_of
from .plan import Task

POLL_SECONDS = 0.1
"""Seconds between two checks of the running processes."""

GRACE_SECONDS = 30.0
"""Seconds that an interrupted process has to write its checkpoint before it is killed."""


@dataclass
class RunProgress:
    """Results of the tasks so far: an artifact or an error for each.

    Attributes:
        store: the store that holds the artifacts.
        total: number of tasks.
        made: name of the task -> its artifact.
        failed: name of the task -> its error message.
    """

    store: Store
    total: int
    made: dict[str, Artifact] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def log(self, name: str, stage: str, result: str) -> None:
        """Log one line about the result of a task."""
        LOGGER.info(f"[{len(self.made) + len(self.failed)}/{self.total}] {stage} {name} ... {result}")

    def fail(self, name: str, task: Task, error: str) -> None:
        """Record the error of a task, and log it."""
        self.failed[name] = error
        self.log(name, task.stage, f"failed: {error}")

    def blocked(self, name: str, task: Task) -> bool:
        """Return whether a task needs one that failed; if so, record it as failed as well."""
        failed_need = next((need for need in task.needs if need in self.failed), None)
        if failed_need is not None:
            self.fail(name, task, f"'{failed_need}', which it is made from, failed")
        return failed_need is not None


def make_all(store: Store, tasks: Mapping[str, Task], jobs: int, folder: Path) -> RunProgress:
    """Make the artifacts of all tasks, in their order, or up to `jobs` at a time if they do not need each other.

    Args:
        store: the store to make them in.
        tasks: name -> task; each task comes after the tasks that it needs.
        jobs: number of processes at a time; 1 makes everything in this process.
        folder: folder for the configs and logs of the processes.

    Returns:
        An artifact or an error for each task.
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
    start, exists = time.monotonic(), _is_made(progress.store, task)
    try:
        progress.made[name] = run_stage(progress.store, task.stage, task.config)
    except CurateError as error:
        progress.fail(name, task, str(error))
    except Exception as error:  # the other runs go on, unless the error is one that they would meet as well
        if of_system(error) or is_interrupt(error):
            raise
        if os.environ.get(TRACEBACK):
            LOGGER.warning(traceback.format_exc())
        progress.fail(name, task, f"{type(error).__name__}: {error}")
    else:
        progress.log(name, task.stage, "found" if exists else f"made in {time.monotonic() - start:.1f} s")


def _is_made(store: Store, task: Task) -> bool:
    """Return whether the artifact of a task exists; False if that is unknown because an input is missing."""
    try:
        return is_made(store, task.stage, task.config)
    except CurateError:
        return False


@dataclass
class _Process:
    """A running process of a task, with the file of its log and the time that it started (monotonic, seconds)."""

    task: Task
    running: subprocess.Popen[bytes]
    log: Path
    start: float


def _make_in_processes(progress: RunProgress, waiting: dict[str, Task], jobs: int, folder: Path) -> None:
    """Start each waiting task as soon as its needs are made and one of the `jobs` places is free."""
    running: dict[str, _Process] = {}
    heartbeat = Heartbeat()
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
                heartbeat.beat(lambda: _still_running(running, waiting))
                time.sleep(POLL_SECONDS)
    finally:
        _stop(running)


def _still_running(running: Mapping[str, _Process], waiting: Mapping[str, Task]) -> str:
    """Return a line about the processes that are at work: a log shows it now and then."""
    now = time.monotonic()
    tasks = ", ".join(f"{name} ({now - process.start:.0f} s)" for name, process in running.items())
    return f"Still running: {tasks}. Waiting: {len(waiting)}."


def _start(store: Store, name: str, task: Task, jobs: int, folder: Path) -> _Process:
    """Start `python -m curate STAGE` on the task's config, with an equal share of the cores."""
    config, log = folder / f"{name}.yaml", folder / f"{name}.log"
    write_text(config, yaml.safe_dump(task.config.model_dump(mode="json")))
    threads = str(max(1, cores() // jobs))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "CURATE_PROGRESS": "0"}
    command = [sys.executable, "-m", "curate", task.stage, "--config", str(config), "--store", str(store.root)]
    command += flags_of(task.config.model_dump())
    with create_file(log) as errors:
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
    return _Process(task, running, log, time.monotonic())


def _end(progress: RunProgress, name: str, process: _Process) -> None:
    if process.running.returncode == 0:
        progress.made[name] = progress.store.get(name, process.task.stage)
        progress.log(name, process.task.stage, f"made in {time.monotonic() - process.start:.1f} s")
        return
    with open_to_read(process.log) as file:
        lines = file.read().decode("utf-8", errors="replace").strip().splitlines()
    last = lines[-1] if lines else "no message"
    message = next((line for line in reversed(lines) if line.startswith("Error: ")), last)
    progress.fail(
        name, process.task, f"{message.removeprefix('Error: ')} (exit {process.running.returncode}; {process.log})"
    )


def _stop(running: Mapping[str, _Process]) -> None:
    """Interrupt the processes that still run, as Ctrl-C would.

    In a terminal, Ctrl-C has reached each process as well, so each first has a second to end by itself. A process that
    still runs `GRACE_SECONDS` after it was interrupted is killed.
    """
    for process in running.values():
        try:
            process.running.wait(1)
        except subprocess.TimeoutExpired:
            process.running.send_signal(signal.SIGINT)
    for process in running.values():
        try:
            process.running.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.running.kill()
            process.running.wait()
