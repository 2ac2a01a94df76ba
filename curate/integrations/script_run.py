"""The run of a user's script in the store: a ledger while the script runs, an artifact once it has ended.

The user's loop calls `begin`, `append`, `commit` and `end`. A script that is started again makes another run, which
takes the name. A script that resumes from a checkpoint continues the run of that checkpoint.
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
from ..store import POOLS, SCRIPT, Draft, Store
from ..store.ledger.ledger import Ledger
from ..training.recorder import memory_table
from .row_ids import PoolPositions


class ExternalRunConfig(Config):
    """Config of a run of a user's script, as far as it is known."""

    pool: Ref | None = Field(None, description="Name of the pool that it trains on.")
    run: str = Field(description="Name of the run when it began.")
    selector: str = Field(description="Name of the selector.")
    selector_args: dict[str, Any] = Field({}, description="Arguments of the selector.")
    keep: int = Field(description="Number of samples that each process keeps of a step.")
    candidates: int | None = Field(None, description="Number of candidates of each process in a step, if it is known.")
    max_length: int = Field(description="Maximum number of tokens of a text.")
    seed: int = Field(description="Seed of the selector.")
    attempt: int = Field(1, description="Number of this run among the runs with the same name and options.")


class ExternalRun:
    """The run of a user's loop.

    Args:
        store: the store, or its folder.
        values: fields of `ExternalRunConfig`, without the attempt.

    Attributes:
        pool: artifact of the pool that the run names, or None.
        positions: positions of the samples in that pool, or None.
        attempt: number of this run among the runs with the same name and options; None before it began.

    Raises:
        ArtifactNotFound: the store has no such pool.
        ConfigError: a value is not valid.
    """

    def __init__(self, store: Store | str | Path, values: Mapping[str, Any]) -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self.values = {**values, "run": values["name"]}
        build(ExternalRunConfig, self.values)
        pool = self.values.get("pool")
        self.pool = None if pool is None else self.store.get(pool, *POOLS)
        self.positions = None if self.pool is None else PoolPositions(self.pool)
        self.attempt: int | None = None
        self._open = ExitStack()
        self._draft: Draft | None = None
        self._ledger: Ledger | None = None

    @property
    def inputs(self) -> dict[str, str]:
        """Fingerprints of the artifacts that the run was made from, as far as they are known."""
        return {} if self.pool is None else {"pool": self.pool.fingerprint}

    def begin(self, step: int) -> None:
        """Open the run after `step` steps, and drop later steps from its ledger.

        A resumed run is the one of its checkpoint (`attempt`). If that run has ended, a new one begins at this step.
        """
        config = self._config(step)
        self.attempt = config.attempt
        self._draft = self._open.enter_context(self.store.draft(SCRIPT, config, self.inputs))
        self._ledger = Ledger.of(self._draft)
        self._ledger.rewind(step)

    def append(self, step: int, columns: Mapping[str, Any]) -> None:
        """Append the candidates of a step to the ledger."""
        assert self._ledger is not None
        self._ledger.append(step, columns)

    def commit(self, step: int) -> None:
        """Commit the ledger up to `step`, because a checkpoint contains this step. All processes must call it."""
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
        """Finish the run and make it an artifact. All processes must call it.

        Args:
            rows: number of kept samples of all processes, with repeats.
            summary: values that `curate status` and the artifact show.
            metrics: logged values, (step, name, value) each, for the table `metrics`.
            memory: memory of this process's selector, for the table `memory`.
        """
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
        """Read position -> sample id of all samples that a process has kept, also before a resume, from the ledger."""
        assert self._draft is not None
        label = self.store.display_names()[self._draft.fingerprint]
        sql = 'SELECT DISTINCT position, sample_id FROM ledger WHERE run = $run AND "rank" = $rank AND kept'
        kept = self.store.query(sql, {"run": label, "rank": rank})
        return dict(zip(kept["position"].to_pylist(), kept["sample_id"].to_pylist(), strict=True))

    def fail(self, error: BaseException) -> None:
        """Write the ledger up to this step and leave the run unfinished, after an error has stopped the script."""
        if self._ledger is not None:
            self._ledger.close_fragment()
        self._draft = self._ledger = None
        try:
            self._open.__exit__(type(error), error, error.__traceback__)
        finally:
            self._open = ExitStack()

    def _config(self, step: int) -> ExternalRunConfig:
        """Return the config of the first attempt that is not finished; a stopped one starts again or resumes."""
        for attempt in itertools.count(self.attempt or 1):
            config = build(ExternalRunConfig, {**self.values, "attempt": attempt})
            if not self.store.is_made(SCRIPT, config, self.inputs):
                break
        if self.attempt not in (None, config.attempt):
            LOGGER.warning(
                f"The run '{config.name}' of this checkpoint has ended. From step {step + 1} on this is a new run with "
                f"that name; the old run keeps its ledger under {config.name}@..., see curate status."
            )
        return config


def wait_for_all() -> None:
    """Wait until every process has written its part."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
