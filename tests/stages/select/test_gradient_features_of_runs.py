"""Selecting by gradients after warm-up runs of other kinds: models that give NaN, full fine-tuning, DoRA."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from curate import make
from curate.errors import ConfigError, CurateError, DataError
from curate.store import Store
from tests.stages.train.test_train import poison

WARM = {"selector": "random", "candidates": 8, "keep": 4, "max_steps": 2, "max_length": 64, "learning_rate": 3e-3}
TARGETED = {"target": "target", "warmup": "warm", "sketch_dim": 256}


def lines(path: Path, marks: dict[int, str], n: int) -> str:
    rows = (f'{{"prompt": "Say {i}.", "completion": "{marks.get(i, "ok")}"}}' for i in range(n))
    path.write_text("\n".join(rows))
    return str(path)


@pytest.fixture
def poisoned(store: Store, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A warm-up run of a model that gives NaN for rows 3 and 17 of the pool; the clusters are another model's."""
    monkeypatch.setattr("curate.lm.model.load.require_finite", lambda model, location: None)  # it names the weight
    make(store, "ingest", name="pool", data=[lines(tmp_path / "pool.jsonl", {3: "%", 17: "%"}, 40)])
    make(store, "ingest", name="target", data=[lines(tmp_path / "target.jsonl", {}, 4)])
    make(store, "embed", name="feats", pool="pool", model=tiny, max_length=64)
    make(store, "cluster", name="clusters", features="feats", k=3)
    make(store, "train", name="warm", pool="pool", model=poison(tiny, tmp_path / "nan", "%"), **WARM)
    return store


@pytest.mark.parametrize("method", ["less", "cluster_ucb"])
def test_a_sample_without_a_finite_gradient_is_named_charged_and_left_out(poisoned: Store, method: str) -> None:
    extra: dict[str, Any] = {"clusters": "clusters", "gradient_budget": 1.0} if method == "cluster_ucb" else {}
    subset = make(poisoned, "select", name="s", pool="pool", method=method, budget=38, **TARGETED, **extra)
    assert subset.rows == 38 and subset.summary["rejected"] == 2 and subset.summary["gradients"].startswith("40 of")
    bad = poisoned.query("SELECT s.position p, r.reason FROM rejects r JOIN samples s USING (sample_id) ORDER BY 1")
    of_select = [row for row in bad.to_pylist() if row["reason"] == "no finite gradient"]
    assert [row["p"] for row in of_select] == [3, 17]
    taken = poisoned.query("SELECT s.position FROM subsets JOIN samples s USING (sample_id) WHERE position IN (3, 17)")
    assert len(taken) == 0


def test_a_target_without_a_finite_gradient_is_named(poisoned: Store, tmp_path: Path) -> None:
    target = make(poisoned, "ingest", name="bad", data=[lines(tmp_path / "bad.jsonl", {1: "%"}, 3)])
    name = target.table(["sample_id"])["sample_id"].to_pylist()[1]
    with pytest.raises(DataError, match=f"1 samples of the target have .* not finite, the first {name}"):
        make(poisoned, "select", name="s", pool="pool", method="less", budget=3, **{**TARGETED, "target": "bad"})


def test_full_fine_tuning_is_measured_in_all_weights_or_in_linear_layers(
    store: Store, tiny: str, tmp_path: Path
) -> None:
    for name, n in (("pool", 16), ("target", 3)):
        make(store, "ingest", name=name, data=[lines(tmp_path / f"{name}.jsonl", {}, n)])
    train = {"pool": "pool", "model": tiny, "full": True, **WARM}
    make(store, "train", name="warm", **train)
    assert make(store, "select", name="whole", pool="pool", method="less", budget=3, **TARGETED).rows == 3
    make(store, "train", name="linear", gradient_coverage="linear", **train)
    subset = make(store, "select", name="s", pool="pool", method="less", budget=3, **{**TARGETED, "warmup": "linear"})
    assert subset.rows == 3


def test_a_warm_up_run_gives_no_consent_to_run_the_code_of_its_model(store: Store, tiny: str, tmp_path: Path) -> None:
    folder, mark = tmp_path / "model", tmp_path / "ran"
    make(store, "ingest", name="pool", data=[lines(tmp_path / "pool.jsonl", {}, 20)])
    make(store, "ingest", name="target", data=[lines(tmp_path / "target.jsonl", {}, 4)])
    shutil.copytree(tiny, folder)
    make(store, "train", name="warm", pool="pool", model=str(folder), trust_remote_code=True, **WARM)
    (folder / "theirs.py").write_text(f"import os\nos.makedirs({str(mark)!r}, exist_ok=True)\nraise ImportError\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "theirs.X"}}))
    options = {"name": "s", "pool": "pool", "method": "less", "budget": 3, **TARGETED}
    with pytest.raises(ConfigError, match="The run 'warm' asks to run code that comes with the model"):
        make(store, "select", **options)
    assert not mark.exists()
    with pytest.raises(CurateError):
        make(store, "select", **options, trust_remote_code=True)
    assert mark.exists(), "with the option it runs: the test would notice if it ran without"
