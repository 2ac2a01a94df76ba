"""Make the artifacts of advice one after the other, and keep how long each took."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from ...log import LOGGER, bar
from ...store import Artifact, Store
from ...store.artifacts.files import read_json, write_json
from .. import run_stage
from ..compare.plan import Task

SECONDS_FILE = "seconds.json"


@dataclass
class Artifacts:
    """Makes artifacts, or finds them.

    Attributes:
        store: the store.
        folder: folder of the advice's draft. A file in it has the seconds that each artifact took, so that a stopped
            race counts what it spent before.
        made: name -> artifact.
        seconds: name -> seconds that it took here; of an artifact that was found, the seconds that it recorded.
    """

    store: Store
    folder: Path
    made: dict[str, Artifact] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.progress = bar(total=None, label="advise", unit="artifact")
        self.known = {artifact.fingerprint for artifact in self.store.artifacts()}
        path = self.folder / SECONDS_FILE
        if path.exists():
            self.seconds = {str(name): float(spent) for name, spent in read_json(path).items()}

    def expect(self, count: int) -> None:
        """Show in the progress bar how many artifacts there will be."""
        self.progress.total = max(count, self.progress.n)
        self.progress.refresh()

    def make(self, name: str, task: Task) -> Artifact:
        """Make the artifact of a task, or find it."""
        if name in self.made:
            return self.made[name]
        start = time.monotonic()
        artifact = run_stage(self.store, task.stage, task.config)
        spent = time.monotonic() - start
        fresh = artifact.fingerprint not in self.known
        self.known.add(artifact.fingerprint)
        if fresh:
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
            write_json(self.folder / SECONDS_FILE, self.seconds)
        elif name not in self.seconds:
            self.seconds[name] = recorded_seconds(artifact)
        LOGGER.info(f"{task.stage} {name} ... {f'made in {spent:.1f} s' if fresh else 'found'}")
        self.progress.update()
        self.made[name] = artifact
        return artifact

    def close(self) -> None:
        """End the progress bar."""
        self.progress.close()

    def overhead(self, name: str) -> float:
        """Return the seconds that an artifact took in addition to those that it recorded: loading and reading."""
        return max(0.0, self.seconds[name] - recorded_seconds(self.made[name]))


def recorded_seconds(artifact: Artifact) -> float:
    """Return the seconds that an artifact recorded, in all parts."""
    parts = artifact.summary.get("seconds")
    if not isinstance(parts, dict):
        return 0.0
    return sum(float(spent) for spent in parts.values() if isinstance(spent, (int, float)))
