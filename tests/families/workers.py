"""Run each family in a process of its own, so that a crash or an endless loop is one line of the table."""

from __future__ import annotations

import multiprocessing as mp
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from .cells import Cell, row_of

SECONDS = 900.0
"""Longest time of a family. A tiny model takes a few seconds on an idle machine."""


@dataclass
class Row:
    """A family's line.

    Attributes:
        family: name of the family.
        cells: column -> outcome.
        seconds: time that it took.
    """

    family: str
    cells: dict[str, Cell]
    seconds: float


@dataclass
class _Running:
    family: str
    process: Any
    results: Connection
    began: float = field(default_factory=time.monotonic)


def rows(families: Sequence[str], jobs: int, *, seconds: float = SECONDS) -> Iterator[Row]:
    """Yield the families' lines as they are ready. `jobs` families run at a time."""
    preload()
    waiting, running = list(families), list[_Running]()
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(_start(waiting.pop(0)))
        wait([r.results for r in running], timeout=1.0)
        for one in list(running):
            if one.results.poll() or not one.process.is_alive() or time.monotonic() - one.began > seconds:
                running.remove(one)
                yield _end(one, seconds)


def preload() -> None:
    """Import what all families need, before processes are forked."""
    import transformers
    import transformers.generation
    import transformers.models.bert.modeling_bert
    import transformers.models.gpt2.modeling_gpt2
    import transformers.models.mixtral.modeling_mixtral
    import transformers.models.qwen3_next.modeling_qwen3_next

    transformers.logging.set_verbosity_error()


def _start(family: str) -> _Running:
    context = mp.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(family, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Running(family, process, ours)


def _work(family: str, results: Connection) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        results.send(row_of(family))
    except BaseException:
        results.send({"process": Cell("traceback", None, traceback.format_exc(limit=-2))})


def _end(one: _Running, seconds: float) -> Row:
    spent = time.monotonic() - one.began
    try:
        cells = one.results.recv() if one.results.poll() else None
    except EOFError:
        cells = None
    if cells is None:
        late = spent > seconds
        one.process.kill()
        one.process.join()
        text = f"took more than {seconds:.0f} s" if late else f"the process ended with {one.process.exitcode}"
        cells = {"process": Cell("traceback", None, text)}
    one.process.join()
    return Row(one.family, cells, spent)
