"""`curate curriculum`: order and weights from the ledger, against the obvious loops; and runs that follow them."""

from __future__ import annotations

import itertools
import math
import shutil
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from curate import make
from curate.errors import ArtifactNotFound, ConfigError, DataError
from curate.log import LOGGER
from curate.store import Store
from tests.support.fake_runs import LEDGERS, POOL, N, Row, add_run, curriculum, ids_of, listed, query_file, store_of
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_of(tmp_path_factory.mktemp("past"))


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store(shutil.copytree(made, tmp_path / "store"))


def measures(rows: list[Row]) -> dict[int, dict[str, float]]:
    """Measures of each sample in a run, by the obvious loop."""
    found: dict[int, dict[str, float]] = {}
    for n in {row["n"] for row in rows}:
        seen = [row for row in rows if row["n"] == n]
        looks = [row for row in seen if row["loss"] is not None]
        kept = [row["loss"] for row in looks if row["kept"]]
        own: dict[str, float] = {"kept": sum(row["kept"] for row in seen)}
        own["keep_rate"] = own["kept"] / len(seen)
        if looks:
            losses = [row["loss"] for row in looks]
            signs = [math.copysign(1, b - a) for a, b in itertools.pairwise(losses) if a != b]
            own["loss"] = kept[0] if kept else losses[-1]
            own["forgotten"] = sum((a, b) == (-1, 1) for a, b in itertools.pairwise(signs))
            own["volatility"] = statistics.pstdev(losses)
        found[n] = own
    return found


def mean(runs: str, name: str) -> dict[int, float]:
    """The mean of a measure over the runs that have it."""
    by_run = [measures(LEDGERS[run]) for run in runs]
    return {
        n: statistics.fmean(own[n][name] for own in by_run if name in own.get(n, {}))
        for n in range(N)
        if any(name in own.get(n, {}) for own in by_run)
    }


ORDERS: dict[str, Callable[[str], dict[int, tuple[float, ...]]]] = {
    "easy_to_hard": lambda runs: {n: (loss,) for n, loss in mean(runs, "loss").items()},
    "hard_to_easy": lambda runs: {n: (-loss,) for n, loss in mean(runs, "loss").items()},
    "most_kept": lambda runs: {n: (-kept, -mean(runs, "keep_rate")[n]) for n, kept in mean(runs, "kept").items()},
    "forgetting": lambda runs: {n: (-f, -mean(runs, "volatility")[n]) for n, f in mean(runs, "forgotten").items()},
}


@pytest.mark.parametrize("runs", ["a", "ab"])
@pytest.mark.parametrize("order", ORDERS)
def test_an_order_goes_by_what_the_runs_saw_and_leaves_out_what_they_did_not(
    store: Store, order: str, runs: str
) -> None:
    made = curriculum(store, runs=list(runs), order=order)
    ids, keys = ids_of(store), ORDERS[order](runs)
    twin = sorted(keys, key=lambda n: (*(round(value, 9) for value in keys[n]), ids[n]))
    rows = listed(store)
    assert [row["sample_id"] for row in rows] == [ids[n] for n in twin]
    assert [row["rank"] for row in rows] == list(range(len(rows)))
    assert [abs(row["score"]) for row in rows] == pytest.approx([abs(keys[n][0]) for n in twin])
    assert {row["weight"] for row in rows} == {row["epoch"] for row in rows} == {None}
    assert made.rows == len(twin) < N and made.summary["samples"] == f"{len(twin)} of {N}"
    assert made.summary["without a value"] == f"{N - len(twin)}, left out"
    assert made.inputs["pool"] == store.get("pool").fingerprint


def test_the_easy_order_is_the_saved_questions(store: Store) -> None:
    curriculum(store)
    sql = (ROOT / "store/queries/curriculum.sql").read_text(encoding="utf-8")
    answer = store.query(sql, {"run": "a"}).to_pylist()
    rows = [(row["sample_id"], row["score"]) for row in listed(store)]
    assert rows == [(row["sample_id"], row["loss"]) for row in answer]


