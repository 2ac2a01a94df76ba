"""Tests of metrics of a run that trains: they are in the store before the run ends, and the end replaces them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate import Artifact, Store, make
from curate.report.found_runs import find_run
from curate.store.ledger import live_metrics as module
from curate.store.ledger.live_metrics import LiveMetrics
from curate.training.step import BatchSelection
from curate.watch.follower import RunFollower
from tests.support.training import interrupted_at, rows

OPTIONS: dict[str, Any] = {"candidates": 8, "keep": 4, "max_steps": 6, "max_length": 64, "save_steps": 2}
OPTIONS |= {"logging_steps": 1, "eval_steps": 2, "selector": "max_loss"}
NAMES = "SELECT metric, count(*) AS n FROM metrics WHERE run = 'run' GROUP BY metric"


@pytest.fixture
def pool(store: Store, pool_file: Path) -> Artifact:
    return make(store, "ingest", name="pool", data=[str(pool_file)])


def counts(store: Store) -> dict[str, int]:
    return {row["metric"]: row["n"] for row in rows(store, NAMES)}


def test_a_real_run_is_followed_while_it_trains_and_its_end_has_each_step_once(
    store: Store, pool: Artifact, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped at step 4 and resumed; in between and in the middle the follower reads it."""
    monkeypatch.setattr(LiveMetrics.__init__, "__kwdefaults__", {"every": 0.0})
    monkeypatch.setattr(module, "PAUSES", 0)
    given = {"name": "run", "pool": "pool", "model": tiny, "eval_pool": "pool", **OPTIONS}
    with interrupted_at(4):
        make(store, "train", **given)
    found = counts(store)
    assert found["loss"] >= 2 and found["step_seconds"] == 3 and found["total_steps"] == 1
    assert found["seconds_training"] == 1, "a later write replaces an earlier one"
    stopped = find_run(store, "run")
    follower = RunFollower(store, stopped)
    assert [step.step for part in follower.poll() for step in part][:2] == [1, 2], "those of the checkpoint"
    seen: list[tuple[int, int, set[str]]] = []
    select: Callable[..., Any] = BatchSelection.select

    def look(self: BatchSelection, batch: Any) -> Any:
        if batch.step == 6:
            list(follower.poll())
            seen.append((follower.step, len(follower.metrics.rows["step_seconds"]), set(follower.metrics.rows)))
        return select(self, batch)

    monkeypatch.setattr(BatchSelection, "select", look)
    make(store, "train", **given)
    ((step, timed, names),) = seen
    assert step >= 4 and 2 <= timed <= 5 and {"loss", "eval_loss", "seconds_training"} <= names
    assert follower.state() == "ended"
    list(follower.poll(ended=True))
    assert follower.step == 6
    final = counts(store)
    assert final["loss"] == final["step_seconds"] == 6 and final["eval_loss"] == 4 and "total_steps" not in final
    assert follower.curves.curve("kept")["value"] == [0.5] * 6  # type: ignore[index]
    assert {len(values) for values in (follower.metrics.rows["loss"], follower.metrics.rows["step_seconds"])} == {6}


def test_writes_are_far_apart_if_they_are_slow(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.toy_store import Toy

    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module, "_write", lambda path, rows: clock.__setitem__(0, clock[0] + 0.5))
    with store.draft("ingest", Toy(name="toy")) as draft:
        live = LiveMetrics(draft)
        assert live.is_due()
        live.write([(1, "loss", 2.0)])
        live.close()
        clock[0] += 40
        assert not live.is_due(), "a write of half a second is followed by 50 seconds"
        clock[0] += 11
        assert live.is_due()


def test_a_failed_write_is_the_error_of_the_next_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.toy_store import Toy

    def full(path: Path, rows: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    with store.draft("ingest", Toy(name="toy")) as draft:
        live = LiveMetrics(draft, every=0)
        live.write([(1, "loss", 2.0)])
        with pytest.raises(OSError, match="No space left"):
            live.close()
