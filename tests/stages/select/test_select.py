"""`curate select`: what is chosen is in the store, in order, and everything that it is made from belongs together."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curate.config import Config
from curate.errors import ArtifactNotFound, ConfigError, DataError
from curate.pool_selectors import (
    POOL_SELECTORS,
    Budget,
    Candidates,
    Oracle,
    RemainingBudget,
    Target,
    make_pool_selector,
)
from curate.pool_selectors.graph.similarity_graph import ExactNeighbours
from curate.stages import make
from curate.stages.pools import pool_samples
from curate.stages.select.config import FIELDS, SelectConfig
from curate.stages.select.neighbours import FeatureNeighbours
from curate.store import Artifact, Draft, Store

N = 40
ROWS = [
    {"instruction": f"question {i} of {['cats', 'dogs'][i % 2]}", "input": "", "output": f"answer {i}"}
    for i in range(N)
]
WANTED = [
    {"instruction": f"about dogs {i}", "input": "", "output": "yes", "subtask": ["one", "two"][i % 2]} for i in range(4)
]


class Embedded(Config):
    """As much of an embedding's config as is compared."""

    max_length: int = 64
    seed: int = 0


def ingest(store: Store, rows: list[dict[str, Any]], name: str) -> list[str]:
    path = store.root.parent / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool = make(store, "ingest", data=str(path), name=name)
    return list(dict.fromkeys(sample.sample_id for _, sample in pool_samples(pool)))


def embed(store: Store, pool: str, name: str, ids: list[str], model: str = "m", **values: Any) -> np.ndarray:
    """Features as `curate embed` writes them; returns the vectors."""
    matrix = np.random.default_rng(len(ids)).standard_normal((len(ids), 8)).astype(np.float32)

    def fill(draft: Draft) -> None:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), 8)
        draft.write(0, pa.table({"sample_id": ids, "embedding": vectors}))
        tokens, losses = pa.array(range(10, 10 + len(ids)), pa.int32()), matrix[:, 0].astype(np.float64)
        draft.add("features", pa.table({"sample_id": ids, "tokens": tokens, "loss": losses}))

    store.make("embed", fill, Embedded(name=name, **values), {"pool": store.get(pool).fingerprint, "model": model})
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


