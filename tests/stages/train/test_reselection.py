"""Runs whose epochs are chosen by a pool selector: a round an epoch, chosen with the model as it is then."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from curate import Artifact, make
from curate.errors import ConfigError, DataError, TrainingError
from curate.lm.model.load import load_tokenizer
from curate.pool_selectors import averages
from curate.stages.inputs import resolve
from curate.stages.select.config import SelectConfig
from curate.stages.select.gradient_scores import CheckpointGradients, CheckpointScorer
from curate.stages.tokens.tokenization import encode_pool, tokenization_digest
from curate.stages.train.config import TrainConfig
from curate.stages.train.joined_features import encode_target
from curate.stages.train.reselection import EpochSubsets
from curate.store import Draft, Store
from curate.store.artifacts.files import read_json
from curate.training.gradients.features import GradientFeatures

N, SIZE, GRADIENTS = 60, 9, 20
SMALL = {"candidates": 4, "keep": 2, "max_length": 64, "num_train_epochs": 2, "learning_rate": 3e-3, "save_steps": 2}
SMALL |= {"selector": "random", "selection_budget": 0.15, "pool_selector": "cluster_ucb"}
NEEDS = {"target": "target", "clusters": "clusters", "gradient_budget": 0.34, "pool_selector_args": {"batch": 4}}
STEPS = 3  # an epoch of 9 samples, 4 candidates a step


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Path:
    """Files of a pool that repeats three samples, and of a target with two subtasks."""
    folder = tmp_path_factory.mktemp("reselect")
    rows = [
        {"instruction": f"{['Add', 'Name'][i % 2]} {i}.", "input": "", "output": f"{i} " * (1 + i % 5)}
        for i in range(N)
    ]
    wanted = [{**rows[i], "subtask": ["one", "two"][i % 2]} for i in (1, 3, 4, 8, 11, 12)]
    for name, lines in (("pool", [*rows, *rows[:3]]), ("target", wanted), ("other", rows[:30])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return folder


@pytest.fixture(scope="module")
def made(base: Path, tiny: str) -> Path:
    """A store with the pool, the target and clusters of the pool."""
    store = Store(base / "store")
    for name in ("pool", "target"):
        make(store, "ingest", name=name, data=[str(base / f"{name}.jsonl")])
    make(store, "embed", name="feats", pool="pool", model=tiny, max_length=64, signals=["sketch"])
    make(store, "cluster", name="clusters", features="feats", k=3)
    return store.root


@pytest.fixture
def world(tmp_path: Path, made: Path) -> Store:
    return Store(shutil.copytree(made, tmp_path / "store"))


def train(store: Store, tiny: str, name: str = "run", **values: Any) -> Artifact:
    return make(store, "train", name=name, pool="pool", model=tiny, **{**SMALL, **NEEDS, **values})


def rows(store: Store, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = store.query(sql).to_pylist()
    return found


def subset(store: Store, epoch: int, run: str = "run") -> set[str]:
    found = rows(store, f"SELECT sample_id FROM subsets WHERE subset = '{run}' AND epoch = {epoch}")
    assert len({row["sample_id"] for row in found}) == len(found)
    return {row["sample_id"] for row in found}


def seen(store: Store, epoch: int, run: str = "run") -> list[str]:
    """Candidates of an epoch's steps, repeated as they are."""
    steps = f"step BETWEEN {(epoch - 1) * STEPS + 1} AND {epoch * STEPS}"
    found = rows(store, f"SELECT sample_id FROM ledger WHERE run = '{run}' AND {steps} ORDER BY 1")
    return [row["sample_id"] for row in found]


