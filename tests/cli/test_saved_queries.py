"""Tests of the saved questions: each runs on a small store whose answers can be counted by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curate.config import Config
from curate.samples import Sample, to_table
from curate.store import Draft, Store
from tests.support.paths import ROOT

QUERIES = sorted((ROOT / "store" / "queries").glob("*.sql"))
PARAMETERS = {"run": "uds", "runs": "*", "clusters": "groups", "least": 0.9, "attribution": "why"}


class RunConfig(Config):
    pool: str | None = None
    selector: str | None = None


# Row 2 is an exact copy of row 0; row 3 is garbled.
TEXTS = ["1 + 1 =", "Name the mayor\nof Ardo.", "1 + 1 =", "Count x."]
PLANTED = ["", "", "exact_duplicate", "garbled"]
SAMPLES = [
    Sample([{"role": "user", "content": text}, {"role": "assistant", "content": "2"}], source=source)
    for text, source in zip(TEXTS, ["sums", "facts", "sums", "noise"], strict=True)
]
IDS = [sample.sample_id for sample in SAMPLES]


def pool(draft: Draft) -> None:
    draft.write(0, to_table(SAMPLES, 0))
    records = [
        {
            "sample_id": sample.sample_id, "position": place, "source": sample.source, "format": "messages",
            "turns": 2, "characters": sample.characters, "metadata": f'{{"noise": "{planted}"}}',
        }
        for place, (sample, planted) in enumerate(zip(SAMPLES, PLANTED, strict=True))
    ]  # fmt: skip
    draft.add("samples", pa.Table.from_pylist(records))
    draft.rows = len(SAMPLES)


def ledger(rows: list[tuple[int, int, bool, float]]) -> pa.Table:
    """Return a ledger of (step, position, kept, loss). Every sample has ten tokens."""
    parts = pa.map_(pa.string(), pa.float64())
    columns = {
        "step": [step for step, *_ in rows],
        "rank": [0] * len(rows),
        "slot": list(range(len(rows))),
        "sample_id": [IDS[place] for _, place, *_ in rows],
        "position": [place for _, place, *_ in rows],
        "kept": [kept for *_, kept, _ in rows],
        "score": [loss for *_, loss in rows],
        "weight": pa.nulls(len(rows), pa.float64()),
        "loss": [loss for *_, loss in rows],
        "tokens": [10] * len(rows),
        "target_tokens": [2] * len(rows),
        "parts": pa.array([[("utility", loss), ("diversity", 1.0)] for *_, loss in rows], parts),
    }
    return pa.table(columns)


def run(rows: list[tuple[int, int, bool, float]], metrics: dict[str, float]) -> Any:
    def fill(draft: Draft) -> None:
        draft.add("ledger", ledger(rows))
        names = ["eval_loss", *metrics]
        values = [9.0, *metrics.values()]
        steps = [0] + [2] * len(metrics)
        draft.add("metrics", pa.table({"step": steps, "metric": names, "value": values}))

    return fill


def clusters(draft: Draft, *, titled: bool = True) -> None:
    rows = [
        (IDS[0], 0, 0.9, 1, IDS[1], 0.95),
        (IDS[1], 0, 0.8, 2, IDS[0], 0.95),
        (IDS[3], 1, 1.0, 1, IDS[0], 0.1),
    ]
    names = ["sample_id", "cluster", "similarity", "representative", "nearest_id", "nearest_similarity"]
    draft.add("clusters", pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]))
    if titled:
        named = {
            "cluster": 0,
            "size": 2,
            "title": "sum, mayor",
            "keywords": ["sum", "mayor"],
            "representative_id": IDS[0],
        }
        draft.add("cluster_titles", pa.Table.from_pylist([named]))


def evaluation(run: str | None) -> Any:
    """Return the loss of a model that `run` made, on all samples and on one source."""
    rows = [
        {"run": run, "task": "held", "metric": "loss", "grouped_by": by, "slice": part, "value": 1.25, "samples": 4}
        for by, part in ((None, None), ("source", "sums"))
    ]
    return lambda draft: draft.add("evaluations", pa.Table.from_pylist(rows))


def attribution(draft: Draft) -> None:
    """Influence of 30 samples on two queries and on their mean; of one, the text is known."""
    rows = [
        {"query_id": query, "sample_id": IDS[1] if rank == 29 else f"s{rank}", "rank": rank, "from_bottom": 29 - rank,
         "influence": 1.0 - rank / 10, "share": 0.0, "steps": 2}
        for query in ("q", "r", None) for rank in range(30)
    ]  # fmt: skip
    draft.add("attributions", pa.Table.from_pylist(rows))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    fingerprint = store.make("ingest", pool, Config(name="demo")).fingerprint
    uds = [(1, 0, True, 2.0), (1, 1, False, 1.0), (1, 3, False, 4.0), (2, 1, True, 3.0), (2, 2, False, 0.5)]
    timed = {"seconds_training": 8.0, "seconds_scoring_forward": 3.0, "seconds_score_arithmetic": 1.0}
    config = RunConfig(name="uds", pool="demo", selector="uds")
    made = store.make("train", run(uds, {"eval_loss": 1.5, **timed}), config, {"pool": fingerprint})
    store.make("evaluate", evaluation(made.fingerprint), Config(name="after"), {"model": made.fingerprint})
    store.make("evaluate", evaluation(None), Config(name="before"))
    every = [(1, 0, True, 2.0), (1, 2, True, 2.0), (2, 3, True, 4.0), (2, 1, True, 1.0)]
    config = RunConfig(name="random", pool="demo", selector="random")
    store.make("train", run(every, {"eval_loss": 2.5}), config, {"pool": fingerprint})
    store.make("attribute", attribution, Config(name="why"), {"run": made.fingerprint})
    store.make("cluster", clusters, Config(name="groups"))
    store.make("cluster", lambda draft: clusters(draft, titled=False), Config(name="older"), {"features": "older"})
    return store


def ask(store: Store, question: str, **params: Any) -> list[dict[str, Any]]:
    path = next(path for path in QUERIES if path.stem == question)
    return store.query(path.read_text(encoding="utf-8"), params).to_pylist()


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_every_saved_question_says_what_it_asks_and_its_parameters_and_finds_rows(store: Store, path: Path) -> None:
    sql = path.read_text(encoding="utf-8")
    header = sql.split("\n", 1)[0]
    names = set(re.findall(r"\$(\w+)", sql))
    assert header.startswith("-- ") and "?" in header and len(header) <= 120
    assert set(re.findall(r"\$(\w+)", header)) == names
    assert len(store.query(sql, {name: PARAMETERS[name] for name in names})) > 0


def test_runs_are_compared_with_each_other_and_with_the_pool(store: Store) -> None:
    rows = {row["run"]: row for row in ask(store, "compare_runs", runs="*")}
    assert list(rows)[-1] == "demo"
    assert rows["uds"] == {
        "run": "uds", "selector": "uds", "steps": 2, "kept": 2, "tokens": 20, "heldout_loss": 1.5, "seconds": 12.0,
        "scoring_seconds": 4.0, "copies": 0.0, "duplicates": 0.0, "noise": 0.0,
    }  # fmt: skip
    assert (rows["random"]["kept"], rows["random"]["heldout_loss"], rows["random"]["seconds"]) == (4, 2.5, None)
    for name in ("random", "demo"):
        assert (rows[name]["copies"], rows[name]["duplicates"], rows[name]["noise"]) == (0.25, 0.25, 0.25)


def test_runs_are_chosen_by_a_pattern(store: Store) -> None:
    assert [row["run"] for row in ask(store, "compare_runs", runs="u*")] == ["uds", "demo"]


def test_a_sample_with_copies_is_counted_once_and_shown_with_its_text(store: Store) -> None:
    rows = ask(store, "most_kept", run="random")
    assert rows[0]["kept"] == 2 and rows[0]["start"] == "1 + 1 =" and rows[0]["sample_id"] == IDS[0]
    assert len(rows) == 3 and {row["kept"] for row in rows[1:]} == {1}
    assert "Name the mayor of Ardo." in {row["start"] for row in rows}


def test_what_was_never_kept_was_a_candidate(store: Store) -> None:
    assert [(row["start"], row["candidate"], row["mean_loss"]) for row in ask(store, "never_kept", run="uds")] == [
        ("Count x.", 1, 4.0)
    ]


def test_shares_by_source_and_by_cluster_add_up(store: Store) -> None:
    sources = {row["source"]: row for row in ask(store, "kept_by_source", run="uds")}
    assert (sources["sums"]["rows"], sources["sums"]["candidates"], sources["sums"]["kept"]) == (2, 2, 1)
    assert sources["noise"]["kept"] == 0 and sources["noise"]["share_of_kept"] == 0
    assert sum(row["share_of_pool"] for row in sources.values()) == 1
    first, second = ask(store, "kept_by_cluster", run="uds", clusters="groups")
    assert (first["samples"], first["candidates"], first["kept"], first["share_of_kept"]) == (2, 4, 2, 1.0)
    assert (second["candidates"], second["kept"], second["representative"]) == (1, 0, "Count x.")
    assert (first["title"], second["title"]) == ("sum, mayor", None)


def test_clusters_have_titles_and_those_of_an_older_curate_are_shown_without(store: Store) -> None:
    first, second = ask(store, "clusters", clusters="groups")
    assert (first["title"], first["samples"]) == ("sum, mayor", 2)
    assert (first["share_of_samples"], first["similarity"], first["representative"]) == (0.6667, 0.85, "1 + 1 =")
    assert (second["title"], second["representative_id"], second["representative"]) == (None, IDS[3], "Count x.")
    for question, given in (("clusters", {}), ("kept_by_cluster", {"run": "uds"})):
        new, old = (ask(store, question, clusters=name, **given) for name in ("groups", "older"))
        unnamed = [{key: None if key == "title" else row[key] for key in row} for row in new]
        assert old == unnamed and len(old) == 2


def test_the_terms_of_the_score_are_averaged_by_step(store: Store) -> None:
    rows = {(row["step"], row["part"]): row for row in ask(store, "score_parts_by_step", run="uds")}
    assert rows[1, "utility"]["candidates_mean"] == pytest.approx(7 / 3)
    assert rows[1, "utility"]["kept_mean"] == 2.0 and rows[2, "diversity"]["kept_mean"] == 1.0


def test_forgetting_looks_only_at_samples_seen_twice(store: Store) -> None:
    rows = {row["sample_id"]: row for row in ask(store, "most_forgotten", run="uds")}
    assert list(rows) == [IDS[1], IDS[0]], "equally often, so by volatility"
    assert (rows[IDS[1]]["rises"], rows[IDS[1]]["forgotten"], rows[IDS[1]]["mean_loss"]) == (1, 0, 2.0)
    assert rows[IDS[1]]["volatility"] == pytest.approx(1.0) and rows[IDS[0]]["rises"] == 0


def test_a_pair_of_near_duplicates_is_named_once(store: Store) -> None:
    rows = ask(store, "near_duplicates", clusters="groups", least=0.9)
    assert [{row["start"], row["other_start"]} for row in rows] == [{"1 + 1 =", "Name the mayor of Ardo."}]


def test_a_curriculum_goes_by_the_loss_before_training(store: Store) -> None:
    rows = ask(store, "curriculum", run="uds")
    assert [(row["sample_id"], row["loss"]) for row in rows] == [(IDS[0], 2.0), (IDS[1], 3.0), (IDS[3], 4.0)]


def test_an_attribution_shows_both_ends_of_the_mean_once_with_texts(store: Store) -> None:
    rows = ask(store, "attributed", attribution="why")
    assert [row["rank"] for row in rows] == [*range(10), *range(20, 30)]
    assert (rows[-1]["start"], rows[-1]["influence"], rows[0]["start"]) == ("Name the mayor of Ardo.", 1.0 - 2.9, None)


def test_evaluations_name_the_run_that_made_the_model(store: Store) -> None:
    rows = ask(store, "evaluations")
    found = [(row["evaluation"], row["run"], row["selector"], row["steps"], row["value"]) for row in rows]
    assert found == [("after", "uds", "uds", 2, 1.25), ("before", None, None, None, 1.25)]
