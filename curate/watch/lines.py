"""Print a run while it trains, one line a step, for a terminal, a pipe or a file.

A line is printed when the next step is known, because a held-out loss is logged after the step. If that takes long, the
line is printed without it, and the held-out loss follows on a line of its own.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator

from ..runtime.terminal import cell, say
from .follower import RunFollower, Step
from .run_state import End, RunState

EVERY = 1.0
"""Seconds between two looks at the run."""
FIRST = 10
"""Number of steps before the first look that are printed."""
PATIENCE = 5.0
"""Seconds that a line waits for what is logged after its step."""
SOURCES = 4
"""Largest number of sources on a line."""


class StepLines:
    """Make the lines of a run.

    Args:
        follower: the records of the run.
    """

    def __init__(self, follower: RunFollower) -> None:
        self.follower = follower
        self._waiting: deque[tuple[Step, float]] = deque()
        self._late: set[int] = set()
        self._begun = False

    def new(self, *, ended: bool = False) -> Iterator[str]:
        """Yield the lines that are due now; all that is left if the run has ended."""
        steps = [step for part in self.follower.poll(ended=ended) for step in part]
        now = time.monotonic()
        if not self._begun and steps:
            self._begun = True
            steps = steps[-FIRST:]
        self._waiting.extend((step, now) for step in steps)
        metrics = self.follower.metrics
        timed = metrics.rows.get("step_seconds")
        known = timed[-1][0] if timed else 0
        for late in sorted(self._late):
            if (loss := metrics.at("eval_loss", late)) is not None:
                self._late.discard(late)
                yield f"step {late}  held-out {loss:.4f}"
        while self._waiting:
            step, since = self._waiting[0]
            if not (ended or known > step.step or now - since > PATIENCE):
                return
            self._waiting.popleft()
            if metrics.at("eval_loss", step.step) is None and known <= step.step and not ended:
                self._late.add(step.step)
            yield self.line(step)

    def line(self, step: Step) -> str:
        """Return the line of a step."""
        metrics = self.follower.metrics
        logged = metrics.at("loss", step.step)
        loss = step.loss if step.loss is not None else logged
        seconds, held_out = (metrics.at(name, step.step) for name in ("step_seconds", "eval_loss"))
        parts = [
            f"step {step.step}",
            f"loss {'-' if loss is None else f'{loss:.4f}'}",
            f"kept {step.kept} of {step.offered}{_sources(step)}",
            f"{'-' if seconds is None else f'{seconds:.2f}'} s",
        ]
        return "  ".join([*parts, *([] if held_out is None else [f"held-out {held_out:.4f}"])])


def _sources(step: Step) -> str:
    """Return the kept samples by source in brackets; nothing if the pool has one source. Long names are cut."""
    if len(step.by_source) < 2 or not step.kept:
        return ""
    most = sorted(((name, count) for name, count in step.by_source.items() if count), key=lambda each: -each[1])
    shown = [f"{shortened(cell(name))} {count}" for name, count in most[:SOURCES]]
    rest = sum(count for _, count in most[SOURCES:])
    return f" ({', '.join([*shown, *([f'others {rest}'] if rest else [])])})"


def shortened(name: str) -> str:
    """Return a name with at most `LONGEST` characters."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def follow(follower: RunFollower, *, pause: Callable[[float], None] = time.sleep) -> End:
    """Print lines until the run has ended or stopped, and return which of them it was.

    Args:
        follower: the records of the run.
        pause: function that waits for some seconds.
    """
    state, lines = RunState(follower), StepLines(follower)
    while True:
        end = state.end()
        for line in lines.new(ended=end is not None):
            say(line)
        sys.stdout.flush()
        if end is not None:
            return state.end() or end
        pause(EVERY)
        state.look()


def newest(follower: RunFollower) -> list[str]:
    """Return the newest step of a run as a line, and its state as a sentence."""
    state, last = RunState(follower), None
    for part in follower.poll(ended=state.end() is not None):
        last = part[-1]
    lines = StepLines(follower)
    return [*([] if last is None else [lines.line(last)]), state.sentence()]


LONGEST = 24
"""Characters of a source's name."""
