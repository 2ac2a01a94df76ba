"""Stored features that `curate train --features NAME` joins to the candidates, by column name and sample id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curate import Artifact, make
from curate.errors import ConfigError, CurateError, DataError
from curate.selectors import SELECTORS, CandidateBatch, Scores, Selector
from curate.store import Store

SMALL = {"candidates": 8, "keep": 4, "max_steps": 6, "max_length": 64, "logging_steps": 2, "save_steps": 2}
HALF = 60


class ByUtility(Selector):
    """Keeps the candidates with the highest stored utility; the ledger records the values that were joined."""

    features = ("utility",)

    def score(self, batch: CandidateBatch) -> Scores:
        return Scores(batch.reference["utility"], {"joined": batch.reference["utility"]})


class ByGrade(Selector):
    """Keeps the candidates with the longest answers; it also needs a column of a file of scores."""

    features = ("answer_words", "judged")

    def score(self, batch: CandidateBatch) -> Scores:
        return Scores(batch.reference["answer_words"], {"judged": batch.reference["judged"]})


class ByMisspelt(ByUtility):
    """Needs a column that no artifact has."""

    features = ("utilty",)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, tiny: str, pool_file: Path) -> Store:
    """Return a store with a pool and its features `feats`, and with the features `half_feats` of its first half."""
    folder = tmp_path_factory.mktemp("features")
    store = Store(folder / "store")
    (folder / "half.jsonl").write_text("".join(pool_file.read_text().splitlines(keepends=True)[:HALF]))
    for name, pool, file in (("feats", "pool", pool_file), ("half_feats", "half", folder / "half.jsonl")):
        make(store, "ingest", name=pool, data=[str(file)])
        make(store, "embed", name=name, pool=pool, model=tiny, max_length=64, signals=("loss", "utility"))
    return store


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SELECTORS, "by_utility", ByUtility)
    monkeypatch.setitem(SELECTORS, "by_misspelt", ByMisspelt)
    monkeypatch.setitem(SELECTORS, "by_grade", ByGrade)


def train(store: Store, tiny: str, **values: Any) -> Artifact:
    return make(store, "train", pool="pool", model=tiny, **{"name": "run", **SMALL, **values})


def test_a_selector_gets_exactly_the_stored_values_of_its_samples(features: Store, tiny: str) -> None:
    train(features, tiny, selector="by_utility", features="feats")
    sql = """SELECT l.step, l.kept, l.score, l.parts['joined'] AS joined, f.utility
             FROM ledger l JOIN features f USING (sample_id) WHERE f.features = 'feats'"""
    rows = features.query(sql).to_pylist()
    assert len(rows) == 6 * 8 and len({row["utility"] for row in rows}) > 8
    assert all(row["joined"] == row["score"] == row["utility"] for row in rows)
    for step in range(1, 7):
        best = sorted((row for row in rows if row["step"] == step), key=lambda row: -row["utility"])
        assert [row["kept"] for row in best] == [True] * 4 + [False] * 4


def test_a_selector_gets_the_columns_of_a_grade_and_of_its_scores(features: Store, tiny: str, tmp_path: Path) -> None:
    ids = dict.fromkeys(features.query("SELECT sample_id FROM samples WHERE pool = 'pool'")["sample_id"].to_pylist())
    file = tmp_path / "judged.csv"
    file.write_text("sample_id,judged\n" + "".join(f"{each},{number}\n" for number, each in enumerate(ids)))
    make(features, "grade", name="g", pool="pool", signals=["lengths"], scores=str(file))
    train(features, tiny, name="graded", selector="by_grade", features="g")
    sql = """SELECT l.score, l.parts['judged'] AS joined, f.answer_words, f.judged
             FROM ledger l JOIN features f USING (sample_id) WHERE f.features = 'g' AND l.run = 'graded'"""
    rows = features.query(sql).to_pylist()
    assert len(rows) == 6 * 8 and len({row["judged"] for row in rows}) > 8
    assert all(row["score"] == row["answer_words"] and row["joined"] == row["judged"] for row in rows)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"selector": "by_utility"}, ConfigError, "by_utility needs --features NAME.*'utility'.*curate embed"),
        ({"selector": "by_misspelt", "features": "feats"}, ConfigError, "feats.*'utilty'.*Did you mean 'utility'"),
        ({"selector": "by_utility", "features": "half_feats"}, DataError, "half_feats.*utility.*60 samples"),
        ({"selector": "random", "features": "feats"}, ConfigError, "random.*--features feats"),
        ({"selector": "rho", "features": "feats"}, ConfigError, "rho.*--features feats"),
    ],
)
def test_features_that_do_not_fit_the_selector_are_one_clear_error(
    features: Store, tiny: str, options: dict[str, Any], kind: type[CurateError], message: str
) -> None:
    with pytest.raises(kind, match=message) as error:
        train(features, tiny, name="other", **options)
    assert "\n" not in str(error.value) and str(error.value).endswith((".", "?"))