@pytest.mark.parametrize("weights", ["keep_rate", "loss"])
def test_weights_are_measures_and_who_has_none_gets_the_mean(store: Store, weights: str) -> None:
    made = curriculum(store, runs=["a", "b"], order="most_kept", weights=weights, never_offered="last")
    twin, ids = mean("ab", weights), ids_of(store)
    rows = {row["sample_id"]: row for row in listed(store)}
    other = statistics.fmean(twin.values())
    assert len(rows) == N
    for n, sample_id in enumerate(ids):
        assert rows[sample_id]["weight"] == pytest.approx(twin.get(n, other))
    last = [row["sample_id"] for row in list(rows.values())[-(N - len(mean("ab", "kept"))) :]]
    assert last == sorted(ids[n] for n in range(N) if n not in mean("ab", "kept"))
    assert {rows[sample_id]["score"] for sample_id in last} == {None}
    assert made.summary["without a value"] == f"{len(last)}, put last"
    assert made.summary["weights that are the mean of the others"] == N - len(twin)


@pytest.mark.parametrize("rounds", [2, 3, 7])
def test_rounds_grow_until_they_hold_all(store: Store, rounds: int) -> None:
    curriculum(store, "whole")
    made = curriculum(store, rounds=rounds)
    whole = [row["sample_id"] for row in listed(store, "whole")]
    by_round: dict[int, list[str]] = {}
    for row in listed(store):
        by_round.setdefault(row["epoch"], []).append(row["sample_id"])
    assert list(by_round) == list(range(1, rounds + 1))
    for number, samples in by_round.items():
        assert samples == whole[: math.ceil(number * len(whole) / rounds)]
    assert made.rows == len(whole) == len(by_round[rounds])
    assert made.summary["candidates of a pass over the rounds"] == sum(map(len, by_round.values()))


def test_a_query_gives_order_score_and_weight_and_its_answer_counts(store: Store) -> None:
    order = query_file(
        "-- what of $run?\nSELECT sample_id, max(loss) AS score, count(*) AS times FROM sample_history "
        "WHERE list_contains($runs, run) GROUP BY sample_id ORDER BY score DESC NULLS LAST, sample_id"
    )
    first = curriculum(store, runs=["a", "b"], order=order, weights="times", never_offered="last")
    rows, ids = listed(store), ids_of(store)
    both = [row for run in LEDGERS.values() for row in run]
    worst = {n: max((r["loss"] or -1) for r in both if r["n"] == n) for n in {r["n"] for r in both}}
    twin = sorted(worst, key=lambda n: (-worst[n], ids[n]))
    assert [row["sample_id"] for row in rows[: len(twin)]] == [ids[n] for n in twin] and len(rows) == N
    times = Counter(row["n"] for row in both)
    assert [row["weight"] for row in rows[: len(twin)]] == [times[n] for n in twin]
    Path("order.sql").rename("elsewhere.sql")
    again = curriculum(store, "d", runs=["a", "b"], order="sql:elsewhere.sql", weights="times", never_offered="last")
    assert again.fingerprint == first.fingerprint
    other = query_file("SELECT DISTINCT sample_id, 1 AS times FROM ledger ORDER BY 1")
    changed = curriculum(store, "e", runs=["a", "b"], order=other, weights="times", never_offered="last")
    assert changed.fingerprint != first.fingerprint
    single = query_file("SELECT sample_id FROM volatility WHERE run = $run ORDER BY volatility, sample_id")
    assert curriculum(store, "f", order=single).rows == len(mean("a", "volatility"))


