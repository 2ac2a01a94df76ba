"""Tests of a report about real runs of a tiny model: other stages fill every section."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate import Store, make
from curate.errors import ConfigError, DataError
from curate.store.vectors.vectors import load_vectors
from tests.support.reports import Row, page_content

RUNS = ("c-uds-s0", "c-random-s0")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pool_file: Path, tiny: str) -> Path:
    """A comparison of uds with random; features, clusters and an evaluation; and a second pool with features."""
    folder = tmp_path_factory.mktemp("runs")
    store = Store(folder / "store")
    rows = [json.loads(line) for line in pool_file.read_text().splitlines()]
    labelled = [{**row, "noise": "garbled" if n % 5 == 0 else ""} for n, row in enumerate(rows)]
    for name, part in (("pool", labelled[:90]), ("held", rows[90:]), ("other", rows[50:])):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in part))
        make(store, "ingest", name=name, data=[str(path)])
    train = {"max_steps": 4, "candidates": 8, "keep": 4, "max_length": 64, "logging_steps": 2}
    compared = {"selectors": ["uds"], "controls": ["random"], "seeds": [0], "eval_steps": 2, "train": train}
    make(store, "compare", name="c", pool="pool", eval_pool="held", model=tiny, **compared)
    reading = {"model": tiny, "max_length": 64}
    make(store, "embed", name="feats", pool="pool", signals=["loss", "sketch"], d1=4, d2=16, **reading)
    make(store, "embed", name="means", pool="pool", signals=["embedding"], **reading)
    make(store, "embed", name="losses", pool="pool", signals=["loss"], **reading)
    make(store, "embed", name="others", pool="other", signals=["embedding"], **reading)
    make(store, "cluster", name="topics", features="feats", k=4)
    make(store, "evaluate", name="e", model="c-uds-s0", pool="held", max_length=64)
    return store.root


@pytest.fixture(scope="module")
def page(made: Path) -> Row:
    return page_content(Store(made), *RUNS)


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(made, tmp_path / "store"))


def test_nothing_is_missing_of_a_run_with_everything(page: Row) -> None:
    assert page["missing"] == {}
    uds, random = page["runs"]
    assert uds["missing"] == {} and set(random["missing"]) <= {"scores", "distributions"}
    for run in page["runs"]:
        assert run["eval"]["step"] == [0, 2, 4] and run["loss"]["step"] == [2, 4]
        assert {part["part"] for part in run["time"]} >= {"training", "data"}
        assert (run["offered"], run["kept"], run["steps"]) == (32, 16, 4)
    assert [each["name"] for each in uds["scores"]] == ["score", "diversity", "utility", "loss"]
    assert [each["by"] for each in page["groups"]] == ["source", "cluster", "length", "noise"]
    assert all("(none)" not in each["labels"] for each in page["groups"])
    json.dumps(page, allow_nan=False)


def test_a_run_is_told_with_its_config_and_what_it_was_made_from(page: Row, made: Path, tiny: str) -> None:
    store, run = Store(made), page["runs"][0]
    artifact = store.get("c-uds-s0")
    assert (run["selector"], run["pool"], run["model"], run["seed"]) == ("uds", "pool", tiny, 0)
    assert run["config"]["keep"] == 4 and run["config"].keys() == artifact.config.keys()
    assert {"keep", "candidates", "max_steps", "eval_pool", "seed"} <= set(run["changed"])
    assert not {"name", "pool", "model", "learning_rate", "selector_args", "scope"} & set(run["changed"])
    assert run["provenance"]["fingerprint"] == artifact.fingerprint
    inputs = {each["role"]: each for each in run["provenance"]["inputs"]}
    pool = store.get("pool")
    assert inputs["pool"] == {
        "role": "pool", "name": "pool", "stage": "ingest", "fingerprint": pool.fingerprint, "rows": 90
    }  # fmt: skip
    assert (inputs["model"]["name"], inputs["model"]["stage"]) == (tiny, None)


def test_comparisons_and_evaluations_are_those_of_the_runs(page: Row, made: Path) -> None:
    store = Store(made)
    (found,) = page["comparisons"]
    result = json.loads((store.get("c").files / "comparison.json").read_text(encoding="utf-8"))
    assert (found["name"], found["axis"], found["budget"]) == ("c", "samples", 16)
    assert found["note"] == " ".join(result["notes"])
    assert [row["method"] for row in found["rows"]] == [row["method"] for row in result["rows"]]
    for row, told_row in zip(found["rows"], result["rows"], strict=True):
        assert row["mean"] == pytest.approx(told_row["loss"], rel=1e-4) and row["verdict"] == told_row["verdict"]
        assert row["noise"] == pytest.approx(told_row["noise"], rel=1e-4)
    facts = store.query("SELECT value, samples FROM evaluations WHERE grouped_by IS NULL").to_pylist()
    whole = [row for row in page["evaluations"] if row["by"] is None]
    assert [(row["run"], row["pool"], row["metric"], row["samples"]) for row in whole] == [
        ("c-uds-s0", "held", "loss", facts[0]["samples"])
    ]
    assert whole[0]["value"] == pytest.approx(facts[0]["value"], rel=1e-4)


def test_clusters_are_groups_and_labels(page: Row, made: Path) -> None:
    rows = Store(made).query("SELECT sample_id, cluster FROM clusters WHERE clusters = 'topics'").to_pylist()
    titles = Store(made).query("SELECT cluster, title FROM cluster_titles WHERE clusters = 'topics'").to_pylist()
    names = {row["cluster"]: f"{row['cluster']} · {row['title']}" for row in titles}
    clusters = {row["sample_id"]: names[row["cluster"]] for row in rows}
    labels = page["samples"]["labels"]["cluster"]
    assert [labels["values"][code] for code in labels["codes"]] == [clusters[key] for key in page["samples"]["id"]]
    found = next(each for each in page["groups"] if each["by"] == "cluster")
    assert found["title"] == "cluster of topics" and found["labels"] == [
        names[number] for number in sorted({row["cluster"] for row in rows})
    ]


def test_clusters_of_an_older_curate_are_groups_without_titles(made: Path, tmp_path: Path) -> None:
    store = Store(shutil.copytree(made, tmp_path / "store"))
    for file in store.get("topics").path.glob("facts/cluster_titles/*.parquet"):
        file.unlink()
    with store.catalog.open() as connection:
        connection.execute("DELETE FROM cluster_titles")
    found = next(each for each in page_content(store, "c-uds-s0")["groups"] if each["by"] == "cluster")
    rows = store.query("SELECT DISTINCT cluster FROM clusters WHERE clusters = 'topics' ORDER BY 1").to_pylist()
    assert found["labels"] == [str(row["cluster"]) for row in rows]


def test_the_map_is_the_two_directions_that_vary_most(page: Row, made: Path) -> None:
    vectors = load_vectors(Store(made).get("feats").shards(), "sketch")
    places = {key: place for place, key in enumerate(vectors.ids.to_pylist())}
    centred = vectors.matrix - vectors.matrix.mean(axis=0)
    _, strengths, directions = np.linalg.svd(centred, full_matrices=False)  # the obvious way
    at = (centred @ directions[:2].T)[[places[key] for key in page["samples"]["id"]]]
    found = np.array([page["map"]["x"], page["map"]["y"]]).T
    signs = np.sign((at * found).sum(axis=0))
    np.testing.assert_allclose(found, at * signs, atol=2e-3)
    shares = strengths**2 / (strengths**2).sum()
    assert page["map"]["explained"] == pytest.approx(shares[:2].tolist(), rel=1e-2)
    assert (page["map"]["method"], page["map"]["of"], page["map"]["fitted"]) == ("PCA", "sketch of feats", 90)
    assert any("The features are feats, the default of 3" in note for note in page["notes"])


def test_other_features_may_be_asked_for_and_must_be_of_the_pool(store: Store) -> None:
    assert page_content(store, *RUNS, features="means")["map"]["of"] == "embedding of means"
    with pytest.raises(DataError, match="The features 'others' do not belong to 'pool'"):
        page_content(store, *RUNS, features="others")
    with pytest.raises(ConfigError, match="'losses' hold neither sketches nor embeddings"):
        page_content(store, *RUNS, features="losses")


def test_a_larger_map_is_found_on_a_sample(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.report.embedding_map.FITTED", 60)
    page = page_content(store, *RUNS)
    assert page["map"]["fitted"] == 60 and None not in page["map"]["x"] and len(page["map"]["x"]) == 90
    assert "The directions of the map were fitted on 60 of the shown samples, drawn at random." in page["notes"]


def test_samples_without_a_vector_have_no_place(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = page_content(store, *RUNS)
    artifact = store.get("feats")
    import pyarrow.parquet as pq

    shard = artifact.shards()[0]
    pq.write_table(pq.read_table(shard).slice(5), shard)
    page = page_content(store, *RUNS)
    assert sum(x is None for x in page["map"]["x"]) == sum(y is None for y in page["map"]["y"]) == 5
    assert len(page["map"]["x"]) == len(whole["map"]["x"]) and page["samples"] == whole["samples"]


def test_umap_gets_the_vectors_and_its_places_are_the_map(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Fake:
        def __init__(self, **options: Any) -> None:
            seen.update(options)

        def fit_transform(self, vectors: Any) -> Any:
            seen["shape"] = vectors.shape
            return vectors[:, :2] * 2

    module = types.ModuleType("umap")
    vars(module).update(UMAP=Fake)
    monkeypatch.setitem(sys.modules, "umap", module)
    monkeypatch.setattr("curate.report.embedding_map.find_spec", lambda name: object())
    page = page_content(store, *RUNS, method="umap")
    plain = page_content(store, *RUNS)["map"]
    assert (seen["shape"], seen["n_components"], seen["random_state"]) == ((90, 50), 2, 0)
    assert (page["map"]["method"], page["map"]["explained"]) == ("UMAP", None)
    assert np.abs(page["map"]["x"]) == pytest.approx(2 * np.abs(plain["x"]), abs=2e-2)


def test_where_there_are_no_sketches_the_page_says_what_makes_them(store: Store) -> None:
    for name in ("feats", "means", "losses", "topics"):
        shutil.rmtree(store.get(name).path)
        (store.root / "names" / f"{name}.json").unlink()
    page = page_content(store, *RUNS)
    assert page["map"] is None and set(page["missing"]) == {"map", "clusters"}
    assert page["missing"]["clusters"].count("curate ") == 2
    assert next(each for each in page["groups"] if each["by"] == "length")["labels"][-1] == "(none)"
