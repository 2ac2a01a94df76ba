"""Runs with --mix: exact shares in the ledger, resumed and in two processes to the bit; every bad mixture is named."""

from __future__ import annotations

import json
import logging
import random
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from curate import Artifact, make
from curate.config import build
from curate.errors import ConfigError, CurateError
from curate.stages.advise.config import AdviseConfig
from curate.stages.compare.config import CompareConfig
from curate.stages.compare.plan import plan
from curate.stages.decontaminate.check import trained_on
from curate.stages.train import check
from curate.stages.train.config import TrainConfig
from curate.store import Store
from tests.support.ranks import Ranks
from tests.support.training import interrupted_at, rows, weights

SIZES = {"math": 6, "chat": 20, "code": 14, "lists": 4}
MIX = {"math": 0.5, "chat": "3/10", "rest": 0.2}
SMALL = {"candidates": 10, "keep": 4, "max_length": 64, "save_steps": 2, "logging_steps": 3, "learning_rate": 3e-3}


def write(folder: Path, name: str, count: int) -> str:
    path = folder / f"{name}.jsonl"
    lines = [
        {
            "instruction": f"Say {name} {n}.",
            "input": "",
            "output": f"{n} " * (1 + n % 5),
            "kind": ["odd", "even"][n % 2],
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"{name}={path}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixtures")
    store = Store(folder / "store")
    make(store, "ingest", name="pool", data=[write(folder, name, count) for name, count in SIZES.items()])
    make(store, "ingest", name="old", data=[write(folder, "old", 9)])
    return store.root


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(made, tmp_path / "store"))


def train(store: Store, tiny: str, name: str = "run", **values: Any) -> Artifact:
    return make(store, "train", name=name, model=tiny, **{"pool": "pool", **SMALL, **values})


def offered(store: Store, run: str = "run") -> list[dict[str, Any]]:
    """The candidates of a run, in order, with their sources."""
    sql = """SELECT l.step, l.sample_id, l.kept, l.loss, l.tokens, s.source, s.metadata->>'kind' AS kind
             FROM ledger l JOIN samples s ON s.pool = 'pool' AND s.position = l.position
             WHERE l.run = $run ORDER BY l.step, l."rank", l.slot"""
    found: list[dict[str, Any]] = store.query(sql, {"run": run}).to_pylist()
    return found


