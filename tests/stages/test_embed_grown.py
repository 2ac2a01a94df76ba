"""Embedding a grown pool: what earlier features have is taken from them, and only the rest is measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from curate import Artifact, make
from curate.api.commands.status import report
from curate.errors import ConfigError
from curate.lm.tokens import encode
from curate.stages import build_config
from curate.stages.embed.embedder import Embedder
from curate.stages.embed.preview import FOUND
from curate.stages.embed.stage import STAGE
from curate.store import Store
from curate.store.vectors.vectors import load_vectors

OPTIONS: dict[str, Any] = {"max_length": 64, "shard_rows": 16, "d1": 4, "d2": 16}
NEW = ['{"instruction": "Which is new?", "output": "This one."}', '{"instruction": "And this?", "output": "It, too."}']


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pool_file: Path, tiny: str) -> Path:
    """Features of 40 rows, and a pool that has two more: one before them, one behind."""
    folder = tmp_path_factory.mktemp("grown")
    rows = pool_file.read_text().splitlines()[:40]
    (folder / "pool.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "grown.jsonl").write_text("\n".join([NEW[0], *rows, NEW[1]]) + "\n")
    store = Store(folder / "store")
    for name in ("pool", "grown"):
        make(store, "ingest", name=name, data=[str(folder / f"{name}.jsonl")])
    embed(store, tiny, "feats", "pool")
    return store.root


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(made, tmp_path / "store"))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of texts of each call that measures."""
    counts: list[int] = []
    plain = Embedder._measure

    def counted(self: Embedder, table: Any, new: Any, *others: Any) -> Any:
        counts.append(len(new))
        return plain(self, table, new, *others)

    monkeypatch.setattr(Embedder, "_measure", counted)
    return counts


def embed(store: Store, model: str, name: str = "more", pool: str = "grown", **options: Any) -> Artifact:
    return make(store, "embed", name=name, pool=pool, model=model, **{**OPTIONS, **options})


def values_of(store: Store, artifact: Artifact) -> dict[str, tuple[Any, ...]]:
    """Sample id -> its record and its vectors."""
    found = store.query("SELECT * EXCLUDE (features) FROM features WHERE features = $name", {"name": artifact.name})
    records = {row.pop("sample_id"): row for row in found.to_pylist()}
    vectors = {row.pop("sample_id"): row for part in artifact.shards() for row in pq.read_table(part).to_pylist()}
    assert list(vectors) == [row["sample_id"] for row in samples_of(store, artifact)], "in the order of the pool"
    return {sample_id: (record, vectors[sample_id]) for sample_id, record in records.items()}


def samples_of(store: Store, artifact: Artifact) -> list[dict[str, Any]]:
    query = "SELECT sample_id FROM samples WHERE pool = $pool ORDER BY position"
    rows: list[dict[str, Any]] = store.query(query, {"pool": artifact.config["pool"]}).to_pylist()
    return rows


def test_only_the_new_samples_are_measured_and_the_others_are_as_they_were(
    store: Store, tiny: str, measured: list[int], tmp_path: Path
) -> None:
    other = Store(shutil.copytree(store.root, tmp_path / "other"))
    grown = embed(store, tiny)
    assert sum(measured) == 2 and grown.summary["of these from earlier features"] == 40 and grown.rows == 42
    before, after = values_of(store, store.get("feats")), values_of(store, grown)
    assert len(after) == 42 and all(after[sample_id] == before[sample_id] for sample_id in before)
    measured.clear()
    fresh = embed(other, tiny, fresh=True)
    assert sum(measured) == 42 and fresh.fingerprint == grown.fingerprint
    assert "of these from earlier features" not in fresh.summary
    for sample_id, (record, _) in values_of(other, fresh).items():
        for name, value in after[sample_id][0].items():
            assert value == (None if record[name] is None else pytest.approx(record[name], rel=1e-4)), name
    for on in ("sketch", "embedding"):
        ours, theirs = load_vectors(grown.shards(), on), load_vectors(fresh.shards(), on)
        assert ours.ids.to_pylist() == theirs.ids.to_pylist()
        np.testing.assert_allclose(ours.matrix, theirs.matrix, atol=2e-3)
    assert not (grown.path / "known.parquet").exists()


