"""`curate embed --encoder`: vectors of a sentence encoder, and what other stages make of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate import make
from curate.config import build
from curate.errors import ConfigError, DataError, ModelError
from curate.lm.sentence_encoders import load_encoder
from curate.stages.embed.config import OF_MODELS, EmbedConfig
from curate.stages.embed.encoding import TextEncoder
from curate.store import Store
from curate.store.vectors.vectors import load_vectors

OPTIONS: dict[str, Any] = {"shard_rows": 16}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, pool_file: Path) -> Store:
    """30 rows, five of them again, a conversation of two answers, a plain text, and a prompt without any known word."""
    folder = tmp_path_factory.mktemp("encoder")
    rows = [json.loads(line) for line in pool_file.read_text().splitlines()[:30]]
    user, assistant = (lambda text, role=role: {"role": role, "content": text} for role in ("user", "assistant"))
    rows += [
        *rows[:5],
        {"messages": [user("Add 1 and 2."), assistant("3"), user("And 4?"), assistant("7 of it")]},
        {"text": "what is the count"},
        {"instruction": "Unheard words", "output": "utterly new"},
    ]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "target.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[3:6]))
    (folder / "grown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [rows[-2] | {"text": "new"}, *rows]))
    store = Store(folder / "store")
    for name in ("pool", "target", "grown"):
        make(store, "ingest", name=name, data=[str(folder / f"{name}.jsonl")])
    return store


@pytest.fixture(scope="module")
def made(world: Store, static_encoder: str) -> Any:
    return make(world, "embed", name="feats", pool="pool", encoder=static_encoder, **OPTIONS)


def facts(store: Store, name: str) -> dict[str, dict[str, Any]]:
    rows = store.query("SELECT * EXCLUDE (features) FROM features WHERE features = $name", {"name": name})
    return {row["sample_id"]: row for row in rows.to_pylist()}


def texts_of(store: Store, on: str) -> dict[str, str]:
    """Sample id -> text, read from SQL: the contents before the last answer, that answer, or both."""
    found = {}
    for row in store.query("SELECT sample_id, messages FROM conversations WHERE pool = 'pool'").to_pylist():
        contents = [message["content"] for message in row["messages"]]
        one = [message["role"] for message in row["messages"]] == ["text"]
        prompt, answer = (contents, []) if one else (contents[:-1], contents[-1:])
        found[row["sample_id"]] = "\n".join({"prompt": prompt, "answer": answer, "both": prompt + answer}[on])
    return found


def test_vectors_are_those_of_the_encoder_at_unit_length_in_the_order_of_the_pool(
    world: Store, made: Any, static_encoder: str
) -> None:
    texts = texts_of(world, "both")
    encoder = load_encoder(static_encoder, max_length=512)
    vectors, found = load_vectors(made.shards(), "embedding"), facts(world, "feats")
    assert made.rows == 32 == len(found) and len(texts) == 33
    assert vectors.ids.to_pylist() == [sample_id for sample_id in texts if sample_id in found]
    for row, sample_id in enumerate(vectors.ids.to_pylist()):
        wanted = encoder([texts[sample_id]], 1)
        np.testing.assert_allclose(vectors.matrix[row], wanted.vectors[0] / np.linalg.norm(wanted.vectors), atol=2e-3)
        record = found[sample_id]
        assert (record["tokens"], record["truncated"]) == (wanted.tokens[0], wanted.truncated[0])
        assert record["target_tokens"] is None and record["loss"] is None
    rejects = world.query("SELECT reason FROM rejects WHERE artifact = 'feats'").to_pylist()
    assert rejects == [{"reason": "the encoder gives no vector for the text"}]
    assert made.summary["rejected"] == 1 and made.summary["samples"] == 32
    assert set(made.table().column_names) == {"sample_id", "embedding"} and not list(made.path.glob("*.faiss"))


@pytest.mark.parametrize("on", ["prompt", "answer"])
def test_the_text_is_the_prompt_or_the_last_answer(world: Store, static_encoder: str, on: str) -> None:
    made = make(world, "embed", name=f"of-{on}", pool="pool", encoder=static_encoder, on=on, **OPTIONS)
    texts, encoder = texts_of(world, on), load_encoder(static_encoder, max_length=512)
    vectors = load_vectors(made.shards(), "embedding")
    for row, sample_id in enumerate(vectors.ids.to_pylist()):
        wanted = encoder([texts[sample_id]], 1).vectors[0]
        np.testing.assert_allclose(vectors.matrix[row], wanted / np.linalg.norm(wanted), atol=2e-3)
    rejected = {
        row["sample_id"]: row["reason"]
        for row in world.query(
            "SELECT sample_id, reason FROM rejects WHERE artifact = $name", {"name": f"of-{on}"}
        ).to_pylist()
    }
    assert {texts[sample_id] for sample_id in rejected} == (
        {"Unheard words"} if on == "prompt" else {"", "utterly new"}
    )
    assert set(rejected.values()) <= {"no text to encode", "the encoder gives no vector for the text"}


def test_a_grown_pool_encodes_its_new_rows_only(
    world: Store, made: Any, static_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    plain = TextEncoder._encode
    monkeypatch.setattr(TextEncoder, "_encode", lambda self, texts: (counts.append(len(texts)), plain(self, texts))[1])
    grown = make(world, "embed", name="more", pool="grown", encoder=static_encoder, **OPTIONS)
    assert grown.summary["of these from earlier features"] == 32 and grown.rows == 32
    assert sum(counts) == 2, "the new text, and the one without a vector, which both have none"
    before, after = facts(world, "feats"), facts(world, "more")
    assert all(after[sample_id] == record for sample_id, record in before.items())


def test_features_of_an_encoder_of_sentence_transformers_are_clustered_and_selected_by(
    world: Store, sentence_encoder: str
) -> None:
    for pool in ("pool", "target"):
        make(world, "embed", name=f"st-{pool}", pool=pool, encoder=sentence_encoder, **OPTIONS)
    clusters = make(world, "cluster", name="clusters", features="st-pool", on="embedding", k=3)
    assert clusters.rows == 33 and len(world.query("SELECT DISTINCT cluster FROM clusters")) == 3
    rds = {"method": "rds", "features": "st-pool", "target": "target", "target_features": "st-target"}
    chosen = make(world, "select", name="rds", pool="pool", budget=3, **rds)
    near = world.query("SELECT sample_id FROM subsets WHERE subset = 'rds'")["sample_id"].to_pylist()
    wanted = world.query("SELECT DISTINCT sample_id FROM samples WHERE pool = 'target'")["sample_id"].to_pylist()
    assert chosen.rows == 3 and sorted(near) == sorted(wanted), "the target is in the pool"
    make(world, "select", name="far", pool="pool", budget=5, method="k_center", features="st-pool")
    kept = make(
        world,
        "decontaminate",
        **{
            "name": "clean",
            "pool": "pool",
            "against": ["target"],
            "features": "st-pool",
            "target_features": "st-target",
        },
    )
    assert kept.rows == 30, "three of 33 are the held-out rows"


def test_vectors_of_other_models_are_not_compared(world: Store, made: Any, sentence_encoder: str, tiny: str) -> None:
    make(world, "embed", name="st", pool="target", encoder=sentence_encoder, **OPTIONS)
    make(world, "embed", name="lm", pool="target", model=tiny, signals=["embedding"], max_length=64)
    options = {"name": "x", "pool": "pool", "features": "feats"}
    for other, width in (("st", 24), ("lm", 32)):
        problem = rf"different models made them, and their vectors have 16 and {width} numbers. Embed both with one"
        with pytest.raises(DataError, match=problem):
            make(world, "select", method="rds", budget=3, target="target", target_features=other, **options)
        with pytest.raises(DataError, match=problem):
            make(world, "decontaminate", against=["target"], target_features=other, **options)
    with pytest.raises(ConfigError, match=r"budget in tokens needs the samples' lengths.*curate embed --model"):
        make(world, "select", method="k_center", budget_tokens=100, **options)
    with pytest.raises(DataError, match="no vector column 'sketch'"):
        make(world, "cluster", name="c", features="feats", k=2)


def test_options_that_do_not_go_together_are_one_sentence_each() -> None:
    values = {"name": "x", "pool": "pool"}
    for given, message in (
        ({}, "Give --model, a language model, or --encoder, a sentence encoder"),
        ({"model": "m", "encoder": "e"}, "Give --model or --encoder, not both"),
        (
            {"encoder": "e", "signals": ["loss", "embedding", "ifd"]},
            "embedding only, not loss, ifd, for which a language",
        ),
        ({"model": "m", "on": "prompt"}, "--on chooses the text of --encoder"),
        ({"encoder": "e", "trust_remote_code": True}, "--trust-remote-code is of language models: leave it out"),
        ({"encoder": "e", "bf16": True}, "--bf16 is of language models"),
        ({"encoder": "e", "before": "f"}, "--before is of language models"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(EmbedConfig, {**values, **given})
    assert build(EmbedConfig, {**values, "encoder": "e"}).signals == ("embedding",)
    assert {*OF_MODELS} < {*EmbedConfig.model_fields}


def test_an_encoder_that_is_not_there_is_the_error_of_a_model(world: Store, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no model 'no-such-encoder': no such file or folder"):
        make(world, "embed", name="x", pool="pool", encoder="no-such-encoder")
    with pytest.raises(ModelError, match="is no sentence encoder"):
        make(world, "embed", name="x", pool="pool", encoder=str(tmp_path))


def test_strict_stops_at_a_text_without_a_vector(world: Store, static_encoder: str) -> None:
    with pytest.raises(DataError, match=r"1 samples of 'pool' have no vector: \w+ \(the encoder gives no vector"):
        make(world, "embed", name="strict", pool="pool", encoder=static_encoder, strict=True, shard_rows=64)


def test_the_command_takes_an_encoder(curate: Callable[..., Any], pool_file: Path, static_encoder: str) -> None:
    assert curate("ingest", "--data", str(pool_file), "--name", "pool").code == 0
    done = curate("embed", "--pool", "pool", "--encoder", static_encoder, "--on", "prompt")
    assert done.code == 0, done.err
    failed = curate("embed", "--pool", "pool")
    assert failed.code == 1 and "Give --model, a language model, or --encoder" in failed.err