def test_each_step_has_the_shares_and_the_run_says_what_was_kept(store: Store, tiny: str) -> None:
    run = train(store, tiny, selector="max_loss", mix=MIX, num_train_epochs=2)
    seen = offered(store)
    assert run.summary["steps"] == 10 and len(seen) == 100, "an epoch is as long as the pool, in whole steps"
    for step in range(1, 11):
        own = [row["source"] for row in seen if row["step"] == step]
        rest = own.count("code") + own.count("lists")
        assert (own.count("math"), own.count("chat"), rest) == (5, 3, 2)
    for source, count in (("math", 6), ("chat", 20)):
        drawn = [row["sample_id"] for row in seen if row["source"] == source]
        for start in range(0, len(drawn), count):
            assert len(set(drawn[start : start + count])) == len(drawn[start : start + count])
    kept = sum(row["kept"] for row in seen if row["source"] == "math") / sum(row["kept"] for row in seen)
    assert run.summary["by label"]["math"] == (
        f"50.0% of the candidates, {kept:.1%} of the kept, each of 6 samples 8.3 times"
    )
    metrics = rows(store, "SELECT * FROM metrics WHERE metric LIKE '%/%' ORDER BY step")
    assert [row["value"] for row in metrics if row["metric"] == "candidate_share/math"] == [0.5] * 4
    for row in metrics:
        kind, source = row["metric"].split("/")
        window = [each for each in seen if (row["step"] - 1) // 3 == (each["step"] - 1) // 3]
        own = [each for each in window if each["source"] == source]
        if kind == "candidate_loss":
            expected = sum(each["loss"] for each in own) / len(own)
        elif kind == "kept_share":
            expected = sum(each["kept"] for each in own) / sum(each["kept"] for each in window)
        else:
            expected = len(own) / len(window)
        assert row["value"] == pytest.approx(expected)
    assert {row["metric"] for row in metrics} == {
        f"{kind}/{source}" for kind in ("candidate_loss", "candidate_share", "kept_share") for source in SIZES
    }


def test_a_run_shorter_than_the_steps_between_entries_has_one_at_its_end(
    store: Store, made: Path, tiny: str, tmp_path: Path
) -> None:
    shape = {"selector": "full", "mix_policy": "odm", "max_steps": 4, "logging_steps": 100, "keep": 10}
    train(store, tiny, **shape)
    other = Store(shutil.copytree(made, tmp_path / "other"))
    with interrupted_at(4):  # after the checkpoint of step 2
        train(other, tiny, **shape)
    train(other, tiny, **shape)
    sql = "SELECT step, metric, value FROM metrics WHERE metric LIKE '%/%' ORDER BY ALL"
    found = rows(store, sql)
    assert found == rows(other, sql) and {row["step"] for row in found} == {4}
    kinds = ("mix_share", "mix_reward", "candidate_share", "kept_share", "candidate_loss")
    assert {row["metric"] for row in found} == {f"{kind}/{source}" for kind in kinds for source in SIZES}
    shares = {row["metric"]: row["value"] for row in found}
    for source in SIZES:
        count = sum(row["source"] == source for row in offered(store))
        assert shares[f"candidate_share/{source}"] == pytest.approx(count / 40)


def test_labels_without_a_share_are_left_out_and_counted(
    store: Store, tiny: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "curate"):
        run = train(store, tiny, selector="random", mix={"chat": 0.75, "math": 0.25}, mix_unit="tokens", max_steps=8)
    assert "The mixture leaves out 18 of 44 samples (of code, lists)" in caplog.text
    assert "An epoch of 50 candidates draws each sample of chat" in caplog.text
    assert run.summary["left out of the mixture"] == 18
    tokens = {"math": 0, "chat": 0}
    seen = offered(store)
    longest = max(row["tokens"] for row in seen)
    for row in seen:
        tokens[row["source"]] += row["tokens"]
        assert abs(tokens["chat"] - Fraction(3, 4) * sum(tokens.values())) <= longest
    assert len(seen) == 80


def test_labels_come_from_sql(store: Store, tiny: str) -> None:
    sql = "SELECT sample_id, metadata->>'kind' AS label FROM samples WHERE pool = 'pool'"
    train(store, tiny, selector="full", mix={"odd": 0.2, "even": 0.8}, mix_by=sql, max_steps=2, candidates=5)
    assert [[row["kind"] for row in offered(store) if row["step"] == step].count("odd") for step in (1, 2)] == [1, 1]


def test_labels_are_clusters_and_a_subset_is_mixed_like_a_pool(store: Store, tiny: str) -> None:
    make(store, "embed", name="f", pool="pool", model=tiny, max_length=64, signals=["embedding"])
    make(store, "cluster", name="c", features="f", on="embedding", k=3, nearest=False)
    make(
        store,
        "subset",
        name="s",
        pool="pool",
        sql="SELECT sample_id FROM samples WHERE pool = 'pool' AND position < 40",
    )
    of = {"selector": "full", "mix": {"1": 0.5, "rest": 0.5}, "mix_by": "cluster", "clusters": "c", "subset": "s"}
    run = train(store, tiny, **of)
    assert run.summary["steps"] == 4
    sql = """SELECT step, count(*) FILTER (cluster = 1) AS first, count(*) AS n, max(position) AS last
             FROM ledger JOIN clusters USING (sample_id) GROUP BY step"""
    assert all(row["first"] == 5 and row["n"] == 10 and row["last"] < 40 for row in rows(store, sql))


def test_a_comparison_mixes_all_runs_but_those_on_the_target_alone() -> None:
    values = {"name": "x", "pool": "pool", "eval_pool": "e", "target": "old", "model": "m", "selectors": ["max_loss"]}
    shared = {"max_steps": 2, "mix": {"math": 0.5, "chat": 0.5}, "mix_by": "kind"}
    tasks = plan(build(CompareConfig, {**values, "train": shared, "controls": ["target_only"], "seeds": [0]})).tasks
    found = {name: (task.config.mix, task.config.mix_by) for name, task in tasks.items()}  # type: ignore[attr-defined]
    mixed = {"math": 0.5, "chat": 0.5}, "kind"
    assert found == {"x-random-s0": mixed, "x-target_only-s0": (None, "source"), "x-max_loss-s0": mixed}


def test_advice_refuses_a_mixture_before_anything_is_made() -> None:
    values = {"name": "x", "pool": "pool", "model": "m", "time": "1h", "train": {"replay": "old"}}
    with pytest.raises(ConfigError, match="random samples as long, which have no mixture: remove 'replay' from train"):
        build(AdviseConfig, values)


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
    store: Store, made: Path, tiny: str, tmp_path: Path
) -> None:
    shape = {"selector": "uds", "mix": MIX, "max_steps": 8, "prescreen": 0.6, "replay": "old"}
    whole = train(store, tiny, **shape)
    other = Store(shutil.copytree(made, tmp_path / "other"))
    with interrupted_at(8):  # in the second epoch
        train(other, tiny, **shape)
    resumed = train(other, tiny, **shape)
    assert resumed.fingerprint == whole.fingerprint and resumed.summary["by label"] == whole.summary["by label"]
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    for sql in (
        "SELECT * FROM ledger ORDER BY ALL",
        "SELECT * FROM memory ORDER BY ALL",
        "SELECT * FROM metrics WHERE metric LIKE '%/%' ORDER BY ALL",
    ):
        assert other.query(sql).equals(store.query(sql))
    assert sum(row["replayed"] for row in steps_of(store)) == 3, "0.1 of 32, by default"


