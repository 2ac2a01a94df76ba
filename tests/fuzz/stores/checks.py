"""What must hold of a command on a received store; each check returns what is wrong, in words."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from curate.runtime.terminal import BOLD_UNDERLINED, CONTROL_CHARACTERS, PLAIN

from .commands import Command
from .running import PATIENCE, Ran
from .world import OUTSIDE, SECRET, WRITABLE

LAWFUL = re.compile(
    r"takes this permission from the command line only|changed since it was started|No unfinished artifact is named"
    r"|There is no model '"
)
"""Refusals of a store that is as curate may leave it: a permission is missing, an input was made again, a model that an
option names lies elsewhere."""
CONTENT = re.compile(
    r"/files/|/checkpoints/checkpoint-[^/]*/|^model/|/queries/|a question |\.parquet is spoilt and signed"
)
"""Files whose content, if its checksum fits, is checked by what loads it: models, checkpoints, the user's SQL, and the
pages of Parquet files, of which `curate verify` decodes the footers only."""
UNEXPECTED = "An error that curate did not expect"
CLASS = re.compile(r"\b(?:[A-Za-z_]\w*\.)*[A-Z][A-Za-z]*(?:Error|Exception|Warning)\b(?=[:('])")
"""The class of an exception, as Python prints it."""
SENTENCE = re.compile(r"(?m)^(?:Error: .*\S|Problems \(\d+\):\n +\S)")
"""How an error is told; `curate doctor` has a list of its own."""


def problems(command: Command, ran: Ran) -> Iterator[str]:
    """Yield what is wrong with the exit code and the output of a command."""
    if ran.hung:
        yield f"hang: it did not end in {PATIENCE:.0f} s"
        return
    if ran.code not in (0, 1):
        yield f"exit code: {ran.code}"
    err = ran.err.decode(errors="replace")
    if "Traceback (most recent call last)" in err:
        yield "traceback"
    elif UNEXPECTED in err:
        yield f"unexpected error: {re.sub(r'[0-9]+', 'N', err[err.index(UNEXPECTED) + 37 :])[:60]}"
    elif found := CLASS.search(err):
        yield f"class of an exception: {found[0]}"
    if ran.code == 1 and not SENTENCE.search(err + ran.out.decode(errors="replace")):
        yield "no sentence: it fails and does not say why"
    yield from _bytes("stderr", ran.err)
    if not DATA.intersection(command.args):
        yield from _bytes("stdout", ran.out)
    if SECRET.encode() in ran.out + ran.err:
        yield "secret: the output holds text of a file outside the store"


def _bytes(stream: str, content: bytes) -> Iterator[str]:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        yield f"bytes: {stream} is not UTF-8"
        return
    text = text.replace(BOLD_UNDERLINED, "").replace(PLAIN, "").replace("\r\n", "\n")
    if found := CONTROL_CHARACTERS.search(text):
        yield f"control character: {found[0]!r} on {stream}"


DATA = {"csv", "json", "parquet"}
"""Formats in which data goes to a file or program unchanged."""
OPENED = re.compile(
    r'\b(?:openat?|creat)\(.*?"(?P<path>(?:[^"\\]|\\.)*)", (?P<flags>[A-Z_|0-9a-zx]+).*\)\s+= \d+<(?P<real>.*)>'
)
WRITES = re.compile(r"O_WRONLY|O_RDWR|O_TRUNC|O_CREAT")
CHANGED = re.compile(
    r"\b(?P<call>unlink|rename|mkdir|rmdir|symlink|link|truncate|chmod|chown|mknod|utimensat|fchmodat)\w*"
    r"\((?P<args>.*)\)\s+= 0"
)
PATH = re.compile(r'(?:(?P<fd>AT_FDCWD|\d+)<(?P<at>[^>]*)>, )?"(?P<path>(?:[^"\\]|\\.)*)"')
CONNECTED = re.compile(
    r"\b(?:connect|sendto)\(.*(?P<family>AF_INET6?).*?(?P<host>inet_addr\(\"[^\"]*\"\)|inet_pton\([^)]*\))"
)
RUN = re.compile(r'\bexecve\("(?P<path>[^"]*)".*\)\s+= 0')
LOCAL = ("127.0.0.1", '"::1"', '"0.0.0.0"')
ELSEWHERE = ("/dev/", "/proc/self/", "/proc/thread-self", "/sys/", "/dev/shm/", "/tmp/torchinductor", "/memfd:")


def of_calls(calls: list[str], world: Path) -> Iterator[str]:
    """Yield what system calls do outside the store: writes, changes, readings, connections, programs.

    Args:
        calls: lines of strace, with the paths of file descriptors.
        world: the working folder of the command.
    """
    real = world.resolve()
    for line in calls:
        if (opened := OPENED.search(line)) is not None:
            path = opened["real"]
            if WRITES.search(opened["flags"]) and not _may_write(path, real):
                yield f"strace: it writes to {_short(path, real)}"
            elif path.startswith(f"{real / OUTSIDE}/"):
                yield f"strace: it reads {_short(path, real)}"
        elif (changed := CHANGED.search(line)) is not None:
            for named in PATH.finditer(changed["args"]):
                path = _joined(named["at"] or str(real), named["path"])
                if not _may_write(path, real) and not (changed["call"] == "symlink" and named["fd"] is None):
                    yield f"strace: {changed['call']} of {_short(path, real)}"
        elif (reached := CONNECTED.search(line)) is not None and not any(host in reached["host"] for host in LOCAL):
            yield f"strace: it connects to {reached['host']}"
        elif (program := RUN.search(line)) is not None and Path(program["path"]).resolve() not in PROGRAMS:
            yield f"strace: it runs {program['path']}"


PROGRAMS = {Path(sys.executable).resolve(), Path("/usr/bin/uname").resolve()}
"""Programs that commands run: Python, and what `platform.processor` of Python runs."""


def _may_write(path: str, world: Path) -> bool:
    """Return whether a command may write to a path: below the store and its outputs, and to devices."""
    inside = any(path == f"{world / name}" or path.startswith(f"{world / name}/") for name in WRITABLE)
    ours = any(path.startswith(f"{world.parent / world.name}.{end}") for end in ("out", "err"))
    beside = path.startswith(f"{world}/.") and any(f"/.{name}." in path for name in WRITABLE)
    elsewhere = path.startswith(ELSEWHERE) and not path.startswith(f"{world.parent}/")  # which may be in /dev/shm
    return inside or ours or beside or elsewhere or "__pycache__" in path


def _joined(at: str, path: str) -> str:
    parts: list[str] = []
    for part in (path if path.startswith("/") else f"{at}/{path}").split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def _short(path: str, world: Path) -> str:
    return path.removeprefix(f"{world}/")
