"""`curate embed --before`: the losses of an earlier checkpoint with those of this one, of the same tokens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from curate import make
from curate.config import build
from curate.errors import ConfigError, DataError
from curate.stages.embed.config import EmbedConfig
from curate.stages.embed.embedder import Embedder
from curate.store import Store

OPTIONS: dict[str, Any] = {"max_length": 64, "shard_rows": 16, "signals": ["loss"]}


@pytest.fixture(scope="module")
def later(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with the same tokenizer and other weights."""
    folder = Path(shutil.copytree(tiny, tmp_path_factory.mktemp("later") / "model"))
    weights = folder / "model.safetensors"
    save_file({name: value * 1.5 for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    return str(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, pool_file: Path, tiny: str, later: str) -> Store:
    """Features of 40 rows by the first model, and a pool with 5 more rows, measured by both."""
    folder = tmp_path_factory.mktemp("before")
    store = Store(folder / "store")
    rows = pool_file.read_text().splitlines()
    for name, count in (("pool", 40), ("grown", 45)):
        (folder / f"{name}.jsonl").write_text("\n".join(rows[:count]) + "\n")
        make(store, "ingest", name=name, data=[str(folder / f"{name}.jsonl")])
    make(store, "embed", name="first", pool="pool", model=tiny, **OPTIONS)
    make(store, "embed", name="second", pool="pool", model=later, **OPTIONS)
    return store


def facts(store: Store, name: str) -> dict[str, dict[str, Any]]:
    rows = store.query("SELECT * EXCLUDE (features) FROM features WHERE features = $name", {"name": name})
    return {row["sample_id"]: row for row in rows.to_pylist()}


def test_what_was_learnt_is_the_difference_of_two_losses_and_nothing_is_measured_again(
    world: Store, later: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    measured: list[int] = []
    plain = Embedder._measure
    monkeypatch.setattr(
        Embedder,
        "_measure",
        lambda self, table, new, *rest: (measured.append(len(new)), plain(self, table, new, *rest))[1],
    )
    made = make(world, "embed", name="both", pool="grown", model=later, before="first", **OPTIONS)
    assert sum(measured) == 5 and made.summary["of these from earlier features"] == 40
    first, second, both = (facts(world, name) for name in ("first", "second", "both"))
    assert len(both) == 45
    for sample_id, record in both.items():
        if sample_id in first:
            assert record["loss"] == second[sample_id]["loss"] and record["loss_before"] == first[sample_id]["loss"]
            assert record["learnability"] == record["loss_before"] - record["loss"] != 0
        else:
            assert record["loss_before"] is None and record["learnability"] is None and record["loss"] > 0
    assert made.summary["without an earlier loss"] == 5
    assert "5 samples are not in the features 'first'" in caplog.text
    assert not (made.path / "losses_before.parquet").exists()
    measured.clear()
    make(world, "embed", name="again", pool="grown", model=later, before="first", **OPTIONS, fresh=True)
    assert measured == [], "it is found"
    assert set(facts(world, "second").popitem()[1]) >= {"loss_before"} and {
        record["loss_before"] for record in second.values()
    } == {None}
    make(world, "embed", name="plain", pool="grown", model=later, **OPTIONS)
    assert measured == [], "features with more columns are earlier features, too"
    assert {record["learnability"] for record in facts(world, "plain").values()} == {None}


def test_the_column_makes_a_subset_and_rules_out_candidates_of_a_run(world: Store, later: str) -> None:
    make(world, "embed", name="pair", pool="pool", model=later, before="first", **OPTIONS)
    sql = "SELECT sample_id FROM features WHERE features = 'pair' ORDER BY learnability DESC LIMIT 7"
    subset = make(world, "subset", name="learnt", pool="pool", sql=sql)
    best = sorted(facts(world, "pair").values(), key=lambda record: -record["learnability"])[:7]
    kept = world.query("SELECT sample_id FROM subsets WHERE subset = 'learnt'")["sample_id"].to_pylist()
    assert subset.rows == 7 and set(kept) == {record["sample_id"] for record in best}
    options = {"selector": "max_loss", "candidates": 8, "keep": 2, "max_steps": 3, "max_length": 64}
    prescreen = {"features": "pair", "prescreen": 0.5, "prescreen_by": "feature:learnability"}
    make(world, "train", name="run", pool="pool", model=later, **options, **prescreen)
    joined = "FROM ledger JOIN features USING (sample_id) WHERE features = 'pair' AND step = 3"
    rows = world.query(f"SELECT predicted, learnability {joined}").to_pylist()
    line = np.polyfit([row["learnability"] for row in rows], [row["predicted"] for row in rows], 1)
    assert len(rows) == 8 and line[0] != 0
    for row in rows:
        assert row["predicted"] == pytest.approx(np.polyval(line, row["learnability"]), rel=1e-4)


def test_losses_that_cannot_be_compared_are_one_sentence_each(
    world: Store, tiny: str, later: str, tmp_path: Path
) -> None:
    values = {"pool": "pool", "model": later, "before": "first", "name": "x"}
    with pytest.raises(ConfigError, match="is the model of this command"):
        make(world, "embed", **{**values, "model": tiny}, **OPTIONS)
    with pytest.raises(ConfigError, match=r"'first' were measured with another tokenizer.*not of the same tokens"):
        make(world, "embed", **values, **{**OPTIONS, "max_length": 32})
    with pytest.raises(ConfigError, match="--before compares losses: add loss to --signals"):
        build(EmbedConfig, {**values, "signals": ["entropy"]})
    make(world, "embed", name="no-loss", pool="pool", model=tiny, **{**OPTIONS, "signals": ["utility"]})
    with pytest.raises(ConfigError, match="'no-loss' have no losses: embed their pool with --signals loss"):
        make(world, "embed", **{**values, "before": "no-loss"}, **OPTIONS)
    (tmp_path / "other.jsonl").write_text('{"instruction": "Which is new?", "output": "This one."}\n')
    make(world, "ingest", name="other", data=[str(tmp_path / "other.jsonl")])
    with pytest.raises(DataError, match="No sample of the pool 'other' is in the features 'first'"):
        make(world, "embed", **{**values, "pool": "other"}, **OPTIONS)
