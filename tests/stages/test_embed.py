"""Embedding a pool: what one pass over its distinct samples gives, in fixed shards of the pool's rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate import make
from curate.config import build
from curate.errors import ConfigError, DataError
from curate.lm.model.load import load_model, load_tokenizer
from curate.lm.model.scoring_model import make_scoring_model
from curate.lm.tokens.batch import collate
from curate.stages.embed.config import EmbedConfig
from curate.stages.embed.embedder import signals_of
from curate.stages.tokens.tokenization import encode_pool
from curate.store import Store
from curate.store.vectors.vectors import load_vectors

OPTIONS: dict[str, Any] = {"max_length": 64, "shard_rows": 16, "d1": 4, "d2": 16}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, pool_file: Path) -> Store:
    """A pool in files of 25 rows: 60 conversations, 20 of them again, one that is cut to nothing, and 20 again."""
    folder = tmp_path_factory.mktemp("embed")
    store = Store(folder / "store")
    rows = pool_file.read_text().splitlines()
    long = json.dumps({"instruction": "a b c " * 200, "output": "d"})
    (folder / "pool.jsonl").write_text("\n".join([*rows[:60], *rows[:20], long, long, *rows[40:60]]) + "\n")
    make(store, "ingest", name="pool", data=[str(folder / "pool.jsonl")], shard_rows=25)
    return store


@pytest.fixture(scope="module")
def made(world: Store, tiny: str) -> Any:
    return make(world, "embed", name="feats", pool="pool", model=tiny, **OPTIONS)


def facts(store: Store, name: str) -> dict[str, dict[str, Any]]:
    rows = store.query("SELECT * EXCLUDE (features) FROM features WHERE features = $name", {"name": name})
    return {row["sample_id"]: row for row in rows.to_pylist()}


def test_facts_and_vectors_are_those_of_a_model_that_reads_one_sample_at_a_time(
    world: Store, made: Any, tiny: str
) -> None:
    config = build(EmbedConfig, {"name": "x", "pool": "pool", "model": tiny, **OPTIONS})
    options = config.options(tiny)
    tokenized = encode_pool(config, load_tokenizer(options), world.get("pool"), distinct=True)
    table, rejected = tokenized.table, tokenized.rejected
    assert len(table) == 60 and len(rejected) == 1
    scoring_model = make_scoring_model(load_model(options).eval())
    signals, _ = signals_of(config, scoring_model)
    found = facts(world, "feats")
    vectors = {on: load_vectors(made.shards(), on) for on in ("sketch", "embedding")}
    assert vectors["sketch"].ids.to_pylist() == table.ids, (
        "in the order of the pool, each conversation where it is first"
    )
    for row, sample_id in enumerate(table.ids):
        from curate.signals import measure

        alone = measure(scoring_model.hidden, scoring_model.head, collate([table[row]], 0), signals)
        record = found[sample_id]
        assert (record["tokens"], record["target_tokens"]) == (table.lengths[row], table.target_tokens[row])
        for name in ("loss", "entropy", "utility"):
            assert record[name] == pytest.approx(float(alone[name]), rel=1e-4)
        assert record["sketch_norm"] == pytest.approx(float(alone["sketch"].norm()), rel=1e-4)
        for on, of in vectors.items():
            unit = torch.nn.functional.normalize(alone[on][0], dim=0)
            np.testing.assert_allclose(of.matrix[row], unit, atol=2e-3)
    assert made.rows == 60 and made.summary["samples"] == 60
    assert (made.summary["rejected"], made.summary["rejected samples"]) == (2, 1), "two rows of one sample"
    assert made.summary["tokens"] == table.lengths.sum() and made.summary["cut"] == 0
    rejects = world.query("SELECT sample_id, reason FROM rejects WHERE artifact = 'feats'").to_pylist()
    assert {row["sample_id"]: row["reason"] for row in rejects} == rejected


def test_a_shard_is_of_fixed_rows_of_the_pool_whatever_files_the_pool_is_in(
    world: Store, made: Any, tiny: str, tmp_path: Path
) -> None:
    sizes = [len(load_vectors([path], "sketch").ids) for path in made.shards()]
    assert sizes == [16, 16, 16, 12, 0, 0, 0], "the last rows are repeats and one that is rejected"
    other = Store(tmp_path / "store")
    make(other, "ingest", name="pool", data=list(world.get("pool").config["data"]), shard_rows=7)
    again = make(other, "embed", name="feats", pool="pool", model=tiny, **OPTIONS)
    assert again.fingerprint == made.fingerprint and content(again) == content(made)


def test_a_stopped_pass_makes_only_what_is_missing_and_ends_the_same(
    world: Store, made: Any, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curate.stages.embed.embedder import Embedder

    call, shards = Embedder.__call__, []

    def stopping(self: Embedder, task: int, advance: Any) -> Any:
        shards.append(task)
        if len(shards) == 4:
            raise KeyboardInterrupt
        return call(self, task, advance)

    monkeypatch.setattr(Embedder, "__call__", stopping)
    store = Store(tmp_path / "store")
    make(store, "ingest", name="pool", data=list(world.get("pool").config["data"]))
    options = {"name": "feats", "pool": "pool", "model": tiny, **OPTIONS}
    with pytest.raises(KeyboardInterrupt):
        make(store, "embed", **options)
    again = make(store, "embed", **options)
    assert shards == [0, 1, 2, 3, 3, 4, 5, 6]
    assert content(again) == content(made) and again.summary["samples"] == 60
    assert facts(store, "feats") == facts(world, "feats")


def test_samples_without_a_token_to_train_on_are_rejected_or_with_strict_an_error(
    world: Store, tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "store")
    rows = [json.dumps({"instruction": f"{n} " * 90, "output": "d"}) for n in range(5)]
    (tmp_path / "long.jsonl").write_text("\n".join(rows))
    make(store, "ingest", name="long", data=[str(tmp_path / "long.jsonl")])
    with pytest.raises(DataError, match=r"5 samples of 'long' have nothing to train on: \w+ \(.*Raise --max-length"):
        make(store, "embed", name="none", pool="long", model=tiny, **OPTIONS)
    make(store, "ingest", name="pool", data=list(world.get("pool").config["data"]))
    with pytest.raises(DataError, match="1 samples of 'pool' have nothing to train on"):
        make(store, "embed", name="feats", pool="pool", model=tiny, strict=True, **OPTIONS)
    make(store, "embed", name="feats", pool="pool", model=tiny, **OPTIONS)
    assert (
        "1 samples (2 rows) of 'pool' have nothing to train on" in caplog.text and "They are rejected." in caplog.text
    )


def test_only_what_is_asked_for_is_measured(world: Store, tiny: str) -> None:
    made = make(world, "embed", name="reference", pool="pool", model=tiny, signals=["loss"], **OPTIONS)
    assert set(made.table().column_names) == {"sample_id"} and len(made.table()) == 60
    assert {row["entropy"] for row in facts(world, "reference").values()} == {None}
    assert not list(made.path.glob("*.faiss"))


def test_workers_are_those_of_ray_and_ray_is_asked_for_by_name(
    world: Store, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"name": "spread", "pool": "pool", "model": tiny, "max_length": 32}
    with pytest.raises(ConfigError, match="--workers needs --engine ray"):
        make(world, "embed", workers=2, **options)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r'Ray is not installed: pip install "curate-sft\[ray\]"'):
        make(world, "embed", engine="ray", **options)
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = build(EmbedConfig, {**options, "engine": "ray"})
    with pytest.raises(ConfigError, match="run the command without torchrun"):
        config.session()


def content(artifact: Any) -> dict[str, bytes]:
    """Everything of an artifact that is not about when and how it was made, to the byte."""
    files = (path for path in artifact.path.rglob("*") if path.is_file())
    left_out = ("artifact.json", "files.json", "draft.lock")
    return {str(path.relative_to(artifact.path)): path.read_bytes() for path in files if path.name not in left_out}


def test_rejects_are_counted_by_row_and_by_sample(tmp_path: Path, tiny: str, caplog: pytest.LogCaptureFixture) -> None:
    long = {"prompt": "word " * 100, "completion": "b"}
    rows = [long, {"prompt": "a", "completion": "b"}, long, {"prompt": "c", "completion": "d"}, long]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = Store(tmp_path / "store")
    pool = make(store, "ingest", data=str(tmp_path / "rows.jsonl"), name="pool")
    features = make(store, "embed", name="feats", pool="pool", model=tiny, max_length=32, signals=["loss"])
    assert features.summary["samples"] == 2
    assert (features.summary["rejected"], features.summary["rejected samples"]) == (3, 1)
    assert "1 samples (3 rows) of 'pool' have nothing to train on" in caplog.text
    assert pool.rows == 2 + features.summary["rejected"]
