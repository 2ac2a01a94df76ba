"""`curate dedup --keep` by scores, and another threshold or rule without measuring again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from curate import make
from curate.errors import ConfigError, DataError
from curate.stages.dedup import stage
from curate.stages.dedup.earlier import COUNTS, PAIRS, ROWS
from curate.store import Store
from tests.stages.dedup.pools import Row, dedup, features, kept, pool

LONG = "the quick brown fox jumps over a lazy dog while seven tired cats watch from old walls " * 2
ROWS_OF_GROUPS: list[Row] = [("a", "b"), ("A", "b"), ("a ", "b"), ("c", "d"), ("C", "d"), ("e", "f")]
NAN = float("nan")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store(tmp_path / "store")


@pytest.mark.parametrize(
    ("rule", "loss", "expected"),
    [
        ("highest", [1.0, 3.0, 2.0, 1.0, 1.0, 0.0], [1, 3, 5]),
        ("lowest", [1.0, 3.0, 0.5, 1.0, 1.0, 0.0], [2, 3, 5]),
        ("highest", [NAN, -3.0, None, None, NAN, None], [1, 3, 5]),
        ("lowest", [NAN, 3.0, None, None, 9.0, 1.0], [1, 4, 5]),
        ("highest", [float("-inf"), NAN, None, 0.0, float("inf"), 0.0], [0, 4, 5]),
    ],
)
def test_the_sample_with_the_best_score_is_kept_and_the_first_of_equal_ones(
    store: Store, rule: str, loss: list[float | None], expected: list[int]
) -> None:
    ids = pool(store, ROWS_OF_GROUPS)
    features(store, ids, loss=loss)
    made = dedup(store, keep=f"{rule}:loss", features="feats")
    assert kept(store, ids) == expected
    missing = sum(value is None or value != value for value in loss)
    assert made.summary.get("samples without a score", 0) == missing
    values = store.query("SELECT score FROM subsets WHERE subset = 'c' ORDER BY \"rank\"")["score"].to_pylist()
    assert values == [None if loss[row] != loss[row] else loss[row] for row in expected]
    sql = "SELECT sample_id, loss AS score FROM features WHERE features = 'feats'"
    assert dedup(store, "by-sql", keep=rule, sql=sql).fingerprint != made.fingerprint
    assert kept(store, ids, "by-sql") == expected


def test_columns_of_a_grade_decide_and_only_columns_with_values_are_offered(store: Store) -> None:
    ids = pool(store, ROWS_OF_GROUPS)
    make(store, "grade", name="g", pool="pool", signals=("lengths",))
    features(store, ids, loss=[1.0, 9.0, 2.0, 1.0, 2.0, 3.0])
    dedup(store, keep="lowest:answer_words", features="g")
    assert kept(store, ids) == [0, 3, 5]
    with pytest.raises(DataError, match="made by curate grade, which reads texts and makes no vectors"):
        dedup(store, "v", by="embedding", features="g")
    with pytest.raises(ConfigError, match="'feats' has no numeric column 'answer_words'") as error:
        dedup(store, "w", keep="lowest:answer_words", features="feats")
    assert "prompt_words" not in str(error.value) and "loss" in str(error.value)


def test_a_row_of_the_other_pool_goes_before_every_score(store: Store) -> None:
    ids = pool(store, ROWS_OF_GROUPS)
    pool(store, [("a", "B")], "held")
    features(store, ids, loss=[1.0, 9.0, 2.0, 1.0, 2.0, 3.0])
    dedup(store, keep="highest:loss", features="feats", against="held")
    assert kept(store, ids) == [4, 5]


def test_scores_that_cannot_be_used_are_one_sentence(store: Store) -> None:
    ids = pool(store, ROWS_OF_GROUPS)
    pool(store, ROWS_OF_GROUPS[3:], "other")
    features(store, ids, loss=[NAN] * len(ids))
    features(store, ids[3:], name="of-other", of="other", loss=[1.0] * 3)
    one = "SELECT sample_id, 1.0 AS score FROM samples WHERE pool = 'pool'"
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"keep": "best"}, ConfigError, "no rule"),
        ({"keep": "highst:loss", "features": "feats"}, ConfigError, "Did you mean 'highest'"),
        ({"keep": "first:loss", "features": "feats"}, ConfigError, "no rule"),
        ({"keep": "highest"}, ConfigError, "needs scores"),
        ({"keep": "highest:", "features": "feats"}, ConfigError, "no rule"),
        ({"keep": "highest:loss"}, ConfigError, "give --features"),
        ({"keep": "highest:los", "features": "feats"}, ConfigError, "Did you mean 'loss'"),
        ({"keep": "highest:loss", "features": "feats"}, DataError, "No sample of the pool 'pool' has a score"),
        ({"keep": "highest:loss", "features": "of-other"}, DataError, "not of the pool 'pool'"),
        ({"features": "feats"}, ConfigError, "--features has an effect only"),
        ({"sql": one}, ConfigError, "does not fit first"),
        ({"timeout": 3.0}, ConfigError, "--timeout limits a query"),
        ({"keep": "lowest", "sql": "SELECT sample_id FROM samples"}, DataError, "column score"),
        ({"keep": "lowest", "sql": f"{one} UNION ALL {one}"}, DataError, "again"),
        ({"keep": "lowest", "sql": one.replace("1.0", "random()")}, DataError, "each time"),
        ({"keep": "lowest", "sql": one.replace("1.0", "'x'")}, DataError, "not of numbers"),
        ({"by": "exact", "threshold": 0.9}, ConfigError, "no effect with --by exact"),
    ]
    for values, error, text in cases:
        with pytest.raises(error, match=text):
            dedup(store, **values)
    assert not store.has("c")


def near(store: Store) -> list[str]:
    """A pool of near copies with a similarity of about 0.97, 0.85 and 0.73."""
    rows = [(f"{LONG} {end}", "yes indeed") for end in ("", "one", "one two", "one two three four five six")]
    return pool(store, [*rows, ("other", "text"), ("OTHER", "text"), ("other", "answer")])


def same_bytes(one: Store, two: Store, name: str) -> None:
    folders = [store.get(name).path for store in (one, two)]
    for file in ("part-00000.parquet", ROWS, PAIRS, COUNTS):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()
    for table in ("subsets", "duplicates"):
        sql = f"SELECT * FROM {table} WHERE subset = $name"
        assert one.query(sql, {"name": name}).equals(two.query(sql, {"name": name}))


def test_another_threshold_or_rule_reads_the_pairs_and_gives_what_a_fresh_run_gives(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near(store)
    pool(store, [("Other", "Text"), (f"{LONG} two", "yes indeed")], "held")
    fresh = Store(tmp_path / "fresh")
    near(fresh)
    pool(fresh, [("Other", "Text"), (f"{LONG} two", "yes indeed")], "held")
    dedup(store, "first", threshold=0.8)
    dedup(store, "across", threshold=0.8, against="held")
    again: list[dict[str, Any]] = [{"threshold": 0.7}, {"threshold": 0.95}, {"threshold": 1.0}, {"keep": "longest"}]
    again += [{**values, "against": "held"} for values in again]
    results = []
    with monkeypatch.context() as patch:
        patch.setattr(stage, "find_measured", lambda *_: None)
        for number, values in enumerate(again):
            make(fresh, "dedup", name=f"r{number}", pool="pool", **values)
    monkeypatch.setattr(stage, "measure", lambda *_: pytest.fail("measured again"))
    for number, values in enumerate(again):
        made = dedup(store, f"r{number}", **values)
        assert made.summary["pairs"].startswith("as measured for ")
        assert "pairs" not in fresh.get(f"r{number}").summary
        results.append(kept(store, store.get("pool").table(["sample_id"])["sample_id"].to_pylist(), f"r{number}"))
        same_bytes(store, fresh, f"r{number}")
    assert len(set(map(tuple, results))) > 4


def test_what_was_measured_otherwise_or_is_damaged_is_measured_again(store: Store, tmp_path: Path) -> None:
    ids = near(store)
    first = dedup(store, "first")
    for name, values in {"low": {"threshold": 0.5}, "on": {"on": "prompt"}, "exact": {"by": "exact"}}.items():
        assert "pairs" not in dedup(store, name, **values).summary
    assert "pairs" in dedup(store, "more", threshold=0.9).summary
    expected = kept(store, ids, "more")
    for folder in (first.path, store.get("more").path):
        counts = json.loads((folder / COUNTS).read_text())
        (folder / COUNTS).write_text(json.dumps({**counts, "other": -7}))
    made = dedup(store, "most", threshold=0.91)
    assert "pairs" not in made.summary and kept(store, ids, "most") == expected
