"""Advice: a race on a tiny model. Its runs are ordinary and found again, and what judges was never trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate import advise, make
from curate.errors import ConfigError, CurateError, DataError
from curate.numerics.race import verdict
from curate.stages.advise.advice import Advice
from curate.store import Store

Call = Callable[..., Any]

TRAIN = {"candidates": 4, "keep": 2, "max_length": 48, "lora_r": 2, "learning_rate": 1e-2}
COMMON: dict[str, Any] = {"pool": "pool", "methods": ["max_loss", "low_loss"], "steps": 2, "share": 0.9, "train": TRAIN}
SMALL, LARGE = 3_200.0, 3_900.0
"""Budgets in tokens: for two seeds of the verdict, and for three. The full run has the tenth that is left."""


def ingest(store: Store, file: Path, folder: Path) -> None:
    """120 rows from two files; the first twenty, and a copy of one of them, are also the target."""
    lines = file.read_text().splitlines()
    halves = {"first": lines[:60], "second": [*lines[60:], lines[3]]}
    for name, part in halves.items():
        (folder / f"{name}.jsonl").write_text("\n".join(part))
    make(store, "ingest", name="pool", data=[f"{name}={folder / f'{name}.jsonl'}" for name in halves])
    for name, part in (("target", lines[:40]), ("inside", lines[50:70])):
        (folder / f"{name}.jsonl").write_text("\n".join(part))
        make(store, "ingest", name=name, data=[str(folder / f"{name}.jsonl")])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pool_file: Path, tiny: str) -> tuple[Store, Advice, list[str]]:
    """A race that was stopped in its first round and finished by the same call, and what existed at the stop."""
    folder = tmp_path_factory.mktemp("advise")
    store = Store(folder / "store")
    ingest(store, pool_file, folder)
    values = {**COMMON, "name": "a", "model": tiny, "tokens": SMALL}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curate.stages.advise.making.run_stage", stopping_at("a-low_loss", "train", after=2))
        with pytest.raises(KeyboardInterrupt):
            advise(store, **values)
    before = [artifact.fingerprint for artifact in store.artifacts()]
    assert [draft.stage for draft in store.drafts()] == ["advise"]
    return store, advise(store, **values), before


def stopping_at(begins: str, stage: str, *, after: int) -> Any:
    """Return a `run_stage` that is interrupted at the given artifact, counted from 1."""
    from curate.stages import run_stage

    seen = 0

    def run(store: Store, name: str, config: Any) -> Any:
        nonlocal seen
        seen += name == stage and config.name.startswith(begins)
        if seen == after:
            raise KeyboardInterrupt
        return run_stage(store, name, config)

    return run


def test_a_stopped_race_goes_on_with_what_it_made(made: tuple[Store, Advice, list[str]]) -> None:
    store, advice, before = made
    assert not store.drafts()
    now = [artifact for artifact in store.artifacts() if artifact.fingerprint in before]
    assert len(now) == len(before) and advice.artifact.made_at is not None
    assert all(each.made_at is not None and each.made_at <= advice.artifact.made_at for each in now)
    again = advise(store, **{**COMMON, "name": "a", "model": advice.artifact.config["model"], "tokens": SMALL})
    assert again.artifact.fingerprint == advice.artifact.fingerprint


NEVER_TRAINED = """
SELECT count(*) AS n FROM ledger l JOIN artifacts r ON r.name = l.run
WHERE l.sample_id IN (SELECT sample_id FROM samples WHERE pool IN ('a-race', 'a-verdict'))
"""
OF_VERDICT = """
WITH used AS (
    SELECT v.stage, v.seed, e.sample_id FROM advice_runs v
    JOIN artifacts a ON a.stage = 'evaluate'
    JOIN artifacts r ON r.name = v.run AND r.fingerprint = a.inputs::JSON->>'model'
    JOIN answers e ON e.evaluation = a.name WHERE v.advice = 'a'
)
SELECT count(DISTINCT sample_id) FILTER (stage = 'race') AS race,
       count(DISTINCT sample_id) FILTER (stage = 'verdict') AS judged,
       (SELECT count(*) FROM used a JOIN used b ON a.sample_id = b.sample_id
        WHERE a.stage = 'race' AND b.stage = 'verdict') AS rows,
       (SELECT count(*) FROM used a JOIN used b ON a.seed = b.seed
        WHERE a.stage = 'race' AND b.stage = 'verdict') AS seeds
