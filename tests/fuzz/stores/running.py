"""Run a command in a fork of this warm process, or in a new one; kill it when it hangs; follow its system calls.

A command gets no more rights than a user has: where this process is root, the fork gives up every capability.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import os
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from curate.runtime.terminal import EscapingStream
from tests.faults.commands import PROJECT, QUIET
from tests.faults.server import _leave, _run

from .commands import Command
from .world import HOME, TEMPORARY

PATIENCE = 120.0
"""Seconds after which a command hangs. The slowest honest one takes six on an idle core."""
MOST_MEMORY, MOST_FILE = 24 << 30, 256 << 20
"""Bytes of address space and of a file, so that a command that runs wild harms no other process."""
BROKEN = 99
"""Exit code of a fork that does not get as far as its command."""
STRACE = shutil.which("strace")
CALLS = "trace=file,network,ftruncate"


@dataclass(frozen=True)
class Ran:
    """What a command did.

    Attributes:
        code: its exit code, negative for a signal.
        out: what it wrote to stdout.
        err: what it wrote to stderr.
        seconds: how long it took.
        hung: whether it was killed because it did not end.
        calls: lines of strace; None if its calls were not followed.
    """

    code: int
    out: bytes
    err: bytes
    seconds: float
    hung: bool = False
    calls: list[str] | None = None


def environment(world: Path, command: Command, proxy: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a command: a home and a folder for temporary files of its own, and the proxy."""
    home = world / HOME
    own = {"HOME": str(home), "HF_HOME": str(home / "hf"), "TMPDIR": str(world / TEMPORARY), "COLUMNS": "160"}
    quiet = {name: value for name, value in QUIET.items() if name != "HF_HUB_OFFLINE"}
    return {**quiet, **own, **proxy, **command.environment}


def forked(
    world: Path,
    command: Command,
    proxy: Mapping[str, str],
    *,
    traced: bool = False,
    patience: float = PATIENCE,
    act: Callable[[list[str]], int] = _run,
) -> Ran:
    """Run a command in a fork of this process.

    Args:
        world: its working folder.
        command: the command.
        proxy: variables that name the proxy.
        traced: follow its system calls.
        patience: seconds after which it is killed.
        act: what runs the arguments and returns the exit code; tests give faulty commands.
    """
    folder = world.parent
    out, err, log = (folder / f"{world.name}.{end}" for end in ("out", "err", "calls"))
    began, (reader, writer) = time.monotonic(), os.pipe()
    if (pid := os.fork()) == 0:
        os.close(writer)
        _become(world, environment(world, command, proxy), command, (out, err), reader, act)
    os.close(reader)
    tracer = _attach(pid, log) if traced else None
    os.close(writer)  # the command waits for this
    code, hung = _wait(pid, patience)
    if tracer is not None:
        tracer.wait(30)
    calls = log.read_text(encoding="utf-8", errors="replace").splitlines() if traced else None
    ran = Ran(code, _taken(out), _taken(err), time.monotonic() - began, hung, calls)
    if code == BROKEN:
        raise RuntimeError(ran.err.decode(errors="replace"))
    return ran


def _become(
    world: Path,
    variables: Mapping[str, str],
    command: Command,
    files: tuple[Path, Path],
    reader: int,
    act: Callable[[list[str]], int],
) -> NoReturn:
    """Run the command in this process, a fork. This function never returns."""
    try:
        os.setpgid(0, 0)
        os.chdir(world)
        os.environ.update(variables)
        tempfile.tempdir = None
        nothing = os.open(os.devnull, os.O_RDONLY)
        written = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) for path in files]
        for number, descriptor in enumerate((nothing, *written)):
            os.dup2(descriptor, number)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - until the process ends
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
        _hand_over_loggers()
        resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_FILE, MOST_FILE))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        faulthandler.disable()
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        os.read(reader, 1)
        give_up_capabilities()
    except BaseException as error:
        os.write(2, f"The harness failed: {error!r}\n".encode())
        os._exit(BROKEN)
    _leave(act(list(command.args)))
    raise AssertionError


def _hand_over_loggers() -> None:
    """Let loggers of other packages write where they would if they were imported by the command: to escaped stderr."""
    for logger in logging.Logger.manager.loggerDict.values():
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                with contextlib.suppress(AttributeError):  # one that looks sys.stderr up has a property
                    handler.stream = EscapingStream(sys.stderr)


def give_up_capabilities() -> None:
    """Give up all rights of root, so that the modes of files and folders bind this process."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", 0x20080522, 0)
    if libc.capset(header, struct.pack("IIIIII", *[0] * 6)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _attach(pid: int, log: Path) -> subprocess.Popen[bytes]:
    assert STRACE is not None
    line = [STRACE, "-f", "-qq", "-y", "-s", "300", "-e", CALLS, "-o", str(log), "-p", str(pid)]
    tracer = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status = Path(f"/proc/{pid}/status")
    while tracer.poll() is None and "TracerPid:\t0\n" in status.read_text(encoding="utf-8"):
        time.sleep(0.01)
    return tracer


def _wait(pid: int, patience: float) -> tuple[int, bool]:
    """Wait for a process and return its exit code; kill it, and all that it started, when it does not end."""
    descriptor = os.pidfd_open(pid)
    try:
        hung = not select.select([descriptor], [], [], patience)[0]
        if hung:
            os.kill(pid, signal.SIGUSR1)  # it writes where it is
            select.select([descriptor], [], [], 1)
    finally:
        os.close(descriptor)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it was alone in its group, and has ended
        os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), hung


def _taken(path: Path) -> bytes:
    content = path.read_bytes()
    path.unlink()
    return content


def new_process(world: Path, command: Command, proxy: Mapping[str, str]) -> Ran:
    """Run a command in a new Python process, as a user's shell does."""
    variables = {**os.environ, **environment(world, command, proxy), "PYTHONPATH": str(PROJECT)}
    variables.pop("HF_HUB_OFFLINE", None)
    script = "from curate.cli.main import main; main()"
    began = time.monotonic()
    try:
        ended = subprocess.run(
            [sys.executable, "-c", script, *command.args],
            cwd=world,
            env=variables,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired as late:
        return Ran(-signal.SIGKILL, late.stdout or b"", late.stderr or b"", time.monotonic() - began, hung=True)
    return Ran(ended.returncode, ended.stdout, ended.stderr, time.monotonic() - began)