def test_each_epoch_is_trained_on_a_round_of_its_own_within_its_budget(world: Store, tiny: str) -> None:
    run = train(world, tiny)
    assert run.summary["rounds"] == [{"epoch": e, "samples": SIZE, "gradients": GRADIENTS} for e in (1, 2)]
    assert run.summary["steps"] == 2 * STEPS and run.summary["gradients"] == 2 * GRADIENTS
    assert subset(world, 1) != subset(world, 2)
    for epoch in (1, 2):
        assert len(subset(world, epoch)) == SIZE and seen(world, epoch) == sorted(subset(world, epoch))
        draws = rows(world, f"SELECT * FROM draws WHERE subset = 'run' AND epoch = {epoch} ORDER BY draw")
        assert [row["draw"] for row in draws] == list(range(GRADIENTS))
        assert len({row["sample_id"] for row in draws}) == GRADIENTS
        best = sorted(draws, key=lambda row: -row["reward"])[:SIZE]
        assert {row["sample_id"] for row in best} == subset(world, epoch)
        known = {row["sample_id"]: row for row in rows(world, "SELECT sample_id, cluster FROM clusters")}
        assert all(known[row["sample_id"]]["cluster"] == row["arm"] for row in draws)
        content = read_json(run.path / "rounds" / f"0000{epoch}.json")
        assert (content["epoch"], content["gradients"]) == (epoch, GRADIENTS)
        assert set(content["samples"]) == subset(world, epoch)
    odd = """SELECT count(*) n FROM draws d JOIN samples s USING (sample_id)
             WHERE s.pool = 'pool' AND d.position > s.position"""
    assert rows(world, odd) == [{"n": 0}]


def test_rewards_between_epochs_are_those_at_the_checkpoint_there(world: Store, tiny: str) -> None:
    run = train(world, tiny, pool_selector="less", clusters=None, save_steps=STEPS, pool_selector_args={})
    tokenizer = load_tokenizer((config := TrainConfig(**run.config)).options(tiny))
    pool = encode_pool(config, tokenizer, world.get("pool")).table
    target, subtasks = encode_target(config, resolve(world, config), tokenizer)
    select = SelectConfig(name="s", method="less", pool="pool", target="target", warmup="run", budget=SIZE)
    checkpoint = run.path / "checkpoints" / f"checkpoint-{STEPS}"
    digest = tokenization_digest(config, tokenizer)
    gradients = CheckpointGradients(select, world, config, checkpoint, digest, coverage="all")
    samples = [{row: (table, row) for row in range(len(table))} for table in (pool, target)]
    scorer = CheckpointScorer([gradients], [1.0], *samples, averages(subtasks), label="twin")
    twin = dict(zip(pool.ids, scorer(np.arange(len(pool))), strict=True))
    scored = rows(world, "SELECT sample_id, score FROM subsets WHERE subset = 'run' AND epoch = 2 ORDER BY \"rank\"")
    for row in scored:
        assert row["score"] == pytest.approx(twin[row["sample_id"]], abs=2e-3)
    first = rows(world, "SELECT sample_id, score FROM subsets WHERE subset = 'run' AND epoch = 1")
    assert max(abs(row["score"] - twin[row["sample_id"]]) for row in first) > 0.02, "the model has changed since"
    worst = min(row["score"] for row in scored)
    assert all(score < worst + 2e-3 for name, score in twin.items() if name not in subset(world, 2))
    assert [r["gradients"] for r in run.summary["rounds"]] == [N, N]


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.training.step import BatchSelection

    select = BatchSelection.select

    def stopping(self: BatchSelection, batch: Any) -> Any:
        if batch.step == step:
            raise KeyboardInterrupt
        return select(self, batch)

    monkeypatch.setattr(BatchSelection, "select", stopping)