class World:
    """A pool with one repeated row and one that no model can be trained on, and everything that methods need."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.ids = ingest(store, [*ROWS[:5], ROWS[0], *ROWS[5:]], "pool")
        self.wanted = ingest(store, WANTED, "heldout")
        self.vectors = embed(store, "pool", "feats", self.ids[:-1])
        self.targets = embed(store, "heldout", "wanted", self.wanted)
        self.clusters = {sample_id: row % 3 for row, sample_id in enumerate(self.ids[:-1])}
        facts = pa.table({"sample_id": list(self.clusters), "cluster": pa.array(self.clusters.values(), pa.int32())})
        made_from = {"features": store.get("feats").fingerprint}
        store.make("cluster", lambda draft: draft.add("clusters", facts), Config(name="clusters"), made_from)
        store.make("train", lambda _: None, Config(name="warm"), {"pool": store.get("pool").fingerprint})
        self.rewards = dict(zip(self.ids, np.linspace(-1, 1, N).tolist(), strict=True))

    def select(self, method: str, **options: Any) -> Artifact:
        given = {"pool": "pool", "budget": 0.2, "name": method, **options}
        if method == "column":
            given["method_args"] = {"column": "loss", **options.get("method_args", {})}
        names = {"features": "feats", "target_features": "wanted", "clusters": "clusters"}
        names |= {"target": "heldout", "warmup": "warm"}
        needs = [field for need in POOL_SELECTORS[method].needs for field in FIELDS.get(need, ())]
        return make(self.store, "select", method=method, **({field: names[field] for field in needs} | given))

    def sql(self, text: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.store.query(text).to_pylist()
        return rows


@pytest.fixture
def world(store: Store, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(store)

    def oracle(config: Any, inputs: Any, candidates: Any) -> Any:
        return lambda rows: [made.rewards[candidates[row]] for row in rows]

    module = types.ModuleType("curate.stages.select.gradient_scores")
    module.oracle = oracle  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


@pytest.mark.parametrize("method", POOL_SELECTORS)
def test_a_subset_is_in_the_store_as_rows_and_facts_in_order(world: World, method: str) -> None:
    artifact = world.select(method)
    size = 7 if "features" in artifact.inputs else 8
    rows = artifact.table().to_pylist()
    assert artifact.rows == len(rows) == size
    assert [row["rank"] for row in rows] == list(range(size))
    assert len({row["sample_id"] for row in rows} & set(world.ids)) == size
    facts = world.sql(
        f'SELECT sample_id, "rank", score, weight FROM subsets WHERE subset = \'{method}\' ORDER BY "rank"'
    )
    assert facts == rows
    assert world.select(method, name="again").fingerprint == artifact.fingerprint


@pytest.mark.parametrize("method", POOL_SELECTORS)
def test_the_summary_says_how_much_from_where_and_how_it_begins(world: World, method: str) -> None:
    summary = world.select(method, features="feats").summary
    assert summary["method"] == method and summary["selected"] == "7 of 39 samples"
    assert summary["sources"] == {"pool": 7} and summary["rejected"] == 0
    assert len(summary["first"]) == 5
    assert all(row["text"].startswith("question ") and "answer" in row["text"] for row in summary["first"])
    assert summary["tokens"].endswith(f" of {sum(range(10, 49))}")
    asked = {"less": "39 of 39", "cluster_ucb": "7 of 7"}
    assert summary.get("gradients") == asked.get(method)


def test_less_takes_the_best_and_names_what_has_no_gradient(world: World) -> None:
    world.rewards[world.ids[-1]] = float("nan")
    artifact = world.select("less")
    assert artifact.table()["sample_id"].to_pylist() == world.ids[-2:-10:-1]
    assert artifact.summary["rejected_first"] == [world.ids[-1]]
    rejects = world.sql("SELECT sample_id, reason FROM rejects WHERE artifact = 'less'")
    assert rejects == [{"sample_id": world.ids[-1], "reason": "no finite gradient"}]


def test_every_draw_of_the_bandit_is_in_the_catalogue(world: World) -> None:
    world.select("cluster_ucb", budget=4, gradient_budget=0.5, method_args={"batch": 4}, name="ucb")
    draws = world.sql("SELECT * FROM draws WHERE subset = 'ucb' ORDER BY draw")
    assert [row["draw"] for row in draws] == list(range(20))
    assert all(row["reward"] == world.rewards[row["sample_id"]] for row in draws)
    assert all(row["arm"] == world.clusters[row["sample_id"]] for row in draws)
    assert [row["index_value"] is None for row in draws] == [row["round"] == 0 for row in draws]
    first = {s.sample_id: p for p, s in reversed(list(pool_samples(world.store.get("pool"))))}
    assert all(row["position"] == first[row["sample_id"]] for row in draws)
    best = sorted((row["reward"] for row in draws), reverse=True)[:4]
    assert [row["score"] for row in world.sql('SELECT score FROM subsets ORDER BY "rank"')] == best


def test_vectors_find_their_samples_whatever_the_order(world: World) -> None:
    store = world.store
    rows = world.select("rds", budget=3).table().to_pylist()
    for turn, row in enumerate(rows):
        cosines = world.vectors @ world.targets[turn]
        assert row["score"] == pytest.approx(cosines[world.ids.index(row["sample_id"])], abs=1e-6)
    assert rows[0]["sample_id"] == world.ids[int(np.argmax(world.vectors @ world.targets[0]))]

    def reverse(draft: Draft) -> None:
        table = store.get("feats").table()
        draft.write(0, table.take(list(range(len(table)))[::-1]))
        tokens = pa.array([5] * len(table), pa.int32())
        draft.add("features", pa.table({"sample_id": table["sample_id"], "tokens": tokens}))

    store.make("embed", reverse, Embedded(name="back"), {**store.get("feats").inputs, "again": "1"})
    assert world.select("rds", budget=3, features="back", name="b").table().to_pylist() == rows


def test_the_best_of_a_column_are_taken_within_bounds(world: World, caplog: pytest.LogCaptureFixture) -> None:
    losses = dict(zip(world.ids[:-1], world.sql("SELECT loss FROM features WHERE features = 'feats'"), strict=True))
    value = {name: row["loss"] for name, row in losses.items()}
    bounds = {"below": 1.0, "above": -0.5}
    chosen = world.select("column", budget=6, method_args=bounds)
    inside = sorted((v for v in value.values() if -0.5 < v < 1), reverse=True)
    rows = chosen.table().to_pylist()
    assert [row["score"] for row in rows] == inside[:6] == [value[row["sample_id"]] for row in rows]
    assert chosen.summary["outside the bounds"] == 39 - len(inside) > 0
    lowest = world.select("column", budget=6, method_args={"order": "lowest"}, name="low").table()["score"].to_pylist()
    assert lowest == sorted(value.values())[:6]
    tokens = world.select("column", budget=None, budget_tokens=100, name="tokens")
    assert tokens.table()["score"].to_pylist() == sorted(value.values(), reverse=True)[: tokens.rows]
    few = world.select("column", budget=39, method_args=bounds, name="few")
    assert few.rows == len(inside) and f"only {len(inside)} could be selected" in caplog.text
    with pytest.raises(DataError, match=r"selected no sample.*numbers within the bounds"):
        world.select("column", method_args={"above": 1e9}, name="none")
    with pytest.raises(ConfigError, match=r"'feats' has no numeric column 'los'. Did you mean 'loss'\?"):
        world.select("column", method_args={"column": "los"}, name="none")


def test_samples_without_a_number_are_rejected_by_name_and_counted(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    ids = world.ids

    def fill(draft: Draft) -> None:
        ifd = pa.array([None, float("nan"), *(i / 10 for i in range(2, N))], pa.float64())
        draft.add("features", pa.table({"sample_id": ids, "ifd": ifd}))

    pool = {"pool": world.store.get("pool").fingerprint}
    world.store.make("grade", fill, Config(name="graded"), pool)
    chosen = world.select("column", features="graded", budget=30, method_args={"column": "ifd"})
    assert chosen.table()["sample_id"].to_pylist() == ids[:-31:-1]
    rejects = world.sql("SELECT sample_id, reason FROM rejects WHERE artifact = 'column'")
    assert {row["sample_id"] for row in rejects} == set(ids[:2]) and chosen.summary["rejected"] == 2
    assert {row["reason"] for row in rejects} == {"no number in the column"}
    assert "2 of 40 samples have no number in ifd." in caplog.text
    with pytest.raises(ConfigError, match="A budget in tokens needs the samples' lengths"):
        world.select("column", features="graded", budget=None, budget_tokens=50, method_args={"column": "ifd"})
    with pytest.raises(DataError, match="'graded' were made by curate grade, which reads texts and makes no vectors"):
        world.select("k_center", features="graded")


@pytest.mark.parametrize("backend", ["faiss", "numpy"])
def test_neighbours_of_an_index_are_those_of_all_cosines(
    world: World, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curate.store.vectors import index

    if backend == "numpy":
        monkeypatch.setattr(index, "find_spec", lambda name: None)
    elif index.choose_backend() == "numpy":
        pytest.skip("FAISS is not installed")
    monkeypatch.setattr(index.NumpyIndex, "block", 7)
    vectors = world.vectors.copy()
    vectors[5] = vectors[4]

    def fill(draft: Draft) -> None:
        stored = np.vstack([vectors, np.zeros((1, 8))]).astype(np.float32)[::-1]
        ids = world.ids[::-1]
        for shard, start in enumerate(range(0, N, 9)):
            part = pa.FixedSizeListArray.from_arrays(pa.array(stored[start : start + 9].ravel()), 8)
            draft.write(shard, pa.table({"sample_id": ids[start : start + 9], "embedding": part}))
        draft.add("features", pa.table({"sample_id": ids, "tokens": pa.array([3] * N, pa.int32())}))

    world.store.make("embed", fill, Embedded(name="parts"), {**world.store.get("feats").inputs, "again": "2"})
    for k in (3, 38, 100):
        expected = ExactNeighbours(np.vstack([vectors, np.full((1, 8), np.nan)])).nearest(k)
        found = FeatureNeighbours(world.store.get("parts"), "embedding", world.ids).nearest(k)
        assert found[0].tolist() == expected[0].tolist() == [True] * 39 + [False]
        np.testing.assert_allclose(
            np.where(found[2] < 0, 0, found[1]), np.where(expected[2] < 0, 0, expected[1]), atol=1e-6
        )
        same = [np.sort(np.where(each[2] == 5, 4, each[2]), 1) for each in (found, expected)]  # 5 is a copy of 4
        assert (same[0] == same[1]).all() and not (found[2] == np.arange(N)[:, None]).any()
    chosen = world.select("facility_location", budget=12, method_args={"neighbours": 6})
    pool = Candidates(world.ids[:-1], ["pool"] * 39, neighbours=ExactNeighbours(world.vectors))
    twin = make_pool_selector("facility_location", {"neighbours": 6}).rank(
        pool, Target(), Oracle(lambda rows: rows), RemainingBudget(Budget(12), pool)
    )
    assert chosen.table()["sample_id"].to_pylist() == [world.ids[row] for row in twin.rows]
    assert chosen.summary["coverage"] == twin.notes["coverage"]
    assert chosen.summary["of the maximum"] == twin.notes["of the maximum"]


def test_a_budget_in_tokens_is_kept(world: World) -> None:
    artifact = world.select("random", budget=None, budget_tokens=100, features="feats")
    tokens = world.sql("SELECT sum(tokens) AS n FROM subsets JOIN features USING (sample_id)")[0]["n"]
    assert 50 < tokens <= 100 and artifact.summary["tokens"].startswith(f"{tokens} of ")
    with pytest.raises(ConfigError, match="--features"):
        world.select("random", budget=None, budget_tokens=100)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "lesss"}, "Did you mean 'less'"),
        ({"method": "less"}, "needs --target NAME: a pool"),
        ({"method": "less", "target": "heldout"}, "needs --warmup NAME: a run"),
        ({"method": "rds"}, "needs --features NAME: features of the pool"),
        ({"method": "rds", "features": "f"}, "needs --target-features NAME"),
        ({"method": "cluster_ucb", "target": "t", "warmup": "w"}, "needs --clusters NAME"),
        ({"method": "k_center", "features": "f", "target": "heldout"}, "does not use --target: leave it out"),
        ({"method": "random", "method_args": {"beta": 1}}, "no argument 'beta' in method_args. It takes none"),
        ({"method": "cluster_ucb", "method_args": {"polcy": 1}}, "Did you mean 'policy'"),
        ({"method": "cluster_ucb", "method_args": {"policy": "uc"}}, "no policy 'uc'.*Did you mean"),
        ({"method": "column", "features": "f"}, "needs the name of a column: --set method_args.column=ifd"),
        ({"method": "column", "method_args": {"column": "loss"}}, "needs --features NAME: features of the pool"),
        (
            {"method": "column", "method_args": {"column": "loss", "order": "up"}},
            "order is highest or lowest, not 'up'",
        ),
        ({"method": "column", "method_args": {"column": "loss", "below": "x"}}, "below is a number, not 'x'"),
        (
            {"method": "column", "method_args": {"column": "loss", "below": 1, "above": 1}},
            "no number is above 1 and below 1",
        ),
        ({"method": "random", "budget": 1}, "1 is ambiguous"),
        ({"method": "random", "budget_tokens": 5}, "either a budget"),
        ({"method": "random", "per_source_quota": "x"}, "neither a share"),
    ],
)
def test_options_that_do_not_fit_raise_an_error_at_once(store: Store, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(store, "select", **{"pool": "pool", "name": "s", "budget": 0.1, **values})


def test_artifacts_that_do_not_belong_together_raise_an_error(world: World) -> None:
    store = world.store
    ids = ingest(store, ROWS[:12], "other")
    embed(store, "other", "others", ids)
    made_from = {"features": store.get("others").fingerprint}
    facts = pa.table({"sample_id": ids, "cluster": pa.array([0] * 12, pa.int32())})
    store.make("cluster", lambda draft: draft.add("clusters", facts), Config(name="groups"), made_from)
    with pytest.raises(DataError, match="features 'others' are not of the pool 'pool'"):
        world.select("k_center", features="others")
    with pytest.raises(DataError, match="clusters 'groups' are not of the pool 'pool'"):
        world.select("cluster_ucb", clusters="groups")
    with pytest.raises(DataError, match="target features 'wanted' are not of the pool 'other'"):
        world.select("rds", target="other")
    embed(store, "heldout", "by_another", world.wanted, model="n")
    with pytest.raises(DataError, match="different models made them"):
        world.select("rds", target_features="by_another")
    embed(store, "heldout", "longer", world.wanted, max_length=128)
    with pytest.raises(DataError, match="max_length is 64 in one and 128 in the other"):
        world.select("rds", target_features="longer")
    embed(store, "heldout", "seeded", world.wanted, seed=3)
    assert world.select("rds", target_features="seeded").rows == 7, "embeddings do not depend on the sketch's seed"
    with pytest.raises(DataError, match=r"no vector column 'sketch'"):
        world.select("k_center", on="sketch")
    with pytest.raises(ArtifactNotFound, match=r"'feats' .* was made by embed, not by ingest"):
        world.select("tfidf", target="feats")


def test_subtasks_are_of_all_samples_or_of_none(world: World) -> None:
    from curate.stages.select.candidates import subtasks_of

    samples = [sample for _, sample in pool_samples(world.store.get("heldout"))]
    assert subtasks_of(samples, "heldout") == ["one", "two", "one", "two"]
    plain = [sample for _, sample in pool_samples(world.store.get("pool"))]
    assert set(subtasks_of(plain, "pool")) == {""}
    with pytest.raises(DataError, match=r"41 of 45 samples of the target 'x' have no subtask"):
        subtasks_of([*samples, *plain], "x")


def test_a_quota_may_be_written_as_a_mapping_or_a_number() -> None:
    same = {"name": "s", "method": "random", "pool": "p", "budget": 0.1}
    assert SelectConfig(**same, per_source_quota={"a": 0.5, "b": 0.2}).limits().quota == {"a": 0.5, "b": 0.2}
    assert SelectConfig(**same, per_source_quota=0.4).limits().quota == 0.4


def test_a_subset_is_exported_in_its_order_with_how_it_came_about(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    subset = world.select("less", budget=4, name="best")
    make(world.store, "export", subset="best", file_format="jsonl", columns=["score"], name="out")
    rows = [json.loads(line) for line in Path("exports/out/train.jsonl").read_text().splitlines()]
    assert [row["output"] for row in rows] == ["answer 39", "answer 38", "answer 37", "answer 36"]
    assert [row["score"] for row in rows] == subset.table()["score"].to_pylist()
    card = Path("exports/out/README.md").read_text()
    assert "4 samples of the pool `pool` (41 rows): the subset `best`." in card
    assert "| method | less |" in card and "| budget | 4.0 |" in card and "- less\n" in card
    with pytest.raises(ConfigError, match="--subset"):
        make(world.store, "export", subset="best", sql="SELECT 1", name="both")


def test_training_on_a_subset_sees_its_samples_alone_each_once(world: World, tiny: str) -> None:
    shape = {
        "pool": "pool",
        "model": tiny,
        "selector": "full",
        "candidates": 4,
        "max_length": 64,
        "num_train_epochs": 2,
    }
    chosen = world.select("random", budget=12, name="chosen").table()["sample_id"].to_pylist()
    if world.ids[0] not in chosen:  # the one that the pool repeats
        world.rewards[world.ids[0]] = 2.0
        chosen = world.select("less", budget=12, name="chosen").table()["sample_id"].to_pylist()
    make(world.store, "train", name="run", subset="chosen", **shape)
    seen = world.sql("SELECT sample_id, count(*) AS n FROM ledger WHERE run = 'run' GROUP BY 1")
    assert {row["sample_id"]: row["n"] for row in seen} == dict.fromkeys(chosen, 2)
    ingest(world.store, ROWS[:12], "other")
    with pytest.raises(DataError, match="subset 'chosen' is not of the pool 'other'"):
        make(world.store, "train", name="wrong", subset="chosen", **(shape | {"pool": "other"}))
    with pytest.raises(ArtifactNotFound, match="was made by embed, not by select"):
        make(world.store, "train", name="wrong", subset="feats", **shape)