def test_features_that_were_measured_otherwise_are_not_taken(
    store: Store, tiny: str, tmp_path: Path, measured: list[int]
) -> None:
    for number, options in enumerate([{"max_length": 32}, {"d2": 8}, {"seed": 1}, {"loss_on": "all"}]):
        embed(store, tiny, f"other-{number}", **options)
        assert sum(measured) == 42, options
        measured.clear()
    weights = Path(shutil.copytree(tiny, tmp_path / "model")) / "model.safetensors"
    save_file({name: value * 1.5 for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    embed(store, str(weights.parent), "model")
    assert sum(measured) == 42
    measured.clear()
    embed(store, tiny, "fewer", signals=["loss"], shard_rows=7)
    assert sum(measured) == 2, "loss is among what was measured"
    measured.clear()
    embed(store, tiny, "more")
    assert sum(measured) == 2, "not the features with the loss alone"


def test_a_stopped_pass_goes_on_with_what_it_took(
    store: Store, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Store(shutil.copytree(store.root, tmp_path / "other"))
    whole = values_of(store, embed(store, tiny))
    plain, calls = Embedder.__call__, list[int]()

    def stops(self: Embedder, task: int, advance: Any) -> Any:
        calls.append(task)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(self, task, advance)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Embedder, "__call__", stops)
        embed(other, tiny)
    assert values_of(other, embed(other, tiny)) == whole


def test_what_is_gone_is_measured_again(
    store: Store, tiny: str, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(self: Embedder, task: int, advance: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Embedder, "__call__", stops)
        embed(store, tiny)
    shutil.rmtree(store.get("feats").path)
    again = embed(store, tiny)
    assert again.rows == 42 and sum(measured) == 42 and "of these from earlier features" not in again.summary


def test_damaged_features_are_not_taken_and_do_not_stop_others(
    store: Store, tiny: str, measured: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    part = store.get("feats").shards()[1]
    part.write_bytes(part.read_bytes()[:100])
    assert embed(store, tiny).rows == 42 and sum(measured) == 42
    assert "Nothing is taken from the features 'feats'" in caplog.text


def test_a_smaller_pool_needs_no_pass(store: Store, tiny: str, measured: list[int], tmp_path: Path) -> None:
    (tmp_path / "small.jsonl").write_text('{"instruction": "Which is new?", "output": "This one."}\n')
    make(store, "ingest", name="small", data=[str(tmp_path / "small.jsonl")])
    embed(store, tiny)
    measured.clear()
    small = embed(store, tiny, "small-feats", "small")
    assert measured == [] and small.summary["of these from earlier features"] == 1


def told(store: Store, model: str, **options: Any) -> list[str]:
    """What `--dry-run` prints."""
    given = {"name": "dry", "pool": "grown", "model": model, **OPTIONS, "dry_run": True, **options}
    return str(STAGE.preview(build_config("embed", given), store)).splitlines()  # type: ignore[misc]


def test_a_dry_run_says_what_is_measured_then(store: Store, tiny: str, measured: list[int]) -> None:
    before = {artifact.fingerprint for artifact in store.artifacts()}
    assert told(store, tiny) == [
        "samples           42",
        "taken from feats  40",
        "2 would be measured, but for those that have nothing to train on.",
    ]
    assert told(store, tiny, fresh=True)[-1].startswith("42 would be measured")
    assert told(store, tiny, max_length=32)[-1].startswith("42 would be measured")
    assert told(store, tiny, pool="pool", fresh=True) == [FOUND] and measured == []
    assert {artifact.fingerprint for artifact in store.artifacts()} == before and not store.drafts()
    embed(store, tiny)
    assert sum(measured) == 2 and told(store, tiny) == [FOUND]
    assert told(store, tiny, signals=["loss"])[-1] == "No pass is needed."
    with pytest.raises(ConfigError, match="--dry-run makes nothing"):
        embed(store, tiny, dry_run=True)


def test_a_dry_run_counts_answers_that_become_samples(store: Store, tiny: str, tmp_path: Path) -> None:
    turns = [{"role": role, "content": f"{role} {n}"} for n in range(2) for role in ("user", "assistant")]
    rows = [{"messages": turns}, {"messages": turns}, {"messages": turns[:2]}]
    (tmp_path / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make(store, "ingest", name="turns", data=[str(tmp_path / "turns.jsonl")])
    for option, samples in (("whole", 2), ("expand", 3)):
        assert told(store, tiny, pool="turns", turns=option)[0].split() == ["samples", str(samples)]
        assert embed(store, tiny, f"f-{option}", "turns", turns=option).rows == samples


def test_status_says_how_many_samples_of_a_pool_that_was_made_again_are_new(store: Store, made: Path) -> None:
    make(store, "ingest", name="pool", data=[str(made.parent / "grown.jsonl")])
    (line,) = (line for line in report(store) if "has been made again" in line)
    assert line == (
        "  feats: pool 'pool' has been made again (of its 42 samples 2 are new: curate embed would measure them alone)"
    )
    store.catalog.path.write_bytes(b"damaged")
    assert any(line == "  feats: pool 'pool' has been made again" for line in report(store))


def test_known_samples_are_not_tokenized_again_and_stay_in_the_order_of_the_pool(
    store: Store, made: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    plain = encode.encode_all

    def counted(samples: Any, *others: Any) -> Any:
        def passing() -> Any:
            for position, sample in samples:
                read.append(sample.sample_id)
                yield position, sample

        return plain(passing(), *others)

    monkeypatch.setattr(encode, "encode_all", counted)
    turns = [{"role": role, "content": f"{role} {n}"} for n in range(2) for role in ("user", "assistant")]
    rows = [json.loads(line) for line in (made.parent / "grown.jsonl").read_text().splitlines()]
    pools = {"one": [{"messages": turns}, *rows[:20]], "two": [*rows[:10], {"messages": turns}, *rows[10:]]}
    for name, part in pools.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in part))
        make(store, "ingest", name=name, data=[str(path)])
    whole = embed(store, tiny, "whole", "one", turns="whole", fresh=True)
    values_of(store, whole)
    read.clear()
    split = embed(store, tiny, "split", "two", turns="expand")
    ids = [row["sample_id"] for row in store.query("SELECT sample_id FROM origins WHERE pool = 'two'").to_pylist()]
    answers = {row["sample_id"] for row in store.query("SELECT sample_id FROM turn_samples").to_pylist()}
    assert len(answers) == 2 and answers <= set(read) and len(read) == 2 + 1, "both answers, and the last new row"
    found = [sample_id for part in split.shards() for sample_id in pq.read_table(part)["sample_id"].to_pylist()]
    assert len(found) == 44 and set(found) <= set(ids) and found[10:12] == [each for each in found if each in answers]