@pytest.mark.parametrize("moment", ["in an epoch", "in a choice", "before a checkpoint"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    world: Store, tiny: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    shape = {"selector": "uds", "lora_dropout": 0.2, "save_steps": 100 if moment == "before a checkpoint" else 2}
    whole = train(world, tiny, **shape)
    other = Store(shutil.copytree(made, tmp_path / "other"))
    if moment == "in a choice":
        stop_in_choice(monkeypatch)
    else:
        stop_at(STEPS + 3 if moment == "in an epoch" else STEPS + 2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(other, tiny, **shape)
    monkeypatch.undo()
    made = sorted(path.name for path in other.drafts()[0].path.glob("rounds/*.json"))
    assert made == ["00001.json", "00002.json"][: 1 if moment == "in a choice" else 2]
    if moment != "in a choice":
        forbid_choosing(monkeypatch)
    resumed = train(other, tiny, **shape)
    assert resumed.fingerprint == whole.fingerprint
    ours, theirs = (load_file(next(a.files.glob("*model.safetensors"))) for a in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for table in ("ledger", "memory", "draws", "subsets"):
        sql = f"SELECT * FROM {table} ORDER BY ALL"
        assert world.query(sql).num_rows and other.query(sql).equals(world.query(sql))
    assert resumed.summary["rounds"] == whole.summary["rounds"]


def stop_in_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of the second epoch's gradients, where some of its records could be written already."""
    features, asked = GradientFeatures.features, []

    def stopping(self: GradientFeatures, *args: Any, **kwargs: Any) -> Any:
        if self.engine.adam().steps:
            asked.append(1)
            if len(asked) == 4:
                raise KeyboardInterrupt
        return features(self, *args, **kwargs)

    monkeypatch.setattr(GradientFeatures, "features", stopping)


def forbid_choosing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a round that is written down is chosen again")

    monkeypatch.setattr(GradientFeatures, "features", refuse)


def test_choosing_once_keeps_one_round_for_all_epochs(world: Store, tiny: str) -> None:
    run = train(world, tiny, reselect="once")
    assert run.summary["rounds"] == [{"epoch": 1, "samples": SIZE, "gradients": GRADIENTS}]
    assert seen(world, 1) == seen(world, 2) == sorted(subset(world, 1)) and subset(world, 2) == set()


def test_random_needs_no_target_and_draws_again_in_each_epoch(world: Store, tiny: str) -> None:
    shape = {"pool_selector": "random", "target": None, "clusters": None, "pool_selector_args": {}}
    run = train(world, tiny, selection_budget=SIZE, num_train_epochs=3, **shape)
    assert run.summary["gradients"] == 0
    rounds = [subset(world, epoch) for epoch in (1, 2, 3)]
    assert {len(samples) for samples in rounds} == {SIZE} and len({frozenset(r) for r in rounds}) == 3
    assert [seen(world, epoch) for epoch in (1, 2, 3)] == [sorted(samples) for samples in rounds]


def test_the_first_round_is_what_select_takes_at_a_warm_up_run(world: Store, tiny: str) -> None:
    warm = {"pool_selector": None, "selection_budget": None, "gradient_budget": 0.2, "pool_selector_args": {}}
    make(world, "train", name="warm", pool="pool", model=tiny, **{**SMALL, **warm, "max_steps": 4, "clusters": None})
    shape = {"pool_selector": "less", "clusters": None, "pool_selector_args": {}}
    train(world, tiny, warmup="warm", **shape)
    make(world, "select", name="s", method="less", pool="pool", target="target", warmup="warm", budget=0.15)
    taken = rows(world, "SELECT sample_id, score FROM subsets WHERE subset = 's' ORDER BY \"rank\"")
    first = rows(world, "SELECT sample_id, score FROM subsets WHERE subset = 'run' AND epoch = 1 ORDER BY \"rank\"")
    assert first == taken and len(taken) == SIZE
    assert subset(world, 2) != subset(world, 1)


def test_within_a_subset_rounds_are_of_the_subset(world: Store, tiny: str) -> None:
    make(world, "select", name="half", method="random", pool="pool", budget=0.5)
    half = {row["sample_id"] for row in rows(world, "SELECT sample_id FROM subsets WHERE subset = 'half'")}
    train(world, tiny, subset="half", selection_budget=5, pool_selector="random", pool_selector_args={})
    assert subset(world, 1) | subset(world, 2) <= half and len(subset(world, 1)) == 5


def test_an_online_selector_by_gradients_chooses_from_the_round(world: Store, tiny: str) -> None:
    run = train(world, tiny, selector="greats", target_batch_size=4)
    assert run.rows == 2 * (2 + 2 + 1) and seen(world, 2) == sorted(subset(world, 2))
    assert run.summary["seconds"]["reselecting"] > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pool_selector": None}, "--pool-selector-args is an option of pool selectors: give --pool-selector"),
        ({"selection_budget": None}, "needs --selection-budget, such as 0.05"),
        ({"selection_budget": 1}, "1 is ambiguous"),
        ({"target": None}, "--pool-selector cluster_ucb needs --target NAME: a pool of samples"),
        ({"clusters": None}, "--pool-selector cluster_ucb needs --clusters NAME: clusters of the pool"),
        ({"pool_selector_args": {"bata": 1}}, "no argument 'bata' in pool_selector_args. Did you mean 'beta'"),
        ({"pool_selector": "random", "pool_selector_args": {}, "warmup": "w"}, "does not use --warmup"),
        ({"pool_selector": "k_center"}, "'cluster_ucb', 'less' or 'random'"),
        ({"selection_budget": 0.5}, "30 samples, but only 20 gradients.*lower --selection-budget"),
        ({"gradient_budget": 0.02, "selection_budget": 1.0 / N}, "1 gradients cannot try each of 3 clusters once"),
    ],
)
def test_options_that_do_not_fit_raise_an_error(world: Store, tiny: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(world, tiny, **values)


def test_reselect_is_epoch_by_default_and_an_error_alone(store: Store, tiny: str) -> None:
    shape = {"name": "run", "pool": "pool", "model": tiny, "pool_selector": "random", "selection_budget": 5}
    assert TrainConfig(**shape).identity() == TrainConfig(**shape, reselect="epoch").identity()
    assert TrainConfig(**TrainConfig(**shape).model_dump()) == TrainConfig(**shape)
    with pytest.raises(ConfigError, match="--reselect is an option of pool selectors"):
        make(store, "train", name="run", pool="pool", model=tiny, reselect="once")


def test_clusters_of_another_pool_are_an_error(world: Store, tiny: str, base: Path) -> None:
    make(world, "ingest", name="other", data=[str(base / "other.jsonl")])
    make(world, "embed", name="others", pool="other", model=tiny, max_length=64, signals=["sketch"])
    make(world, "cluster", name="groups", features="others", k=2)
    with pytest.raises(DataError, match="clusters 'groups' are not of the pool 'pool'"):
        train(world, tiny, clusters="groups")


def test_too_few_finite_gradients_end_the_run(world: Store, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features = GradientFeatures.features

    def mostly_nan(self: GradientFeatures, table: Any, rows: Any, *, target: bool = False) -> Any:
        found = features(self, table, rows, target=target)
        return found if target else found.where(torch.arange(len(found))[:, None] == 0, torch.nan)

    monkeypatch.setattr(GradientFeatures, "features", mostly_nan)
    with pytest.raises(TrainingError, match=r"Epoch 1 needs 9 samples, but only \d with a finite gradient"):
        train(world, tiny)
    assert not list(world.drafts()[0].path.glob("rounds/*.json"))


def test_of_several_processes_the_first_chooses_and_the_others_take_what_it_wrote(world: Store, tiny: str) -> None:
    shape = {"name": "run", "pool": "pool", "model": tiny, "pool_selector": "random", "selection_budget": 5}
    config = TrainConfig(**shape)
    inputs, tokenizer = resolve(world, config), load_tokenizer(config.options(tiny))
    table = encode_pool(config, tokenizer, world.get("pool"), distinct=True).table
    first, second = (
        EpochSubsets(config, inputs, Draft(world.root / "run", "f", world.catalog.path, rank=rank), table, tokenizer)
        for rank in (0, 1)
    )
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(second, 0, None)
        time.sleep(0.3)
        assert not waiting.done() and not list((world.root / "run").glob("rounds/*"))
        chosen = first(0, None)
        assert waiting.result(timeout=300) == chosen and len(set(chosen)) == 5
