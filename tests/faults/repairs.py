"""What is asked of every case: one clear sentence where a command refuses, and the same result in the end."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from .commands import Running
from .stages import Workshop, must_have_no_orphans

T = TypeVar("T")
NAMED = re.compile(r"^Error: ", re.MULTILINE)

Break = Callable[[Workshop, str, int | None, random.Random], str]
"""(workshop, stage, how many points at most, chance) -> the outcome in few words."""


def must_be_clear(running: Running) -> None:
    """Raise unless a command has ended with one sentence of its own."""
    assert running.code == 1, f"ended with {running.code}: {running.err}"
    assert "Traceback" not in running.err, running.err
    assert len(NAMED.findall(running.err)) == 1, running.err


def mend(shop: Workshop, stage: str, folder: Path, *, gc_first: bool) -> None:
    """After a fault: no orphans, and the same command makes what it should; with the leftovers or without."""
    must_have_no_orphans(folder)
    if gc_first:
        shop.must_be_clean(folder)
    shop.must_be_as_ever(stage, folder, shop.run(stage, folder))
    shop.must_be_clean(folder)
    drop(folder)


def some(points: Iterable[T], most: int | None, chance: random.Random) -> list[T]:
    """Some of them, in their order; all where `most` is None."""
    found = list(points)
    if most is None or len(found) <= most:
        return found
    return [found[place] for place in sorted(chance.sample(range(len(found)), most))]


def drop(folder: Path) -> None:
    """A case that went well is not kept."""
    shutil.rmtree(folder)


def counted(points: list[int]) -> str:
    """How many points."""
    return f"{len(points)} points"
