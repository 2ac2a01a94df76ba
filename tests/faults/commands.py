"""Start commands as processes, wait for them and kill them.

A command is a fork of a server process that has imported everything, which is fast, or a new Python process.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .injection import VARIABLE, Fault

PROJECT = Path(__file__).parents[2]
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CURATE_PROGRESS": "0", "TOKENIZERS_PARALLELISM": "false"}
PATIENCE, STARTING = 180.0, 300.0


@dataclass
class Running:
    """A command that was started.

    Attributes:
        number: the number of the command.
        folder: the folder of the files with its output.
        pid: the id of its process.
        code: its exit code, negative for a signal; None while it runs.
        ended: set when the process has ended.
    """

    number: int
    folder: Path
    pid: int = 0
    code: int | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Return the exit code, negative for a signal. A command that hangs fails the test."""
        if not self.ended.wait(timeout):
            self.send(signal.SIGKILL)
            raise AssertionError(f"The command {self.number} hung: {self.err}")
        assert self.code is not None
        return self.code

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the command has ended."""
        if not self.ended.is_set():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    @property
    def out(self) -> str:
        """The output on stdout so far."""
        return (self.folder / f"{self.number}.out").read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """The output on stderr so far."""
        return (self.folder / f"{self.number}.err").read_text(encoding="utf-8")


class ForkedServer:
    """A server process that is a fork of this one, where everything is imported already.

    Args:
        errors: file that its stderr goes to.
    """

    def __init__(self, errors: Path) -> None:
        from .server import serve

        (ours_in, self_out), (self_in, ours_out) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            file = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            for number, descriptor in enumerate((self_in, self_out, file)):
                os.dup2(descriptor, number)
            for descriptor in (ours_in, ours_out, self_in, self_out, file):
                os.close(descriptor)
            os.chdir(PROJECT)
            os.environ.update(QUIET)
            serve()
            os._exit(0)
        os.close(self_in)
        os.close(self_out)
        self.stdin, self.stdout = open(ours_out, "wb"), open(ours_in, "rb")  # noqa: SIM115 - until the server ends

    def wait(self, timeout: float) -> None:
        """Wait until the server has ended."""
        os.waitpid(self.pid, 0)


class Commands:
    """A starter of commands, with its server process. Close it at the end.

    Args:
        folder: where outputs go.
        fork: let the server be a fork of this process, which has imported everything.
    """

    def __init__(self, folder: Path, *, fork: bool = False) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._server = ForkedServer(folder / "server.err") if fork else _new_server(folder / "server.err")
        self._running: dict[int, Running] = {}
        self._started: queue.Queue[dict[str, Any]] = queue.Queue()
        self._count = 0
        threading.Thread(target=self._listen, daemon=True).start()
        self._started.get(timeout=STARTING)

    def start(
        self,
        folder: Path,
        *args: str,
        fault: Fault | None = None,
        limit: int | None = None,
        closed: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Running:
        """Start `curate ARGS` in a folder.

        Args:
            folder: the working directory of the command.
            args: the arguments of `curate`.
            fault: the fault of the process.
            limit: the largest size of a file, in bytes.
            closed: the reader of stdout is closed.
            environment: more variables of the environment.
        """
        self._count += 1
        running = self._running[self._count] = Running(self._count, self.folder)
        request = {
            "number": self._count,
            "args": args,
            "folder": str(folder),
            "environment": {**QUIET, **(environment or {})},
            "out": str(self.folder / f"{self._count}.out"),
            "err": str(self.folder / f"{self._count}.err"),
            "fault": asdict(fault) if fault else None,
            "limit": limit,
            "closed": closed,
        }
        assert self._server.stdin is not None
        self._server.stdin.write((json.dumps(request) + "\n").encode())
        self._server.stdin.flush()
        running.pid = self._started.get(timeout=PATIENCE)["pid"]
        return running

    def run(self, folder: Path, *args: str, **options: Any) -> Running:
        """Start `curate ARGS` and wait until it ends."""
        running = self.start(folder, *args, **options)
        running.wait()
        return running

    def done(self, folder: Path, *args: str) -> Running:
        """Run `curate ARGS`, which must succeed."""
        running = self.run(folder, *args)
        assert running.code == 0, f"curate {' '.join(args)} ended with {running.code}:\n{running.err}"
        return running

    def _listen(self) -> None:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            message = json.loads(line)
            if "ended" in message:
                running = self._running[message["ended"]]
                running.code = message["code"]
                running.ended.set()
            else:
                self._started.put(message)

    def close(self) -> None:
        """End the server process."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(PATIENCE)


def _new_server(errors: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"{__package__}.server"]
    with errors.open("wb") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            cwd=PROJECT,
            env={**os.environ, **QUIET},
        )


def from_scratch(folder: Path, *args: str, fault: Fault | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m curate ARGS` in a new process. An environment variable passes the fault to a `sitecustomize`."""
    environment = {**os.environ, **QUIET, "PYTHONPATH": f"{Path(__file__).parent / 'injected'}{os.pathsep}{PROJECT}"}
    if fault:
        environment[VARIABLE] = json.dumps(asdict(fault))
    command = [sys.executable, "-m", "curate", *args]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
