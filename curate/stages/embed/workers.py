"""The pass of `curate embed` over a pool, with the worker that its config asks for."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ...executors.work import Worker
from .before import Before
from .earlier import Earlier
from .measuring import Measurer, Measuring


@dataclass(frozen=True)
class Embedding(Measuring):
    """The pass that measures a pool, as tasks of one shard each."""

    def open(self) -> Worker[int]:
        """Load the model on the current device, while the first process of a launch writes the lists."""
        worker = self._load()
        while not all(path.exists() for path in self.lists):
            time.sleep(0.1)
        worker.earlier = Earlier.read(self.known, self.earlier)
        worker.before = Before(self.losses_before) if self.config.before else None
        return worker

    def _load(self) -> Measurer:
        if self.config.encoder is not None:
            from .encoding import TextEncoder

            return TextEncoder(self)
        from .embedder import Embedder

        return Embedder(self)