FROM used
"""


def test_no_run_was_offered_a_held_out_row(made: tuple[Store, Advice, list[str]]) -> None:
    store, _, _ = made
    assert store.query(NEVER_TRAINED)["n"].to_pylist() == [0]
    assert store.query("SELECT count(*) n FROM ledger")["n"].to_pylist()[0] > 0


def test_the_verdict_has_rows_and_seeds_that_no_round_had(made: tuple[Store, Advice, list[str]]) -> None:
    row = made[0].query(OF_VERDICT).to_pylist()[0]
    assert row["race"] >= 8 and row["judged"] >= 8 and row["rows"] == row["seeds"] == 0


def test_the_tables_hold_the_race(made: tuple[Store, Advice, list[str]]) -> None:
    store, advice, _ = made
    runs = store.query("SELECT * FROM advice_runs WHERE advice = 'a'").to_pylist()
    spent = (
        "SELECT count(*) AS samples, sum(tokens) AS tokens, max(step) AS steps FROM ledger WHERE run = $run AND kept"
    )
    for run in runs:
        assert store.query(spent, {"run": run["run"]}).to_pylist()[0] == {
            name: run[name] for name in ("samples", "tokens", "steps")
        }
    race = [run for run in runs if run["stage"] == "race"]
    by_method = {run["method"]: run for run in race if run["round"] == 1}
    assert set(by_method) == {"random", "full", "random as long", "max_loss", "low_loss"}
    candidates = sorted((by_method[label]["loss"], label) for label in ("max_loss", "low_loss"))
    assert [by_method[label]["kept_for_next"] for _, label in candidates] == [True, False]
    winner = candidates[0][1]
    assert advice.result["winner"] == winner
    judged = [run for run in runs if run["stage"] == "verdict"]
    assert {run["method"] for run in judged} == {winner, "random", "random as long"}
    tokens = {
        label: [run["tokens"] for run in judged if run["method"] == label]
        for label in (winner, "random", "random as long")
    }
    assert np.allclose(tokens[winner], tokens["random as long"], rtol=0.2)
    ratio = sum(tokens["random"]) / sum(tokens[winner])
    assert 0.8 < ratio < 1.25 and f"(random had {ratio:.2f} times as much)" in advice.sentence
    assert len(advice.runs) == len(runs) == advice.artifact.rows


def test_the_verdict_is_that_of_the_losses_in_the_store(made: tuple[Store, Advice, list[str]]) -> None:
    store, advice, _ = made
    rows = store.query("SELECT * FROM advice_verdicts WHERE advice = 'a'").to_pylist()
    assert [row["control"] for row in rows] == ["random", "random as long"]
    sql = """
    SELECT v.method, v.seed, e.sample_id, e.loss, e.target_tokens FROM advice_runs v
    JOIN artifacts r ON r.name = v.run
    JOIN artifacts a ON a.stage = 'evaluate' AND a.inputs::JSON->>'model' = r.fingerprint
    JOIN answers e ON e.evaluation = a.name WHERE v.stage = 'verdict' ORDER BY v.method, v.seed, e.position
    """
    found: dict[tuple[str, int], list[tuple[float, int]]] = {}
    for row in store.query(sql).to_pylist():
        found.setdefault((row["method"], row["seed"]), []).append((row["loss"], row["target_tokens"]))
    seeds = sorted({seed for _, seed in found})
    losses = {
        label: np.array([[loss for loss, _ in found[label, seed]] for seed in seeds]) for label in {m for m, _ in found}
    }
    weights = np.array([count for _, count in found["random", seeds[0]]])
    for row in rows:
        expected = verdict(losses[row["method"]], losses[row["control"]], weights)
        assert (row["difference"], row["low"], row["high"]) == pytest.approx(
            (expected.difference, expected.low, expected.high)
        )
        assert (row["verdict"], row["seeds"]) == (expected.verdict, len(seeds))
        assert row["tokens_saved"] is None or advice.advised != "random"
    assert advice.advised == (advice.result["winner"] if all(r["verdict"] == "better" for r in rows) else "random")
    assert advice.sentence.startswith(f"Use {advice.advised}")


def test_what_it_saw_is_noted(made: tuple[Store, Advice, list[str]]) -> None:
    notes = {note["kind"]: note for note in made[1].notes}
    assert notes["duplicates"]["count"] == 1
    stored = made[0].query("SELECT kind, count, detail FROM advice_notes WHERE advice = 'a'").to_pylist()
    assert stored == made[1].notes
    assert sum(note["kind"] == "source" for note in stored) in (0, 2)


def test_a_larger_budget_finds_the_runs_that_exist(made: tuple[Store, Advice, list[str]], tiny: str) -> None:
    store, advice, _ = made
    before = {artifact.fingerprint for artifact in store.artifacts()}
    larger = advise(store, **{**COMMON, "name": "more", "model": tiny, "tokens": LARGE})
    rounds = [each.result["plan"]["rounds"] for each in (advice, larger)]
    seeds = [sum(len(each["new"]) for each in own) for own in rounds]
    assert seeds[1] > seeds[0]
    earlier = {run["run"] for run in advice.runs if run["stage"] == "race"}
    assert earlier - {run["run"] for run in larger.runs if run["stage"] == "race"} <= {
        run["run"] for run in advice.runs if run["method"] == "random as long"
    }
    pools = {store.get(f"more-{part}").fingerprint for part in ("train", "race", "verdict")}
    assert pools < before


def test_the_command_line_shows_the_result_and_applies_it(
    made: tuple[Store, Advice, list[str]], tiny: str, curate: Call
) -> None:
    store, advice, _ = made
    train = ",".join(f"{key}={value}" for key, value in TRAIN.items())
    line = ["--pool", "pool", "--methods", "max_loss,low_loss", "--steps", "2", "--train", train, "--name", "a"]
    line = ["advise", *line, "--model", tiny, "--share", "0.9", "--tokens", str(int(SMALL)), "--store", str(store.root)]
    shown = curate(*line)
    assert shown.code == 0 and advice.sentence[:40] in shown.out and "curate train" in shown.out
    assert json.loads(curate(*line, "--format", "json").out)["advised"] == advice.advised
    assert curate(*line, "--format", "markdown").out.startswith("# a\n")
    taken = curate(*line, "--apply", "pool")
    assert taken.code == 1 and "made by ingest" in taken.err
    for _ in range(2):
        assert curate(*line, "--apply", "tuned").code == 0
    tuned, full = store.get("tuned", "train"), advice.full_run
    assert {name: tuned.config[name] for name in full} == {**full, "model": tuned.config["model"]}
    tokens = store.query("SELECT sum(tokens) AS n FROM ledger WHERE run = 'tuned' AND kept")["n"].to_pylist()[0]
    assert 0 < tokens < 0.5 * SMALL


def test_a_dry_run_prints_the_plan_and_makes_nothing(
    made: tuple[Store, Advice, list[str]], tiny: str, curate: Call
) -> None:
    store, _, _ = made
    before = sorted(str(path) for path in store.root.rglob("*"))
    for budget in ("--tokens=90000", "--flops=1e13", "--time=5h"):
        given = ["--pool", "pool", "--model", tiny, budget, "--name", "dry", "--dry-run", "--format", "json"]
        done = curate("advise", *given, "--set", "train.max_length=48", "--store", str(store.root))
        assert done.code == 0, done.err
        plan = json.loads(done.out)
        assert plan["cost"] <= plan["share"] and plan["rounds"][-1]["kind"] == "verdict"
        assert {row["method"] for row in plan["methods"]} >= {"random", "full", "random as long", "dedup"}
    assert sorted(str(path) for path in store.root.rglob("*")) == before
    with pytest.raises(ConfigError, match="--dry-run makes nothing"):
        advise(store, **{**COMMON, "name": "dry", "model": tiny, "tokens": SMALL, "dry_run": True})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tokens": None}, "There is no budget. A budget is --time 1h"),
        ({"time": "1h"}, "--time and --tokens are several budgets: give one"),
        ({"tokens": float("inf")}, "tokens.*finite"),
        ({"tokens": None, "flops": float("inf")}, "flops.*finite"),
        ({"tokens": None, "time": "soon"}, "must be a time above 0, such as 90s"),
        ({"eval_pool": "pool"}, "--eval-pool pool is the pool itself"),
        ({"target": "target", "eval_pool": "target"}, "--eval-pool target is the target itself"),
        ({"target": "pool"}, "--target pool is the pool itself"),
        ({"eval_pool": "inside"}, "All samples of the held-out pool 'inside' are in the pool 'pool'"),
        ({"methods": ["udz"]}, "There is no method 'udz'. Did you mean 'uds'"),
        ({"methods": ["random"]}, "'random' is a control and races anyway"),
        ({"methods": ["less"]}, "'less' needs --target POOL"),
        ({"methods": ["rho"]}, "'rho' needs reference_loss, which you choose"),
        ({"methods": ["column"]}, "'column' needs a column, which you choose"),
        ({"methods": ["uds", "uds"]}, "names 'uds' twice"),
        ({"train": {"max_steps": 3}}, "curate advise sets 'max_steps' itself"),
        ({"train": {"max_step": 3}}, "Unknown key 'max_step' in train"),
        ({"apply": "target"}, "--apply target is the name of another artifact, made by ingest"),
        ({"model": "nothing/there"}, "There is no model 'nothing/there'"),
        ({"name": "x" * 90}, "The name has 90 characters"),
    ],
)
def test_bad_input_is_told_in_a_sentence_and_nothing_is_made(
    made: tuple[Store, Advice, list[str]], tiny: str, values: dict[str, Any], message: str
) -> None:
    store, _, _ = made
    before = [artifact.fingerprint for artifact in store.artifacts_and_drafts()]
    with pytest.raises(CurateError, match=message):
        advise(store, **{**COMMON, "name": "bad", "model": tiny, "tokens": SMALL, **values})
    assert [artifact.fingerprint for artifact in store.artifacts_and_drafts()] == before


def test_a_budget_too_small_for_two_seeds_says_what_would_do(made: tuple[Store, Advice, list[str]], tiny: str) -> None:
    store, _, _ = made
    with pytest.raises(ConfigError, match=r"two seeds of 2 methods .* give --tokens \d+, or fewer") as told:
        advise(store, **{**COMMON, "name": "little", "model": tiny, "tokens": 1000.0})
    enough = float(str(told.value).partition("--tokens ")[2].partition(",")[0])
    assert 1000 < enough <= SMALL


def test_a_model_that_cannot_be_loaded_is_told(made: tuple[Store, Advice, list[str]], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CurateError, match="model"):
        advise(made[0], **{**COMMON, "name": "broken", "model": str(tmp_path), "tokens": SMALL})


def test_too_few_held_out_rows_are_told(made: tuple[Store, Advice, list[str]], tiny: str) -> None:
    with pytest.raises(DataError, match="rows can be held out for the race, and it needs 8"):
        advise(made[0], pool="inside", model=tiny, tokens=SMALL, name="few", train=TRAIN, methods=["dedup"])
