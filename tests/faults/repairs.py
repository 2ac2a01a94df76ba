"""The requirements of every case: a command that fails prints one clear error, and a rerun makes the same result."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from .commands import Running
from .stages import Harness, assert_no_orphans

T = TypeVar("T")
NAMED = re.compile(r"^Error: ", re.MULTILINE)

FaultTest = Callable[[Harness, str, int | None, random.Random], str]
"""(harness, stage, largest number of points, rng) -> outcome in a few words."""


def assert_clear_error(running: Running) -> None:
    """Raise unless a command has ended with code 1 and exactly one error message, without a traceback."""
    assert running.code == 1, f"ended with {running.code}: {running.err}"
    assert "Traceback" not in running.err, running.err
    assert len(NAMED.findall(running.err)) == 1, running.err


def rerun_and_check(harness: Harness, stage: str, folder: Path, *, gc_first: bool) -> None:
    """Check after a fault that there are no orphans and that the same command makes the same result.

    Args:
        harness: the harness of the case.
        stage: the stage of the command.
        folder: the folder of the case. It is removed if the case passes.
        gc_first: run `curate gc` before the command.
    """
    assert_no_orphans(folder)
    if gc_first:
        harness.assert_clean(folder)
    harness.assert_same_result(stage, folder, harness.run(stage, folder))
    harness.assert_clean(folder)
    drop(folder)


def some(points: Iterable[T], most: int | None, rng: random.Random) -> list[T]:
    """Return at most `most` randomly drawn points in their order, or all points if `most` is None."""
    found = list(points)
    if most is None or len(found) <= most:
        return found
    return [found[index] for index in sorted(rng.sample(range(len(found)), most))]


def drop(folder: Path) -> None:
    """Remove the folder of a case that passed."""
    shutil.rmtree(folder)


def count_points(points: list[int]) -> str:
    """Return the number of points in words."""
    return f"{len(points)} points"
