"""Start commands whose work several processes share: two ranks of torchrun, or two workers of Ray's.

All processes of a launch have the same value of an environment variable, so that none can stay behind unnoticed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from .commands import PROJECT, QUIET
from .injection import VARIABLE, Fault

MARK = "CURATE_FAULTS_LAUNCH"
PATIENCE = 300.0
ERROR = re.compile(r"^Error: .*$", re.MULTILINE)


@dataclass
class Launch:
    """A command that several processes share.

    Attributes:
        process: torchrun, or the driver of Ray's workers.
        mark: value that the environment of all its processes has.
        logs: folder with the output of the command, and of each rank.
    """

    process: subprocess.Popen[bytes]
    mark: str
    logs: Path

    @classmethod
    def by_torchrun(cls, folder: Path, *args: str, fault: Fault | None = None) -> Launch:
        """Start `curate ARGS` in two processes. The fault is that of the rank that it names."""
        logs = _logs(folder)
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command = [*torchrun, "--redirects=3", f"--log-dir={logs}", "-m", "curate", *args]
        return cls._start(folder, command, logs, fault)

    @classmethod
    def by_ray(cls, folder: Path, *args: str) -> Launch:
        """Start `curate ARGS` with two workers on a Ray cluster of its own."""
        return cls._start(folder, ["curate", *args, "--engine", "ray", "--workers", "2"], _logs(folder), None)

    @classmethod
    def _start(cls, folder: Path, command: list[str], logs: Path, fault: Fault | None) -> Launch:
        path = f"{Path(__file__).parent / 'injected'}{os.pathsep}{PROJECT}"
        environment = {**os.environ, **QUIET, "PYTHONPATH": path, MARK: str(logs), "CUDA_VISIBLE_DEVICES": ""}
        environment["RAY_AUTH_MODE"] = "disabled"
        if fault:
            environment[VARIABLE] = json.dumps(asdict(fault))
        with (logs / "out").open("wb") as out, (logs / "err").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        return cls(process, str(logs), logs)

    def processes(self) -> Iterator[psutil.Process]:
        """Yield all processes of the launch that run."""
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    yield process
            except (psutil.Error, OSError):  # it has just ended, or belongs to another user
                continue

    def kill(self, wanted: Callable[[psutil.Process], bool]) -> bool:
        """Send SIGKILL to the first process of the launch that is wanted; False if there is none."""
        for process in self.processes():
            try:
                if wanted(process):
                    process.send_signal(signal.SIGKILL)
                    return True
            except psutil.Error:
                continue
        return False

    def wait(self) -> int:
        """Return the exit code. A launch that does not end, or of which a process stays behind, fails the test."""
        try:
            code = self.process.wait(PATIENCE)
            end = time.monotonic() + 30
            while (left := list(self.processes())) and time.monotonic() < end:
                time.sleep(0.2)
            assert not left, f"these processes stay behind: {left}"
        finally:
            for process in self.processes():
                process.kill()
        return code

    def said(self) -> dict[str, str]:
        """Return rank -> its stderr; without torchrun, `""` -> that of the command."""
        ranks = {path.parent.name: path for path in self.logs.glob("*/attempt_0/*/stderr.log")}
        paths = ranks or {"": self.logs / "err"}
        return {rank: path.read_text(encoding="utf-8", errors="replace") for rank, path in sorted(paths.items())}

    def assert_sentences(self, *enders: str) -> None:
        """Raise unless each of `enders` has said one error, no other process more than one, and none a traceback."""
        said = self.said()
        for rank, text in said.items():
            found = ERROR.findall(text)
            assert "Traceback" not in text and "did not expect" not in text, f"{rank}: {text}"
            assert len(found) == 1 if rank in enders else len(found) <= 1, f"{rank}: {text}"
            assert all(re.search(r"same command again", line) for line in found), f"{rank}: {text}"


def _logs(folder: Path) -> Path:
    """Return a new folder for logs next to the folder of the case."""
    number = len(list(folder.parent.glob(f"{folder.name}.logs*")))
    logs = folder.parent / f"{folder.name}.logs{number}"
    logs.mkdir()
    return logs
