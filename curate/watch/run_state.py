"""The state of a run in words, and when a program that follows it should end."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..report.found_runs import State
from ..runtime.terminal import command, resume_command
from .follower import RunFollower

STOPPED_LOOKS = 3
"""Number of looks in a row at which a run has stopped before this is believed."""
SILENCE = 600.0
"""Seconds without a record after which a run on another machine, whose lock cannot be seen, counts as stopped."""


@dataclass(frozen=True)
class End:
    """The end of a watch: the exit code, and the reason as a sentence."""

    code: int
    sentence: str


class RunState:
    """Knowledge of a run: whether a process makes it, and since when it is silent.

    Args:
        follower: the records of the run.
    """

    def __init__(self, follower: RunFollower) -> None:
        self.follower = follower
        self.state: State = follower.state()
        self._looks = STOPPED_LOOKS  # a run that has stopped before the first look has stopped
        self._step, self._heard = follower.step, time.monotonic() - min(follower.age(), SILENCE + 1)

    def look(self) -> State:
        """Look at the run again, and return its state."""
        found = self.follower.state()
        self._looks = self._looks + 1 if found == "stopped" else 0
        if self.follower.step != self._step:
            self._step, self._heard = self.follower.step, time.monotonic()
        silent = time.monotonic() - self._heard > SILENCE
        if found == "unseen" and silent:
            found = "stopped"
        elif found == "stopped" and self._looks < STOPPED_LOOKS:
            found = self.state
        self.state = found
        return found

    def sentence(self) -> str:
        """Return the state as a sentence."""
        run, step = self.follower.run, self.follower.step
        if self.state == "ended":
            return f"The run '{run.name}' has ended after {step:,} steps."
        if self.state == "stopped":
            return f"The run '{run.name}' stopped after step {step:,}, before its end."
        if not step:
            return f"The run '{run.name}' has not written its first step yet."
        total = self.follower.metrics.last("total_steps")
        unseen = " It is on another machine, so its end may not be noticed." if self.state == "unseen" else ""
        return f"The run '{run.name}' is at step {step:,}{f' of {total:,.0f}' if total else ''}.{unseen}"

    def end(self) -> End | None:
        """Return how a watch of the run ends; None while the run goes on."""
        run, store = self.follower.run, self.follower.store
        where = [] if str(store.root) == "store" else ["--store", str(store.root)]
        if self.state == "ended":
            return End(0, f"{self.sentence()} Its page is written by: {command('curate', 'report', run.name, *where)}")
        if self.state == "stopped":
            return End(1, f"{self.sentence()} Resume it with: {resume_command(self.follower.label, *where)}")
        return None
