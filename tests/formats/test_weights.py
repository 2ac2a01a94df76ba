"""Weights of rows: what counts as one, what is a reject, and what becomes of the column."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from curate.formats import ReadOptions, Unusable, to_sample
from curate.formats.detect import detect

ROW = {"prompt": "a", "completion": "b"}


def read(row: dict[str, Any], **options: Any) -> Any:
    reading = ReadOptions(**options)
    return to_sample(row, detect([row], {}, "rows", reading.metadata), reading=reading), reading.notes


@pytest.mark.parametrize(
    ("value", "expected"),
    [(2, 2), (0.5, 0.5), (0, 0), (None, 1), ("", 1), ("2.5", 2.5), (" 1e-3 ", 1e-3),
     (Decimal("0.25"), 0.25), (1e300, 1e300)],
)  # fmt: skip
def test_a_number_from_zero_is_the_weight(value: Any, expected: float) -> None:
    sample, notes = read({**ROW, "weight": value})
    assert sample.weight == expected and sample.metadata == {}
    assert notes.weights == {"weight": (int(expected != 1), expected, expected)}
    assert bool(notes.changes) == (isinstance(value, str) and bool(value))
    assert not notes.losses and not notes.columns
    assert sample.sample_id == read(ROW)[0].sample_id, "the weight is not part of the id"


@pytest.mark.parametrize(
    ("value", "what"),
    [(-1, "negative"), (float("nan"), "NaN"), (float("inf"), "infinite"), ("high", "text"), ("nan", "text"),
     ("1_0", "text"), (True, "of the type bool"), ([1], "of the type list"), (10**400, "infinite"),
     (-(10**400), "infinite"),      (Decimal("NaN"), "NaN")],
)  # fmt: skip
def test_anything_else_is_a_reject_that_says_the_way_out(value: Any, what: str) -> None:
    with pytest.raises(Unusable) as refused:
        read({**ROW, "weight": value})
    assert str(refused.value) == (
        f"the weight in column 'weight' must be a finite number from 0, and is {what}: fix it, or give "
        "--metadata-columns weight to read rows without weights"
    )
    sample, _ = read({**ROW, "weight": value}, metadata=frozenset({"weight"}))
    assert sample.weight == 1 and "weight" in sample.metadata


def test_another_column_can_hold_the_weight() -> None:
    sample, notes = read({**ROW, "grade": 3, "weight": "heavy"}, weight="grade")
    assert sample.weight == 3 and sample.metadata == {"weight": "heavy"} and list(notes.weights) == ["grade"]
    assert read(ROW, weight="grade")[0].weight == 1
    with pytest.raises(Unusable, match="'completion' is a part of the conversation"):
        read(ROW, weight="completion")
    assert read({**ROW, "grade": 3})[0].metadata == {"grade": 3}


@pytest.mark.parametrize(
    "row",
    [{"text": "abc"}, {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
     {"instruction": "a", "output": "b"}, 
     {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}],
)  # fmt: skip
def test_rows_of_every_format_have_weights(row: dict[str, Any]) -> None:
    assert read({**row, "weight": 4})[0].weight == 4
