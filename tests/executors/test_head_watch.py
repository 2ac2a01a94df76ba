"""A command that needs a Ray cluster ends with a sentence when the cluster's head has ended."""

from __future__ import annotations

import socket
import subprocess
import sys

from curate.executors.head_watch import HeadWatch

WATCH = """
import sys, time
from curate.executors import head_watch

head_watch.INTERVAL = 0.05
with head_watch.HeadWatch({sys.argv[1]: ("head", 0.2)}):
    print("ready", flush=True)
    sys.stdin.read()
print("done")
"""


def test_a_head_that_ends_ends_the_command_with_a_sentence() -> None:
    head = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{head.getsockname()[1]}"
    command = [sys.executable, "-c", WATCH, address]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        head.close()
        assert process.stderr.read() == (
            f"Error: Ray's head at {address} has ended or cannot be reached, so this command ends. Finished tasks are "
            "kept: run the same command again to resume. If RAY_ADDRESS is set, start that cluster again first.\n"
        )
        assert process.wait(60) == 1


def test_a_head_that_answers_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as head:
        head.settimeout(60)
        with HeadWatch({f"127.0.0.1:{head.getsockname()[1]}": ("head", 0.0)}):
            for _ in range(2):
                head.accept()[0].close()
