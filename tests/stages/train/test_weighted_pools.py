"""Runs on pools with weights: they reach the loss and the ledger, and a pool of an older curate is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from curate import Artifact, make, samples
from curate.store import Store
from tests.support.training import interrupted_at, rows, weights

SMALL = {"candidates": 4, "keep": 2, "max_steps": 3, "max_length": 64, "save_steps": 1, "learning_rate": 1e-2}


def write(path: Path, values: list[Any], answers: int = 1) -> Path:
    turns = [
        {"messages": [turn for k in range(answers) for turn in (
            {"role": "user", "content": f"Add {n} and {k}."}, {"role": "assistant", "content": f"{n + k}"})]}
        for n in range(len(values))
    ]  # fmt: skip
    lines = [json.dumps(row | ({} if w is None else {"weight": w})) for row, w in zip(turns, values, strict=True)]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def train(store: Store, tiny: str, name: str = "run", pool: str = "pool", **values: Any) -> Artifact:
    return make(store, "train", name=name, pool=pool, model=tiny, **{**SMALL, **values})


def test_the_ledger_has_the_weights_of_the_rows_and_the_run_depends_on_them(
    store: Store, tiny: str, tmp_path: Path
) -> None:
    values = [2, 1, 0.5, 3, None, 7, 1, 4]
    make(store, "ingest", name="pool", data=[str(write(tmp_path / "a.jsonl", values))])
    make(store, "ingest", name="even", data=[str(write(tmp_path / "b.jsonl", [None] * 8))])
    ours, plain = train(store, tiny), train(store, tiny, "plain", pool="even")
    assert ours.fingerprint != plain.fingerprint
    found = rows(store, "SELECT position, sample_weight, weight FROM ledger WHERE run = 'run'")
    expected = [None if value in (1, None) else value for value in values]
    assert found and all(row["sample_weight"] == expected[row["position"]] for row in found)
    assert {row["weight"] for row in found} == {None}
    assert rows(store, "SELECT count(sample_weight) n FROM ledger WHERE run = 'plain'") == [{"n": 0}]
    assert any(not torch.equal(value, weights(plain)[name]) for name, value in weights(ours).items())


def test_weights_that_are_all_alike_change_nothing_and_weights_of_one_not_a_bit(
    store: Store, tiny: str, tmp_path: Path
) -> None:
    for name, value in (("none", None), ("one", 1), ("five", 5)):
        make(store, "ingest", name=name, data=[str(write(tmp_path / f"{name}.jsonl", [value] * 8))])
    runs = {name: weights(train(store, tiny, f"run-{name}", pool=name)) for name in ("none", "one", "five")}
    for name, value in runs["none"].items():
        assert torch.equal(runs["one"][name], value)
        torch.testing.assert_close(runs["five"][name], value, rtol=1e-3, atol=1e-5)


def test_answers_of_a_conversation_carry_its_weight(store: Store, tiny: str, tmp_path: Path) -> None:
    make(store, "ingest", name="pool", data=[str(write(tmp_path / "a.jsonl", [2, 1, 3, 1], answers=2))])
    train(store, tiny, turns="expand", selector="full", max_steps=2)
    found = rows(store, "SELECT position, sample_weight FROM ledger")
    assert len(found) == 8
    assert all(row["sample_weight"] == {0: 2, 2: 3}.get(row["position"]) for row in found)


def test_a_subset_takes_the_weight_of_the_first_row_of_a_sample(store: Store, tiny: str, tmp_path: Path) -> None:
    one, other = write(tmp_path / "a.jsonl", [2, 3, 4, 5]), write(tmp_path / "b.jsonl", [6, 7, 8, 9])
    make(store, "ingest", name="pool", data=[str(one), str(other)])
    make(store, "select", name="subset", pool="pool", method="random", budget=4)
    train(store, tiny, subset="subset", max_steps=1, selector="full")
    assert {row["sample_weight"] for row in rows(store, "SELECT sample_weight FROM ledger")} == {2, 3, 4, 5}


def test_a_resumed_run_with_weights_equals_an_uninterrupted_one(store: Store, tiny: str, tmp_path: Path) -> None:
    data = str(write(tmp_path / "a.jsonl", [2, 1, 0.5, 3, 1, 7, 1, 4] * 2))
    make(store, "ingest", name="pool", data=[data])
    whole, other = train(store, tiny), Store(tmp_path / "other")
    make(other, "ingest", name="pool", data=[data])
    with interrupted_at(3):
        train(other, tiny)
    resumed = train(other, tiny)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    assert other.query("SELECT * FROM ledger ORDER BY ALL").equals(store.query("SELECT * FROM ledger ORDER BY ALL"))


def test_weights_that_an_older_curate_left_in_the_metadata_are_told(
    store: Store, tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(write(tmp_path / "a.jsonl", [2, 1, 3, None]))
    make(store, "ingest", name="pool", data=[data], metadata_columns=["weight"])
    train(store, tiny, "said", max_steps=1)
    assert "did not read it" not in caplog.text, "the user said that the column is metadata"
    with monkeypatch.context() as patch:  # the shards of an older curate, and what it did with the column
        older_schema = samples.SCHEMA.remove(samples.SCHEMA.get_field_index("weight"))
        patch.setattr(samples, "_schema", lambda: older_schema)
        older = make(store, "ingest", name="older", data=[data], metadata_columns=["weight"], shard_rows=3, strict=True)
    train(store, tiny, "run-older", pool="older", max_steps=1)
    assert "2 rows of 'older' have a column weight" in caplog.text and "--weight-column weight" in caplog.text
    again = make(store, "ingest", name="pool", data=[data], weight_column="weight")
    assert again.fingerprint != older.fingerprint and again.summary["rows with a weight"] == 2
