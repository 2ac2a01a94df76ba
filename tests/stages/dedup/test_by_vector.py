"""`curate dedup --by embedding`: the pairs are those of comparing all with all, and numbers and answers must agree."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.errors import ConfigError, DataError
from curate.stages.dedup import stage, vectors
from curate.stages.dedup.texts import normalize, numbers
from curate.store import Store
from curate.store.vectors.vectors import to_unit_length
from tests.stages.dedup.pools import Row, dedup, features, kept, pairs, pool


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store(tmp_path / "store")


def planted(seed: int, count: int = 60) -> tuple[list[Row], np.ndarray]:
    """Return rows with one of three numbers, and vectors of 8 numbers around few directions."""
    rng = np.random.default_rng(seed)
    rows = [(f"Prompt {'abc'[n % 3]} {n % 3} {'xyz' * (n + 1)}", f"Answer {'q' * (n + 1)}") for n in range(count)]
    centres = rng.standard_normal((6, 8))
    return rows, centres[rng.integers(6, size=count)] + rng.choice([0.1, 0.4], (count, 1)) * rng.standard_normal(
        (count, 8)
    )


def slow_pairs(rows: list[Row], matrix: np.ndarray, threshold: float) -> dict[tuple[int, int], float]:
    """All pairs, one after the other, in float64 from float32 vectors of unit length."""
    unit = matrix.astype(np.float32)
    to_unit_length(unit)
    found = {}
    for one, two in itertools.combinations(range(len(rows)), 2):
        cosine = float(unit[one].astype(float) @ unit[two].astype(float))
        same = [numbers(normalize(a)) == numbers(normalize(b)) for a, b in zip(rows[one], rows[two], strict=True)]
        if cosine >= threshold and all(same):
            found[one, two] = cosine
    return found


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.97])
def test_the_pairs_are_those_of_comparing_all_with_all(
    store: Store, monkeypatch: pytest.MonkeyPatch, threshold: float
) -> None:
    monkeypatch.setattr(vectors, "SCORES_AT_ONCE", 64)
    rows, matrix = planted(1)
    ids = pool(store, rows)
    features(store, ids, matrix)
    made = dedup(store, by="embedding", features="feats", threshold=threshold)
    expected = {(ids[two], ids[one]): value for (one, two), value in slow_pairs(rows, matrix, threshold).items()}
    found = pairs(store, "near")
    assert len(expected) > 5 and {frozenset(pair) for pair in found} == {frozenset(pair) for pair in expected}
    assert sorted(found.values()) == pytest.approx(sorted(expected.values()), abs=1e-12)
    assert made.summary["removed as near copies"] > 0 and made.summary["vectors compared"] == "exact, all with all"
    left = {sample for pair in found for sample in pair} - {ids[row] for row in kept(store, ids)}
    assert left and len(kept(store, ids)) + len(left) == len(ids)


def test_another_order_gives_the_same_pairs_to_the_last_digit(store: Store) -> None:
    rows, matrix = planted(2)
    features(store, pool(store, rows), matrix)
    dedup(store, by="embedding", features="feats", threshold=0.9)
    order = random.Random(1).sample(range(len(rows)), len(rows))
    features(store, pool(store, [rows[n] for n in order], "mixed"), matrix[order], "mixed-feats", of="mixed")
    dedup(store, "m", pool="mixed", by="embedding", features="mixed-feats", threshold=0.9)
    groups = [{frozenset(pair): value for pair, value in pairs(store, "near", name).items()} for name in ("c", "m")]
    assert groups[0] == groups[1] != {}


def test_an_index_proposes_pairs_that_are_checked_and_its_recall_is_said(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, matrix = planted(3, 300)
    features(store, pool(store, rows), matrix)
    exact = dedup(store, "exact", by="embedding", features="feats", threshold=0.9)
    truth = pairs(store, "near", "exact")
    monkeypatch.setattr(vectors, "EXACT", 50)
    monkeypatch.setattr(stage, "find_measured", lambda *_: None)
    made = dedup(store, by="embedding", features="feats", threshold=0.91)
    found = pairs(store, "near")
    assert all(truth[pair] == value for pair, value in found.items())
    assert len(found) > 0.9 * sum(value >= 0.91 for value in truth.values())
    assert "recall" in made.summary["vectors compared"] and "approximate" in made.summary["vectors compared"]
    assert exact.summary["vectors compared"] == "exact, all with all"


def test_a_vector_of_zeros_or_none_is_a_copy_of_nothing_and_an_exact_copy_needs_no_vector(store: Store) -> None:
    rows = [("one", "x"), ("two", "x"), ("three", "x"), ("four", "x"), ("ONE", "x"), ("five", "x")]
    ids = pool(store, rows)
    matrix = np.array([[0, 0], [0, 0], [1, 0], [1, 1e-9], [0, 0], [np.nan, 1]])
    features(store, ids[:5] + ids[5:], matrix)
    made = dedup(store, by="embedding", features="feats")
    assert kept(store, ids) == [0, 1, 2, 5]
    assert set(pairs(store, "exact")) == {(ids[4], ids[0])} and set(pairs(store, "near")) == {(ids[3], ids[2])}
    assert made.summary["samples without a usable vector"] == 4


def test_numbers_signs_and_answers_to_the_same_prompt_are_not_hidden_by_a_vector(store: Store) -> None:
    rows = [
        ("8 - 3", "five"),
        ("8 + 3", "five"),
        ("Is it safe?", "yes"),
        ("Is it safe?", "no"),
        ("Is it safe?", "yes indeed yes it is"),
        ("is it safe ?", "indeed yes it is"),
        ("Is it safe?", "Yes indeed, yes, it is"),
        ("Say it", "²"),
        ("Say it", "2"),
    ]
    ids = pool(store, rows)
    features(store, ids, np.ones((len(rows), 3)))
    dedup(store, by="embedding", features="feats")
    near = {(ids.index(one), ids.index(two)) for one, two in pairs(store, "near")}
    assert not {frozenset((0, 1)), frozenset((2, 3)), frozenset((7, 8))} & set(map(frozenset, near))
    assert frozenset((4, 6)) in set(map(frozenset, near))
    listed = {frozenset((ids.index(one), ids.index(two))) for one, two in pairs(store, "contradiction")}
    assert frozenset((7, 8)) in listed


def test_another_pool_is_compared_by_its_own_features(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = pool(store, [("one", "x"), ("two", "x"), ("three", "x")])
    other = pool(store, [("four", "x"), ("five", "x")], "held")
    features(store, ids, np.array([[1.0, 0], [0, 1], [1, -1]]))
    features(store, other, np.array([[1.0, 0.01], [-1, 0]]), "held-feats", of="held")
    options: dict[str, Any] = {"by": "embedding", "features": "feats", "against": "held"}
    dedup(store, target_features="held-feats", **options)
    assert kept(store, ids) == [1, 2] and set(pairs(store, "near")) == {(ids[0], other[0])}
    monkeypatch.setattr(stage, "measure", lambda *_: pytest.fail("measured again"))
    assert "pairs" in dedup(store, "again", target_features="held-feats", threshold=0.96, **options).summary
    monkeypatch.undo()
    features(store, other, np.ones((2, 2)), "other-model", of="held", model="n")
    features(store, other, np.ones((2, 3)), "wide", of="held")
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({**options}, ConfigError, "--against and --target-features"),
        ({"by": "embedding"}, ConfigError, "give --features"),
        ({"by": "embedding", "features": "feats", "on": "prompt"}, ConfigError, "leave --on at both"),
        ({"by": "embedding", "features": "held-feats"}, DataError, "not of the pool 'pool'"),
        ({**options, "target_features": "feats"}, DataError, "not of the pool 'held'"),
        ({**options, "target_features": "other-model"}, DataError, "different models made them"),
        ({"by": "embedding", "features": "feats", "vector": "sketch"}, DataError, "no vector column 'sketch'"),
        ({"vector": "sketch"}, ConfigError, "--vector has an effect only"),
        ({"target_features": "held-feats"}, ConfigError, "--target-features has an effect only"),
    ]
    for values, error, text in cases:
        with pytest.raises(error, match=text):
            dedup(store, "bad", **values)
    assert not store.has("bad")


def test_vectors_of_another_width_are_one_sentence(store: Store) -> None:
    ids, other = pool(store, [("one", "x"), ("two", "x")]), pool(store, [("four", "x"), ("five", "x")], "held")
    features(store, ids, np.ones((2, 2)))
    features(store, other, np.ones((2, 3)), "wide", of="held")
    with pytest.raises(DataError, match="have 3 numbers"):
        dedup(store, by="embedding", features="feats", against="held", target_features="wide")