@pytest.mark.parametrize(
    ("values", "query", "error", "message"),
    [
        ({"runs": ["x"]}, "", ArtifactNotFound, "nothing named 'x'.*curate train --name x"),
        ({"runs": ["pool"]}, "", ArtifactNotFound, "made by ingest, not by train"),
        ({"runs": ["a", "a"]}, "", ConfigError, "--from names a run twice"),
        ({"runs": []}, "", ConfigError, "runs"),
        ({"runs": ["a", "far"]}, "", DataError, "The runs a and far are over different pools"),
        ({"runs": ["blind"]}, "", DataError, "run 'blind' has no losses.*or --order most_kept"),
        ({"order": "easy_to_hrd"}, "", ConfigError, "there is no order 'easy_to_hrd'. Did you mean 'easy_to_hard'"),
        ({"weights": "keep_rat"}, "", ConfigError, "not a measure of the ledger. Did you mean 'keep_rate'"),
        ({"rounds": 99}, "", ConfigError, "--rounds 99 is more than the"),
        ({"order": "sql:no.sql"}, "", ConfigError, "there is no file no.sql"),
        ({"runs": ["a", "b"]}, "SELECT $run AS sample_id", ConfigError, r"uses one run .* use \$runs"),
        ({}, "SELECT 1 AS x", DataError, "must return a column sample_id, but it returns x"),
        ({}, "SELECT 'nobody' AS sample_id", DataError, "1 of 1 sample_ids of the query are not in the pool"),
        ({}, "SELECT sample_id FROM samples WHERE false", DataError, "have no value for any sample of the pool 'pool'"),
        ({"weights": "w"}, "SELECT sample_id FROM samples", ConfigError, "returns no column 'w'"),
        ({}, "SELECT sample_id, 'high' AS score FROM samples", DataError, "score of the query holds string"),
        ({"weights": "w"}, "SELECT sample_id, -1 AS w FROM samples", DataError, "cannot be used to draw samples"),
        ({"weights": "w"}, "SELECT sample_id, 0 AS w FROM samples", DataError, "cannot be used to draw samples"),
    ],
)
def test_what_cannot_be_ordered_raises_an_error_with_the_reason(
    store: Store, values: Row, query: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        curriculum(store, **({"order": query_file(query)} if query else {}) | values)
    assert not store.has("c")


def test_an_order_without_a_forgotten_sample_and_weights_of_zero_are_reported(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    curriculum(store, order="forgetting")
    assert "No sample was forgotten" not in caplog.text
    rows = [{"step": step, "n": n, "kept": n == 1, "loss": step + n / 9} for step in (1, 2) for n in range(4)]
    add_run(store, "short", 9, rows, ids_of(store))
    made = curriculum(store, "d", runs=["short"], order="forgetting", weights="keep_rate")
    assert "No sample was forgotten" in caplog.text
    assert made.summary["weights of 0, never drawn"] == 3 and made.summary["weights"] == "0 to 1"


def test_a_curriculum_is_exported_in_its_order_with_its_weights_each_sample_once(store: Store) -> None:
    curriculum(store, weights="keep_rate", rounds=3)
    rows, ids = listed(store), ids_of(store)
    whole = [row for row in rows if row["epoch"] == 3]
    first = {row["sample_id"]: row["epoch"] for row in reversed(rows)}
    make(store, "export", name="out", subset="c", file_format="hf", columns=["rank", "weight", "epoch", "sample_id"])
    import datasets

    out = list(datasets.load_from_disk("exports/out"))
    assert [row["sample_id"] for row in out] == [row["sample_id"] for row in whole]
    assert [row["weight"] for row in out] == [row["weight"] for row in whole]
    assert [row["rank"] for row in out] == list(range(len(whole)))
    assert [row["epoch"] for row in out] == [first[row["sample_id"]] for row in out]
    assert out[0]["instruction"] == POOL[ids.index(out[0]["sample_id"])]["instruction"]
    text = Path("exports/out/README.md").read_text()
    assert "| order | easy_to_hard |" in text and "| weights | keep_rate |" in text
