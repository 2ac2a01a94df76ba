"""A server that starts commands by forking, so that the slow imports (ten seconds) happen once.

A line of JSON on stdin starts a command: arguments of `curate`, folder, files for stdout and stderr, and a fault. Lines
on stdout report `{"started": number, "pid": ...}` and `{"ended": number, "code": ...}`. The code is negative for a
signal.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import resource
import select
import signal
import sys
import threading
import traceback
from importlib import import_module
from typing import Any

from .injection import PATCH, Fault, arm

IMPORTED = ("torch", "transformers", "peft", "accelerate", "datasets", "duckdb", "pyarrow.parquet", "sklearn.metrics")
IMPORTED += ("safetensors.torch", "pydantic", "curate.cli.main", "curate.store.catalog.query", "curate.training.run")
IMPORTED += ("curate.training.gradients.features", "curate.stages.train", "curate.stages.compare", "sklearn.cluster")


def serve() -> None:
    """Serve until stdin ends. Only child processes leave by an exception."""
    for name in IMPORTED:
        import_module(name)
    with contextlib.suppress(ImportError):
        import_module("faiss")
    gc.collect()
    gc.freeze()
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    running: dict[int, int] = {}
    _report({"ready": True})
    waiting = b""
    while True:
        ready, _, _ = select.select([0, awake], [], [])
        if awake in ready:
            os.read(awake, 4096)
            _reap(running)
        if 0 in ready:
            if not (more := os.read(0, 65536)):
                return
            *lines, waiting = (waiting + more).split(b"\n")
            for line in lines:
                _start(json.loads(line), running)


def _report(message: dict[str, Any]) -> None:
    os.write(1, (json.dumps(message) + "\n").encode())


def _start(request: dict[str, Any], running: dict[int, int]) -> None:
    if (pid := os.fork()) == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _become(request)
    running[pid] = request["number"]
    _report({"started": request["number"], "pid": pid})


def _become(request: dict[str, Any]) -> None:
    """Run the command in this process. This function never returns."""
    os.setpgid(0, 0)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    err = os.open(request["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if request["closed"]:  # close the reader of stdout
        reader, out = os.pipe()
        os.close(reader)
    for number, file in enumerate((nothing, out, err)):
        os.dup2(file, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if patch := request["environment"].get(PATCH):
        with open(patch, encoding="utf-8") as file:
            exec(compile(file.read(), patch, "exec"), {"__name__": "patch"})
    if request["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    if request["fault"]:
        arm(Fault(**request["fault"]))
    _leave(_run(request["args"]))


def _run(args: list[str]) -> int:
    """Run the command and return its exit code. An uncaught exception goes to stderr, as in Python."""
    from curate.cli.main import main

    try:
        sys.argv = ["curate", *args]
        main()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


def _leave(code: int) -> None:
    """End the process as Python does, but without freeing its memory, which takes seconds after these imports."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


def _reap(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        _report({"ended": running.pop(pid), "code": os.waitstatus_to_exitcode(status)})


if __name__ == "__main__":
    serve()
