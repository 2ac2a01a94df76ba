"""A run that goes on while a test looks at it: a stand-in for training that writes with the real ledger."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from curate.stages.pools import pool_samples
from curate.store import Artifact, Draft, Store
from curate.store.ledger.ledger import Ledger
from curate.store.ledger.live_metrics import LiveMetrics
from tests.support.exports import RunConfig

CANDIDATES, KEPT = 8, 3


class LiveRun:
    """An unfinished run over `pool`, which this process makes. `write` adds steps to it, as `curate train` would.

    Args:
        store: the store of the pool.
        name: name of the run.
        losses: step -> a loss that its kept samples have in place of a random one.
        config: further fields of its config.
    """

    def __init__(self, store: Store, name: str = "live", losses: Mapping[int, float] | None = None, **config: Any):
        self.store = store
        self.losses = dict(losses or {})
        self.step = 0
        self.rows: list[dict[str, Any]] = []
        self.metrics: list[tuple[int, str, float]] = [(0, "total_steps", 40.0)]
        pool = store.get("pool")
        self._ids = [sample.sample_id for _, sample in pool_samples(pool)]
        settings = RunConfig(name=name, pool="pool", model="me/tiny", **config)
        self._entered: AbstractContextManager[Draft] = store.draft("train", settings, {"pool": pool.fingerprint})
        self.draft = self._entered.__enter__()
        self.ledger = Ledger(self.draft.path, self.draft.fingerprint, store.catalog, every=0)
        self.live = LiveMetrics(self.draft, every=0)

    @property
    def artifact(self) -> Artifact:
        """The run as its folder describes it."""
        return Artifact.read(self.draft.path / "draft.json")

    def write(self, steps: int = 1, after: Callable[[int], None] = lambda step: None) -> LiveRun:
        """Write steps, and the metrics of a training that logs each of them, and wait until they are on disk."""
        for _ in range(steps):
            self.step += 1
            self.ledger.append(self.step, self._columns())
            self.metrics += [(self.step, "loss", 3 - self.step / 50), (self.step, "step_seconds", 0.25)]
            if self.step % 5 == 0:
                self.metrics.append((self.step, "eval_loss", 4 - self.step / 40))
            after(self.step)
        parts = [(self.step, "seconds_training", self.step * 0.2), (self.step, "seconds_scoring", self.step * 0.1)]
        self.live.write([*self.metrics, *parts])
        self.live.close()
        self.ledger._write()
        self.ledger._writer.drain()
        return self

    def checkpoint(self) -> None:
        """Commit all steps so far, which merges them into the catalogue."""
        self.ledger.commit(self.step)

    def rewind(self, step: int) -> None:
        """Go back to a step, as a run that resumes from its checkpoint does."""
        self.ledger.rewind(step)
        self.step = step
        self.rows = [row for row in self.rows if row["step"] <= step]
        self.metrics = [row for row in self.metrics if row[0] <= step]

    def end(self) -> None:
        """Finish the run."""
        self.live.close()
        self.ledger.close_fragment()
        self.draft.rows = self.step * KEPT
        self._entered.__exit__(None, None, None)

    def stop(self) -> None:
        """Leave the run unfinished, as an error or a kill does."""
        self.live.close()
        self.ledger.close_fragment()
        self._entered.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    def _columns(self) -> dict[str, Any]:
        """Return the candidates of a step. They depend on the step alone, as those of a resumed run do."""
        chance = random.Random(self.step)
        numbers = chance.sample(range(len(self._ids)), CANDIDATES)
        scores = [chance.gauss(10, 3) for _ in numbers]
        best = sorted(range(CANDIDATES), key=lambda n: -scores[n])[:KEPT]
        kept = [n in best for n in range(CANDIDATES)]
        losses = [self.losses.get(self.step, chance.uniform(1.9, 2.1)) if k else chance.uniform(1, 3) for k in kept]
        parts = {"utility": [chance.gauss(0, 1) for _ in numbers], "diversity": [chance.random() for _ in numbers]}
        tokens = [5 + n % 11 for n in numbers]
        targets = [1 + n % 3 for n in numbers]
        self.rows += [
            {"step": self.step, "n": n, "kept": k, "score": s, "loss": loss, "tokens": t, "target_tokens": g}
            for n, k, s, loss, t, g in zip(numbers, kept, scores, losses, tokens, targets, strict=True)
        ]
        return {
            "sample_id": [self._ids[n] for n in numbers],
            "position": np.array(numbers),
            "kept": np.array(kept),
            "score": np.array(scores),
            "weight": None,
            "loss": np.array(losses),
            "tokens": np.array(tokens),
            "target_tokens": np.array(targets),
            "parts": {name: np.array(values) for name, values in parts.items()},
        }
