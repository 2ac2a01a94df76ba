"""Runs that follow a curriculum: in its order, round by round, by its weights; and resumed as if never stopped."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from curate import Artifact, make
from curate.errors import ArtifactNotFound, ConfigError, DataError
from curate.stages.train.matched_lengths import rounds_of
from curate.store import Store
from tests.support.fake_runs import N, Row, curriculum, ids_of, listed, query_file, store_of
from tests.support.training import interrupted_at
from tests.training.test_distributed import launch


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_of(tmp_path_factory.mktemp("past"))


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store(shutil.copytree(made, tmp_path / "store"))


SMALL = {"candidates": 4, "keep": 2, "max_length": 64, "save_steps": 2, "learning_rate": 3e-3, "logging_steps": 50}


def train(store: Store, tiny: str, name: str = "run", **values: Any) -> Artifact:
    return make(store, "train", name=name, pool="pool", model=tiny, **{**SMALL, **values})


def offered(store: Store, run: str) -> list[str]:
    """The stream of candidates, as the ledger has it."""
    found = store.query("SELECT sample_id FROM ledger WHERE run = $run ORDER BY step, slot", {"run": run})
    names: list[str] = found["sample_id"].to_pylist()
    return names


def weights_of(run: Artifact) -> dict[str, torch.Tensor]:
    return load_file(next(run.files.glob("*model.safetensors")))


def test_a_sequence_is_the_order_epoch_after_epoch(store: Store, tiny: str) -> None:
    curriculum(store)
    order = [row["sample_id"] for row in listed(store)]
    run = train(store, tiny, subset="c", sequence=True, selector="max_loss", num_train_epochs=2)
    assert offered(store, "run") == order * 2
    assert run.rows == 2 * (len(order) // 4 * 2 + max(1, len(order) % 4 // 2))
    full = train(store, tiny, "full", subset="c", sequence=True, selector="full")
    assert offered(store, "full") == order and full.rows == len(order)


@pytest.mark.parametrize("sequence", [True, False])
def test_an_epoch_goes_through_the_rounds_one_after_the_other(store: Store, tiny: str, sequence: bool) -> None:
    curriculum(store, rounds=3)
    rounds = [[row["sample_id"] for row in listed(store) if row["epoch"] == number] for number in (1, 2, 3)]
    train(store, tiny, subset="c", sequence=sequence, selector="full")
    seen = offered(store, "run")
    for samples in rounds:
        part, seen = seen[: len(samples)], seen[len(samples) :]
        assert sorted(part) == sorted(samples) and (part == samples) == sequence
    assert seen == []


def test_weights_decide_how_often_a_sample_is_offered(store: Store, tiny: str) -> None:
    query = """SELECT sample_id, CASE WHEN position < 4 THEN 3 WHEN position < 12 THEN 1 ELSE 0 END AS w FROM samples
               WHERE pool = 'pool'"""
    curriculum(store, order=query_file(query), weights="w")
    train(store, tiny, subset="c", selector="full", num_train_epochs=2)
    times, ids = Counter(offered(store, "run")), ids_of(store)
    expected = [2 * N * weight / 20 for weight in [3] * 4 + [1] * 8 + [0] * 12]
    assert sum(times.values()) == 2 * N
    for sample_id, mean_times in zip(ids, expected, strict=True):
        assert abs(times[sample_id] - mean_times) < 2 and (mean_times or not times[sample_id])
    train(store, tiny, "ordered", subset="c", selector="full", sequence=True)
    assert sorted(offered(store, "ordered")) == sorted(ids), "in sequence, weights do not count"


def test_weights_that_are_alike_are_none(store: Store, tiny: str) -> None:
    curriculum(store, order=query_file("SELECT sample_id FROM samples"))
    curriculum(store, "even", order=query_file("SELECT sample_id, 0.25 AS w FROM samples"), weights="w")
    runs = [train(store, tiny, name, subset=name[1:], selector="uds") for name in ("rc", "reven")]
    plain = train(store, tiny, "plain", selector="uds")
    assert offered(store, "rc") == offered(store, "reven") == offered(store, "plain")
    for name, value in weights_of(plain).items():
        assert all(torch.equal(weights_of(run)[name], value) for run in runs)


@pytest.mark.parametrize("shape", [{"sequence": True}, {"sequence": True, "rounds": 2}, {"weights": "loss"}], ids=str)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    store: Store, tiny: str, shape: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    curriculum(store, **{key: value for key, value in shape.items() if key != "sequence"})
    other = Store(shutil.copytree(store.root, "other"))
    options = {"subset": "c", "sequence": "sequence" in shape, "selector": "uds", "num_train_epochs": 2}
    whole = train(store, tiny, "whole", **options)
    with interrupted_at(8):
        train(other, tiny, "whole", **options)
    resumed = train(other, tiny, "whole", **options)
    assert resumed.fingerprint == whole.fingerprint and offered(other, "whole") == offered(store, "whole")
    ours, theirs = weights_of(resumed), weights_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_control_has_the_lengths_of_what_a_run_kept_step_by_step(store: Store, tiny: str) -> None:
    train(store, tiny, "long", selector="uds", num_train_epochs=3, max_steps=14)
    train(store, tiny, "control", selector="full", candidates=2, lengths_of="long", max_steps=14)
    kept = """SELECT step, sample_id, tokens FROM ledger WHERE run = $run AND kept ORDER BY step, rank, slot"""
    long, control = (store.query(kept, {"run": name}).to_pylist() for name in ("long", "control"))
    assert [row["step"] for row in control] == [row["step"] for row in long]
    lengths = {
        row["sample_id"]: row["tokens"] for row in store.query("SELECT sample_id, tokens FROM ledger").to_pylist()
    }
    apart = [abs(ours["tokens"] - theirs["tokens"]) for ours, theirs in zip(control, long, strict=True)]
    assert sum(apart) / len(apart) < np.mean([abs(a - b) for a in lengths.values() for b in lengths.values()])
    assert [row["sample_id"] for row in control] != [row["sample_id"] for row in long]
    rounds = rounds_of([row["sample_id"] for row in long], [row["tokens"] for row in long], N)
    assert len(rounds) > 1 and [length for part in rounds for length in part] == [row["tokens"] for row in long]
    again = train(store, tiny, "again", selector="full", candidates=2, lengths_of="long", max_steps=14, seed=1)
    assert offered(store, "again") != offered(store, "control") and again.inputs["lengths_of"]
    with pytest.raises(ConfigError, match=r"'long' kept 2 samples in a step, .* give --candidates 2"):
        train(store, tiny, "other", selector="full", lengths_of="long")
    with pytest.raises(ConfigError, match=r"'long' has 14 steps, .* give --max-steps 14"):
        train(store, tiny, "other", selector="full", candidates=2, lengths_of="long", max_steps=15)


def test_a_round_of_lengths_has_no_sample_twice_and_no_more_than_there_are() -> None:
    assert rounds_of(["a", "b", "a", "b", "c"], [1, 2, 1, 2, 3], 9) == [[1, 2], [1, 2, 3]]
    assert rounds_of(["a", "b", "c", "d", "e"], [1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lengths_of": "a"}, "give --selector full"),
        ({"lengths_of": "a", "selector": "full", "subset": "c"}, "leave out --subset and --pool-selector"),
        ({"lengths_of": "pool", "selector": "full"}, "made by ingest, not by train"),
        ({"sequence": True}, "--sequence follows the order of a --subset"),
        ({"sequence": True, "subset": "c", "pool_selector": "random", "selection_budget": 3}, "and no --pool-selector"),
        ({"subset": "c", "pool_selector": "random", "selection_budget": 3}, "'c' has weights, and --pool-selector"),
        ({"subset": "r", "pool_selector": "random", "selection_budget": 3}, "'r' has rounds, and --pool-selector"),
        ({"subset": "z"}, "weights of the subset 'z' are all 0 in a round"),
        ({"subset": "a"}, "made by train, not by select or curriculum"),
    ],
)
def test_options_that_do_not_work_together_raise_an_error(store: Store, tiny: str, values: Row, message: str) -> None:
    curriculum(store, weights="loss")
    curriculum(store, "r", rounds=2)
    late = query_file("SELECT sample_id, (position > 20)::INT AS w FROM samples WHERE pool = 'pool' ORDER BY position")
    curriculum(store, "z", order=late, weights="w", rounds=4)
    with pytest.raises((ConfigError, DataError, ArtifactNotFound), match=message):
        train(store, tiny, **values)


def test_two_processes_go_the_same_way_through_weighted_rounds(store: Store, tiny: str) -> None:
    curriculum(store, weights="loss", rounds=3)
    other = Store(shutil.copytree(store.root, "other"))
    train(store, tiny, "run", subset="c", selector="max_loss", seed=3)
    flags = {"name": "run", "pool": "pool", "model": tiny, "subset": "c", "selector": "max_loss", "seed": 3} | SMALL
    done = launch(other, "train", *(f"--{name.replace('_', '-')}={value}" for name, value in flags.items()))
    assert done.returncode == 0, done.stderr
    assert offered(other, "run") == offered(store, "run")
    assert other.get("run").fingerprint == store.get("run").fingerprint
