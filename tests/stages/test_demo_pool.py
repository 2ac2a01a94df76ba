"""The demo's pool: what is planted is what the labels say, and a seed is a pool on every machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from curate.demo.families import FAMILIES
from curate.demo.pool import NOISE, generate, questions, to_jsonl
from curate.demo.world import ATTRIBUTES, WORLD, statement
from curate.errors import ConfigError, DataError
from curate.stages import make
from curate.store import Store

PINNED = "cefa90776e836617c8c0cdd5e176a81e"
"""md5 of the default pool, so that a change of Python or platform that changes it is seen."""


@pytest.fixture(scope="module")
def pool() -> list[dict]:
    return generate(rows=2000, seed=0, noise=0.1, duplicates=0.1)


def test_the_same_seed_makes_the_same_bytes_whatever_the_hash_seed(pool: list[dict]) -> None:
    code = (
        "import hashlib; from curate.demo.pool import *; "
        "print(hashlib.md5(to_jsonl(generate(rows=2000, seed=0, noise=0.1, duplicates=0.1)).encode()).hexdigest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77"}
    printed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == hashlib.md5(to_jsonl(pool).encode()).hexdigest() == PINNED
    assert to_jsonl(generate(rows=2000, seed=1, noise=0.1, duplicates=0.1)) != to_jsonl(pool)


def test_shares_are_as_asked_and_families_have_a_heavy_tail(pool: list[dict]) -> None:
    planted = Counter(row["noise"] for row in pool)
    assert planted["exact_duplicate"] == planted["near_duplicate"] == 100
    assert sum(planted[kind] for kind in NOISE) == 200 and planted[""] == 1600
    shares = [count / len(pool) for _, count in Counter(row["family"] for row in pool).most_common()]
    assert len(shares) == len(FAMILIES) >= 8
    assert shares[0] > 0.25 and shares[-1] < 0.02
    assert abs(sum(share for _, share in FAMILIES.values()) - 1) < 1e-9


def test_an_even_pool_has_no_tail() -> None:
    counts = Counter(row["family"] for row in generate(rows=1200, seed=0, even=True))
    assert len(counts) == len(FAMILIES) and min(counts.values()) > 60 and max(counts.values()) < 150


def test_exact_duplicates_copy_their_origin_and_near_ones_only_its_answer(pool: list[dict]) -> None:
    columns = ("instruction", "input", "output", "family")
    for row in pool:
        if row["origin"] is None:
            assert "duplicate" not in row["noise"]
            continue
        origin = pool[row["origin"]]
        assert origin["noise"] == "" and (row["output"], row["family"]) == (origin["output"], origin["family"])
        same = all(row[column] == origin[column] for column in columns)
        assert same == (row["noise"] == "exact_duplicate")


def test_no_question_is_asked_twice_except_by_exact_duplicates(pool: list[dict]) -> None:
    asked = Counter((row["instruction"], row["input"]) for row in pool if row["noise"] in ("", "near_duplicate"))
    assert max(asked.values()) == 1
    rows = Counter(to_jsonl([{**row, "noise": "", "origin": None}]) for row in pool if row["origin"] is None)
    assert max(rows.values()) == 1


def test_rows_are_interleaved(pool: list[dict]) -> None:
    halves = [sum(row["noise"] != "" for row in part) for part in (pool[:1000], pool[1000:])]
    assert all(150 < half < 250 for half in halves)


def test_noise_never_leaves_a_right_answer_and_nothing_is_empty(pool: list[dict]) -> None:
    assert all(row["instruction"] and row["output"] for row in pool)
    right = {row["instruction"] + "\n" + row["input"]: row["output"] for row in pool if row["noise"] == ""}
    for row in pool:
        if row["noise"] in NOISE:
            assert right.get(row["instruction"] + "\n" + row["input"]) != row["output"]


def test_arithmetic_is_right_unless_it_is_labelled_wrong(pool: list[dict]) -> None:
    checked = 0
    for row in pool:
        terms = (row["input"] if row["instruction"].startswith("Compute the") else row["instruction"]).split()
        if row["family"] == "arithmetic" and terms[-1] == "=":
            terms = terms[:-1]
        if row["family"] != "arithmetic" or len(terms) != 3 or not (terms[0].isdigit() and terms[2].isdigit()):
            continue
        a, sign, b = int(terms[0]), terms[1], int(terms[2])
        right = str({"+": a + b, "-": a - b, "*": a * b}[sign])
        if row["noise"] in ("", "exact_duplicate", "near_duplicate"):
            assert row["output"] == right
            checked += 1
        elif row["noise"] == "wrong_output":
            assert row["output"] != right
    assert checked > 100


def test_a_held_out_pool_shares_no_problem_however_it_is_phrased(pool: list[dict]) -> None:
    asked = set(questions(to_jsonl(pool)))
    held_out = generate(rows=400, seed=1, exclude=asked)
    assert asked.isdisjoint(questions(to_jsonl(held_out)))
    freely = generate(rows=400, seed=1)
    assert not asked.isdisjoint(questions(to_jsonl(freely)))
    answers = {row["instruction"]: row["output"] for row in pool if row["instruction"].startswith("What is")}
    again = [row for row in held_out if row["instruction"].startswith("Add ")]
    sums = {f"What is {row['instruction'][4:-1].replace(' and ', ' + ')}?" for row in again}
    assert again and sums.isdisjoint(answers)


def test_every_family_draws_problems_with_several_phrasings_and_an_answer() -> None:
    for name, (draw, _) in FAMILIES.items():
        rng = Random(name)
        for _ in range(200):
            problem = draw(rng)
            assert len(set(problem.phrasings)) >= 2 and problem.answer
            assert not any("{" in text for phrasing in problem.phrasings for text in phrasing)


def test_the_world_states_what_it_answers() -> None:
    assert len(WORLD) == 60 and len({facts["founded"] for facts in WORLD.values()}) == 60
    assert all(set(facts) == set(ATTRIBUTES) for facts in WORLD.values())
    rng = Random(0)
    for _ in range(100):
        said = statement(rng)
        assert any(town in said and any(value in said for value in facts.values()) for town, facts in WORLD.items())


def test_more_than_there_is_says_so() -> None:
    with pytest.raises(ConfigError, match="leave no clean row"):
        generate(rows=10, seed=0, noise=0.5, duplicates=0.5)
    with pytest.raises(ConfigError, match="too few clean rows"):
        generate(rows=400, seed=0, duplicates=0.99)


def test_the_stage_writes_a_file_and_leaves_out_another_pool(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = make(store, "demo-pool", name="first", rows=200)
    second = make(store, "demo-pool", name="second", rows=50, seed=1, noise=0, duplicates=0, exclude="first")
    texts = [(artifact.files / "pool.jsonl").read_text(encoding="utf-8") for artifact in (first, second)]
    assert [len(text.splitlines()) for text in texts] == [first.rows, second.rows] == [200, 50]
    assert set(questions(texts[0])).isdisjoint(questions(texts[1]))
    assert first.summary["planted"]["near_duplicate"] == 10 and second.summary["planted"] == {}
    make(store, "ingest", name="read", data=["first"])
    with pytest.raises(DataError, match="made by ingest"):
        make(store, "demo-pool", name="third", exclude="read")


def test_ingest_takes_every_row_and_keeps_what_is_planted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store, "demo-pool", name="raw", rows=200)
    assert make(store, "ingest", name="pool", data=["raw"]).rows == 200
    rows = store.query(
        "SELECT a.sample_id = b.sample_id AS same, a.metadata->>'noise' AS noise FROM samples a "
        "JOIN samples b ON b.position = (a.metadata->>'origin')::BIGINT"
    ).to_pylist()
    assert len(rows) == 20 and all(row["same"] == (row["noise"] == "exact_duplicate") for row in rows)