def test_learned_shares_move_to_the_hard_source_and_resume_to_the_bit(store: Store, tiny: str, tmp_path: Path) -> None:
    """One source repeats a word; the answers of the other are random letters, whose loss stays high."""
    letters = random.Random(0)
    lines = [
        {"instruction": f"Say {n}.", "output": "ok" if easy else "".join(letters.choices("abcdefghijkmnopq", k=24))}
        for easy in (True, False)
        for n in range(30)
    ]
    text = [json.dumps(line | {"input": "", "kind": "easy" if n < 30 else "hard"}) for n, line in enumerate(lines)]
    (tmp_path / "both.jsonl").write_text("\n".join(text))
    shape = {"selector": "full", "mix_policy": "odm", "mix_by": "kind", "max_steps": 12, "logging_steps": 1}
    shape |= {"full": True, "learning_rate": 1e-2, "mix_smoothing": 0.5, "lr_scheduler_type": "constant"}
    stores = [store, Store(shutil.copytree(store.root, tmp_path / "other"))]
    for each in stores:
        make(each, "ingest", name="both", data=[str(tmp_path / "both.jsonl")])
    whole = train(store, tiny, **shape, pool="both")
    with interrupted_at(10):
        train(stores[1], tiny, **shape, pool="both")
    resumed = train(stores[1], tiny, **shape, pool="both")
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    sql = "SELECT step, metric, value FROM metrics WHERE metric LIKE 'mix%' OR metric LIKE 'cand%' ORDER BY ALL"
    assert rows(stores[1], sql) == rows(store, sql)
    logged = {(row["step"], row["metric"]): row["value"] for row in rows(store, sql)}
    assert logged[1, "mix_share/easy"] == logged[1, "mix_share/hard"] == 0.5
    assert logged[12, "candidate_loss/hard"] > logged[12, "candidate_loss/easy"]
    assert logged[12, "mix_share/hard"] > 0.55 and logged[12, "mix_reward/hard"] > logged[12, "mix_reward/easy"]
    assert rows(store, "SELECT count(*) - count(loss) AS n FROM ledger") == [{"n": 0}]


# Replay


def steps_of(store: Store) -> list[dict[str, Any]]:
    return rows(
        store,
        """SELECT step, count(*) AS offered, count_if(kept) AS kept, count(*) FILTER (stage = 'replay') AS replayed,
                  count(*) FILTER (stage = 'replay' AND NOT kept) AS lost, count(position) AS placed,
                  count(loss) AS losses, sum(weight) AS weight
           FROM ledger WHERE run = 'run' GROUP BY step ORDER BY step""",
    )


