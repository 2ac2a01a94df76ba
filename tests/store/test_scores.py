"""Columns of different features are joined by name, and scores of a user are columns, whatever their names."""

from __future__ import annotations

import pyarrow as pa
import pytest

from curate.config import Config
from curate.store import Draft, Store
from curate.store.catalog.scores import MOST, score_names

SCHEMA = pa.schema({"sample_id": pa.string(), "bad": pa.int32(), "scores": pa.map_(pa.string(), pa.float64())})


class Toy(Config):
    seed: int = 0


@pytest.mark.parametrize("merged", [True, False])
def test_each_artifact_fills_its_own_columns_and_scores_have_their_names(store: Store, merged: bool) -> None:
    def measured(draft: Draft) -> None:
        draft.add("features", pa.table({"sample_id": ["a"], "loss": [1.5]}))

    def graded(draft: Draft) -> None:
        rows = [{"sample_id": "a", "bad": 2, "scores": [("mine", 0.5)]}, {"sample_id": "b", "bad": 0, "scores": None}]
        draft.add("features", pa.Table.from_pylist(rows, schema=SCHEMA))
        draft.summary = {"scores": ["mine"]}

    store.make("toy", measured, Toy(name="m"))
    if merged:
        store.make("toy", graded, Toy(name="g", seed=1))
    else:
        with store.catalog.open():
            store.make("toy", graded, Toy(name="g", seed=1))
    rows = store.query("SELECT features, sample_id, loss, bad, mine FROM features ORDER BY ALL").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("g", "a", None, 2, 0.5),
        ("g", "b", None, 0, None),
        ("m", "a", 1.5, None, None),
    ]


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["a", 'x" , (SELECT 1) AS "y', "loss", "LOSS", "A", "Features", "b" * 61, "", "é", "1a", None, 3, "_ok"], 2),
        ("text", 0),
        ({"a": 1}, 0),
        ([f"c{n}" for n in range(MOST + 5)], MOST),
    ],
)
def test_names_of_a_received_store_that_none_could_give_are_left_out(store: Store, names: object, kept: int) -> None:
    def fill(draft: Draft) -> None:
        draft.add("features", pa.table({"sample_id": ["a"], "loss": [1.5]}))
        draft.summary = {"scores": names}

    artifact = store.make("toy", fill, Toy(name="g"))
    found = score_names([artifact])
    assert len(found) == kept
    columns = store.query("SELECT * FROM features").column_names
    assert columns[len(columns) - kept :] == found
