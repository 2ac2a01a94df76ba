"""Weights of rows go out with the samples, together with those of the selection, and what a trainer ignores is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curate.stages import make
from curate.store import Store
from tests.support.exports import ROWS, export, ingest, loaded, train

WEIGHTS = [2, 1, 0.5, 1, 3, 1]
ALL = "SELECT sample_id FROM samples WHERE pool = 'pool' ORDER BY position"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store("store")


def weighted(name: str = "weight") -> list[dict[str, Any]]:
    return [row | {name: weight} for row, weight in zip(ROWS, WEIGHTS, strict=True)]


def card() -> str:
    return " ".join(Path("exports/out/README.md").read_text().split())


@pytest.mark.parametrize("row_format", ["messages", "prompt-completion", "alpaca", "sharegpt"])
def test_every_format_has_a_column_with_the_weights(store: Store, row_format: str) -> None:
    ingest(store, weighted("grade"), weight_column="grade")
    export(store, sql=ALL, format=row_format)
    assert [row["weight"] for row in loaded()] == WEIGHTS
    assert "3 samples have a weight in the loss other than 1" in card() and "The column `weight` holds it." in card()


def test_original_rows_have_the_column_that_they_came_with(store: Store) -> None:
    ingest(store, weighted("grade"), weight_column="grade")
    export(store, sql=ALL)
    assert loaded() == weighted("grade") and "The column `grade` holds it." in card()


def test_a_pool_without_weights_is_exported_as_before(store: Store) -> None:
    ingest(store, [row | {"weight": 1} for row in ROWS])
    export(store, sql=ALL, format="messages")
    assert {*loaded()[0]} == {"messages"} and "Weights" not in card()


def test_weights_survive_another_ingest(store: Store) -> None:
    ids = ingest(store, weighted())
    export(store, sql=ALL, format="messages", file_format="jsonl")
    again = make(store, "ingest", name="again", data="exports/out/train.jsonl")
    found = store.query("SELECT sample_id, weight FROM samples WHERE pool = 'again' ORDER BY position").to_pydict()
    assert found == {"sample_id": ids, "weight": [None if weight == 1 else weight for weight in WEIGHTS]}
    assert again.rows == 6


def test_with_the_weights_of_a_subset_the_column_is_the_product(store: Store) -> None:
    ids = ingest(store, weighted())
    train(store, ids, [[0, 1, 2, 3, 4, 5]])
    Path("order.sql").write_text("SELECT sample_id, 1 + position AS w, position AS score FROM ledger ORDER BY position")
    make(store, "curriculum", name="c", runs=["uds"], order="sql:order.sql", weights="w")
    export(store, subset="c", format="messages", columns=["weight"])
    assert [row["weight"] for row in loaded()] == [weight * (1 + n) for n, weight in enumerate(WEIGHTS)]
    assert "holds its product with the weight by which a run on the subset draws the sample" in card()
    export(store, subset="c", format="messages")
    assert [row["weight"] for row in loaded()] == WEIGHTS, "without --columns weight they are the rows' own"


def test_with_the_weights_of_a_run_they_are_those_of_the_ledger_or_the_rows_own(store: Store) -> None:
    ids = ingest(store, weighted())
    train(store, ids, [[4, 0, 1]])
    export(store, run="uds", format="messages", columns=["weight"])
    assert [row["weight"] for row in loaded()] == [3, 2, 1] and "for a selector without weights" in card()


def test_with_a_query_the_column_is_what_it_returned(store: Store) -> None:
    ingest(store, weighted())
    sql = "SELECT sample_id, 10 * coalesce(weight, 1) AS weight FROM samples WHERE pool = 'pool' ORDER BY position"
    export(store, sql=sql, format="messages", columns=["weight"])
    assert [row["weight"] for row in loaded()] == [10 * weight for weight in WEIGHTS]
    assert "holds what the query returned" in card()


@pytest.mark.parametrize("trainer", ["trl", "llama-factory", "axolotl", "ms-swift"])
def test_a_trainer_that_reads_no_weights_is_told_with_the_number_of_rows(
    store: Store, trainer: str, caplog: pytest.LogCaptureFixture
) -> None:
    ids = ingest(store, weighted())
    export(store, sql=ALL, trainer=trainer)
    lost = "changes 3 rows of 6: reads no weights of rows, so each row counts once"
    if trainer == "ms-swift":
        assert lost not in card() and lost not in caplog.text and "loss_scale" in card()
        scales = [row["messages"][-1]["loss_scale"] for row in loaded_parquet()]
        assert scales == WEIGHTS
    else:
        assert f"{lost} ({ids[0]}, {ids[2]}, {ids[4]})" in card() and lost in caplog.text


def loaded_parquet() -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table("exports/out/train.parquet").to_pylist()
    return rows
