"""Starts commands by forking: what takes ten seconds to import is imported once, and each is a process of its own.

A line of JSON on stdin starts one: arguments of `curate`, folder, files for stdout and stderr, and a fault. Lines on
stdout say `{"started": number, "pid": ...}` and `{"ended": number, "code": ...}`, a negative code for a signal.
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

from .injection import Fault, arm

IMPORTED = ("torch", "transformers", "peft", "accelerate", "datasets", "duckdb", "pyarrow.parquet", "sklearn.metrics")
IMPORTED += ("safetensors.torch", "pydantic", "curate.cli.main", "curate.store.catalog.query", "curate.training.run")
IMPORTED += ("curate.training.gradients.features", "curate.stages.train", "curate.stages.compare", "sklearn.cluster")


def serve() -> None:
    """Until stdin ends. Only the children leave by an exception."""
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
    _say({"ready": True})
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


def _say(what: dict[str, Any]) -> None:
    os.write(1, (json.dumps(what) + "\n").encode())


def _start(request: dict[str, Any], running: dict[int, int]) -> None:
    if (pid := os.fork()) == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _become(request)
    running[pid] = request["number"]
    _say({"started": request["number"], "pid": pid})


def _become(request: dict[str, Any]) -> None:
    """The command, in this process: it never comes back."""
    os.setpgid(0, 0)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    err = os.open(request["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if request["closed"]:  # whoever was to read it has gone
        reader, out = os.pipe()
        os.close(reader)
    for place, file in enumerate((nothing, out, err)):
        os.dup2(file, place)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    if request["fault"]:
        arm(Fault(**request["fault"]))
    _leave(_run(request["args"]))


def _run(args: list[str]) -> int:
    """The command's exit code; what it did not catch goes to stderr, as Python puts it there."""
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
    """End as Python does, but for tidying up its memory, which takes seconds with all that is imported."""
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
        _say({"ended": running.pop(pid), "code": os.waitstatus_to_exitcode(status)})


if __name__ == "__main__":
    serve()