def test_replayed_samples_are_always_trained_on_in_their_share(store: Store, tiny: str) -> None:
    run = train(store, tiny, selector="uds", mix=MIX, replay="old", replay_share=0.3, prescreen=0.6)
    per_step = [1, 1, 1, 1, 2]  # 0.3 of 4 is 1.2
    found = steps_of(store)
    assert len(found) == 5, "5 steps have 44 candidates and 6 replayed samples"
    assert [row["replayed"] for row in found] == per_step
    for row, count in zip(found, per_step, strict=True):
        assert (row["offered"], row["kept"], row["lost"], row["placed"]) == (10, 4, 0, 10 - count)
        assert 0 < row["losses"] <= 10 - count
    assert sum(row["source"] == "math" for row in offered(store)) == 22, "half of 44"
    sql = """SELECT o.pool, count(*) AS n, count(DISTINCT l.sample_id) AS d
             FROM ledger l JOIN origins o USING (sample_id) WHERE l.stage = 'replay' GROUP BY o.pool"""
    assert rows(store, sql) == [{"pool": "old", "n": 6, "d": 6}]
    assert run.summary["by label"]["(replay of old)"] == ("6 samples, 30.0% of those trained on, each of 9 0.7 times")
    assert run.summary["by label"]["math"].startswith("50.0% of the candidates, "), "of the run's own pool"
    (found_held,) = trained_on(store, run.fingerprint, store.get("old"))
    assert (found_held.pool, found_held.rows) == ("old", 6), "replayed samples count as trained on"
    make(store, "export", name="out", run="run", to=str(store.root.parent / "out"))
    assert {
        row["source"] for row in rows(store, "SELECT DISTINCT source FROM subsets JOIN samples USING (sample_id)")
    } <= {*SIZES}


def test_a_run_too_short_to_replay_says_so(store: Store, tiny: str, caplog: pytest.LogCaptureFixture) -> None:
    run = train(store, tiny, selector="random", replay="old", replay_share=0.01, max_steps=2)
    assert "replays nothing: --replay-share 0.01 of 4 samples is one in 25 steps, and the run has 2." in caplog.text
    assert run.summary["by label"]["(replay of old)"] == "0 samples, 0.0% of those trained on, each of 9 0.0 times"


def test_a_selectors_weights_leave_replayed_samples_their_share(store: Store, tiny: str) -> None:
    values = {"selector": "filter_weight", "target": "old", "target_batch_size": 4, "max_steps": 2}
    train(store, tiny, replay="old", replay_share=0.25, **values)
    for row in steps_of(store):
        assert (row["kept"], row["replayed"]) == (4, 1) and row["weight"] == pytest.approx(1)
    kept = rows(store, "SELECT step, stage, weight FROM ledger WHERE kept ORDER BY step")
    assert all(row["weight"] == pytest.approx(0.25) for row in kept if row["stage"] == "replay")


@pytest.mark.parametrize("selector", ["max_loss", "full"])
def test_two_processes_replay_what_one_does(
    ranks: Ranks, store: Store, made: Path, tiny: str, selector: str, tmp_path: Path
) -> None:
    alone = Store(shutil.copytree(made, tmp_path / "alone"))
    train(alone, tiny, selector=selector, replay="old", replay_share=0.5, max_steps=3)
    flags = (f"--selector={selector}", "--replay=old", "--replay-share=0.5", "--max-steps=3")
    launched(ranks, store, tiny, *flags)
    sql = "SELECT step, slot, sample_id, kept, stage FROM ledger ORDER BY step, slot"
    assert rows(store, sql) == rows(alone, sql)


def launched(ranks: Ranks, store: Store, tiny: str, *flags: str) -> None:
    """Train in two processes."""
    words = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    done = ranks.run(
        store.root.parent,
        *("train", "--name=run", "--pool=pool", f"--model={tiny}", *words, *flags, f"--store={store.root}"),
    )
    assert done.returncode == 0, done.stderr


