"""A run of somebody else's loop, as the store has it: its ledger while it goes, an artifact once it has ended.

The loop is not ours to call, so a run is begun and ended. Every run counts: a script that is started again makes
another run, which takes the name, unless it resumes from a checkpoint; then it goes on with the one that it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch.distributed as dist
from pydantic import Field

from ..config import Config, Ref, build
from ..log import LOGGER
from ..selectors.memory import Memory
from ..store import SCRIPT, Draft, Store
from ..store.ledger.ledger import Ledger
from ..training.recorder import memory_table
from .row_ids import PoolPositions


class ExternalRunConfig(Config):
    """What is known of a run in somebody else's loop."""

    pool: Ref | None = Field(None, description="What it trains on, as named at ingest.")
    run: str = Field(description="The name that it was begun under.")
    selector: str = Field(description="What chose.")
    selector_args: dict[str, Any] = Field({}, description="The selector's own.")
    keep: int = Field(description="Kept of a step, by each process.")
    candidates: int | None = Field(None, description="Candidates of a step, of each process, where that is known.")
    max_length: int = Field(description="Tokens of the longest text.")
    seed: int = Field(description="Of the selector.")
    attempt: int = Field(1, description="Which run of this name and choice it is.")


class ExternalRun:
    """The run that a loop is.

    Args:
        store: or its folder.
        values: of `ScriptConfig`, without the attempt.

    Raises:
        ArtifactNotFound: there is no such pool.
    """

    def __init__(self, store: Store | str | Path, values: Mapping[str, Any]) -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self.values = {**values, "run": values["name"]}
        build(ExternalRunConfig, self.values)
        pool = self.values.get("pool")
        self.pool = None if pool is None else self.store.get(pool, "ingest")
        self.places = None if self.pool is None else PoolPositions(self.pool)
        self.attempt: int | None = None
        self._open = ExitStack()
        self._draft: Draft | None = None
        self._ledger: Ledger | None = None

    @property
    def inputs(self) -> dict[str, str]:
        """What it was made from, as far as that is known."""
        return {} if self.pool is None else {"pool": self.pool.fingerprint}

    def begin(self, step: int) -> None:
        """Open it after `step` steps: what the ledger has of later ones is dropped.

        A run that goes on is the one of its checkpoint (`attempt`); if that has ended, a new one that begins there.
        """
        config = self._config(step)
        self.attempt = config.attempt
        self._draft = self._open.enter_context(self.store.draft(SCRIPT, config, self.inputs))
        self._ledger = Ledger.of(self._draft)
        self._ledger.rewind(step)

    def append(self, step: int, columns: Mapping[str, Any]) -> None:
        """Write down the candidates of a step."""
        assert self._ledger is not None
        self._ledger.append(step, columns)

    def commit(self, step: int) -> None:
        """Everything up to `step` is final: a checkpoint holds it."""
        if self._ledger is not None:
            self._ledger.close_fragment()
            wait_for_all()
            self._ledger.commit(step)

    def end(
        self,
        rows: int,
        summary: Mapping[str, Any],
        metrics: Iterable[tuple[int, str, float]] = (),
        memory: Memory | None = None,
    ) -> None:
        """It is done: an artifact, with these facts."""
        if self._draft is None or self._ledger is None:
            return
        self._ledger.close_fragment()
        if memory is not None:
            rank = self._draft.rank
            self._draft.add("memory", memory_table(memory, self._ids_of_kept(rank), rank), key=f"r{rank}")
        logged = list(metrics)
        if logged and not self._draft.rank:
            steps, names, values = zip(*logged, strict=True)
            self._draft.add(
                "metrics", pa.table({"step": pa.array(steps, pa.int64()), "metric": names, "value": values})
            )
        self._draft.rows, self._draft.summary = rows, dict(summary)
        wait_for_all()
        self._draft = self._ledger = None
        self._open.close()

    def _ids_of_kept(self, rank: int) -> dict[int, str]:
        """Position -> sample id of what a process has kept; also before it was resumed, which the ledger knows."""
        assert self._draft is not None
        label = self.store.display_names()[self._draft.fingerprint]
        sql = 'SELECT DISTINCT position, sample_id FROM ledger WHERE run = $run AND "rank" = $rank AND kept'
        kept = self.store.query(sql, {"run": label, "rank": rank})
        return dict(zip(kept["position"].to_pylist(), kept["sample_id"].to_pylist(), strict=True))

    def fail(self, error: BaseException) -> None:
        """It was stopped: what is written stays, unfinished."""
        if self._ledger is not None:
            self._ledger.close_fragment()
        self._draft = self._ledger = None
        try:
            self._open.__exit__(type(error), error, error.__traceback__)
        finally:
            self._open = ExitStack()

    def _config(self, step: int) -> ExternalRunConfig:
        """The first attempt that is not finished; a stopped one that is not gone on with is begun anew."""
        for attempt in itertools.count(self.attempt or 1):
            config = build(ExternalRunConfig, {**self.values, "attempt": attempt})
            if not self.store.is_made(SCRIPT, config, self.inputs):
                break
        if self.attempt not in (None, config.attempt):
            LOGGER.warning(
                f"The run '{config.name}' of this checkpoint has ended: from step {step + 1} on it is a new run of "
                f"that name, and the old one keeps its ledger under {config.name}@..., see curate status."
            )
        return config


def wait_for_all() -> None:
    """Until every process has written its part."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