def test_two_processes_have_the_stream_of_one(
    ranks: Ranks, store: Store, made: Path, tiny: str, tmp_path: Path
) -> None:
    alone = Store(shutil.copytree(made, tmp_path / "alone"))
    train(alone, tiny, selector="max_loss", mix=MIX, max_steps=4)
    flags = ("--mix=math=0.5,chat=3/10,rest=0.2", "--max-steps=4", "--selector=max_loss", "--scope=rank")
    launched(ranks, store, tiny, *flags)
    assert [row["sample_id"] for row in offered(alone)] == [row["sample_id"] for row in offered(store)]
    sql = "SELECT step, metric, value FROM metrics WHERE metric LIKE 'candidate_share/%' ORDER BY ALL"
    assert rows(alone, sql) == rows(store, sql) != []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mix": {"math": 0.5, "chat": 0.3}}, "must add up to 1, and 0.5 [+] 0.3 is 0.8"),
        ({"mix": {"math": 1.5, "chat": -0.5}}, "The share of 'math' in --mix is 1.5, and a share is from 0 to 1"),
        ({"mix": {"math": 1, "chat": -0.5}}, "The share of 'chat' in --mix is -0.5, and a share is from 0 to 1"),
        ({"mix": {"math": "1e99999999"}}, "The share of 'math' in --mix is no number: 1e99999999"),
        ({"mix": {"math": float("inf")}}, "The share of 'math' in --mix is no number: inf"),
        ({"mix": {"math": float("nan"), "chat": 1}}, "The share of 'math' in --mix is no number: nan"),
        ({"mix": {"math": "a lot"}}, "The share of 'math' in --mix is no number: a lot"),
        ({"mix": {"math": True}}, "The share of 'math' in --mix is no number"),
        ({"mix": {"math": "1/0"}}, "The share of 'math' in --mix is no number"),
        ({"mix": {}}, "--mix has no label"),
        ({"mix_unit": "tokens"}, "--mix-unit is an option of --mix"),
        ({"mix": MIX, "subset": "s", "sequence": True}, "--sequence says itself which they are"),
        ({"mix": MIX, "pool_selector": "random", "selection_budget": 0.5}, "--pool-selector says itself"),
        ({"mix": MIX, "selector": "full", "lengths_of": "r"}, "--lengths-of says itself"),
        ({"mix_smoothing": 0.5}, "--mix-smoothing is an option of --mix-policy odm"),
        ({"mix": MIX, "mix_warmup_steps": 5}, "--mix-warmup-steps is an option of --mix-policy odm"),
        ({"mix": MIX, "mix_policy": "odm"}, "those of --mix have no effect: give --mix-warmup-steps"),
        (
            {"mix": MIX, "mix_policy": "odm", "mix_unit": "tokens", "mix_warmup_steps": 5},
            "learns shares of samples: leave out --mix-unit tokens",
        ),
        ({"replay": "pool"}, "--replay pool is the pool itself"),
        ({"replay_share": 0.2}, "--replay-share is an option of --replay"),
        ({"replay": "old", "replay_share": 1.0}, "less than 1"),
        ({"replay": "old", "replay_share": 0.9}, "takes 4 of the 4 samples of a step and leaves no place"),
        ({"replay": "old", "scope": "micro:5", "keep": 2}, "--replay takes places of the whole step"),
        ({"replay": "old", "update": "reuse"}, "--update reuse has no gradients of the replayed samples"),
        ({"replay": "old", "subset": "s", "sequence": True}, "--replay changes which samples the steps have"),
        ({"mix_policy": "odm", "scope": "micro:5"}, "leave --scope at global"),
        ({"mix_policy": "odm", "candidate_losses": False}, "leave out --no-candidate-losses"),
        ({"mix_policy": "odm", "subset": "s", "sequence": True}, "--mix-policy odm changes which samples"),
        ({"mix": MIX, "mix_by": "cluster"}, "--mix-by cluster needs --clusters NAME"),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(build(TrainConfig, {"name": "x", "pool": "pool", "model": "m", **SMALL, **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mix": {"maths": 0.5, "chat": 0.5}}, "has the label 'maths' of --mix .*Did you mean 'math'"),
        ({"mix": {"a": 1}, "mix_by": "kinds"}, "no column 'kinds' for --mix-by. Did you mean 'kind'"),
        ({"mix_by": "zzz"}, "no column 'zzz' for --mix-by. Known: cluster, kind, source[.]"),
        ({"mix": {"a": 1}, "mix_by": "DELETE FROM samples"}, "'DELETE FROM samples' is no column .* and no SQL that"),
        ({"mix": {"a": 1}, "mix_by": "WITH x AS (SELECT 1) DELETE FROM samples"}, "."),
        ({"mix": {"chat": 0.5, "lists": 0.5}, "subset": "first"}, "No sample to train on has the label 'lists'"),
        ({"mix": {"math": 0.5, "rest": 0.5}, "mix_by": "SELECT sample_id, 'math' AS label FROM samples"}, "gives rest"),
        ({"mix": {"a": 1}, "mix_by": "SELECT sample_id FROM samples"}, "must have the columns sample_id and label"),
        (
            {"mix": {"a": 1}, "mix_by": "SELECT unnest(['x', 'x']) AS sample_id, 'a' AS label"},
            "names 1 samples again: each sample may have one label",
        ),
        ({"mix": {"a": 1}, "mix_by": "select x from y"}, "y"),
        ({"mix_policy": "odm", "mix_by": "SELECT sample_id, 'a' AS label FROM samples"}, "2 to 1000 labels"),
        ({"replay": "olds"}, "olds"),
        ({"replay": "again"}, "The pool 'again' of --replay is the pool 'pool' under another name"),
        ({"mix": MIX, "subset": "weighted"}, "has weights, which say how often"),
    ],
)
def test_mixtures_that_the_pool_does_not_have_are_one_sentence(
    store: Store, tiny: str, values: dict[str, Any], message: str
) -> None:
    if values.get("subset") == "first":
        sql = "SELECT sample_id FROM samples WHERE pool = 'pool' AND position < 40"
        make(store, "subset", name="first", pool="pool", sql=sql)
    if values.get("subset") == "weighted":
        sql = "SELECT sample_id, 1 + position AS weight FROM samples WHERE pool = 'pool'"
        make(store, "subset", name="weighted", pool="pool", sql=sql)
    if values.get("replay") == "again":
        make(store, "ingest", name="again", data=store.get("pool").config["data"])
    before = {artifact.name for artifact in store.artifacts()}
    with pytest.raises(CurateError, match=message):
        train(store, tiny, selector="full", **values)
    assert not store.drafts() and {artifact.name for artifact in store.artifacts()} == before, "nothing is begun"


@pytest.mark.parametrize("flags", [["--mix", "math=0.5,math=0.5"], ["--mix=math=0.5,chat=0.5", "--mix=math=0.5"]])
def test_a_label_that_comes_twice_is_an_error(curate: Any, flags: list[str]) -> None:
    done = curate("train", "--name", "x", "--pool", "pool", "--model", "m", *flags)
    assert done.code == 1 and "'math' comes twice in --mix: give it once." in done.err


def test_a_label_that_comes_twice_in_a_file_is_an_error(curate: Any, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: x\npool: pool\nmodel: m\nmix:\n  math: 0.5\n  math: 0.5\n")
    done = curate("train", "--config", "c.yaml")
    assert done.code == 1 and "math" in done.err and not (tmp_path / "store").exists()
    done = curate("train", "--name", "x", "--pool", "pool", "--model", "m", "--set", "mix={math: 0.5, math: 0.5}")
    assert done.code == 1 and "--set mix is not a YAML value" in done.err


def test_a_run_without_a_mixture_has_the_fingerprint_of_before() -> None:
    values = {"name": "x", "pool": "pool", "model": "m", **SMALL}
    assert not [key for key in build(TrainConfig, values).identity() if key.startswith(("mix", "replay"))]
    one, other = ({"mix": {"a": 0.5, "b": 0.5}}, {"mix": {"b": 0.5, "a": 0.5}})
    assert build(TrainConfig, values | one).identity() == build(TrainConfig, values | other).identity()
