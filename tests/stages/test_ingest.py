"""`curate ingest`: every row becomes a sample or a reject, and SQL finds both."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.errors import ConfigError, DataError
from curate.stages import make
from curate.stages.pools import pool_samples, samples_of
from curate.store import Artifact, Store
from tests.support.paths import SHARED

DATA = SHARED / "data"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def write_jsonl(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def ingest(store: Store, *data: str, **options: Any) -> Artifact:
    return make(store, "ingest", data=data, **{"name": "pool", **options})


def test_every_row_is_a_sample_or_a_reject_with_file_and_row(tmp_path: Path, store: Store) -> None:
    good = {"prompt": "a", "completion": "b", "domain": "math", "year": 2**70}
    path = write_jsonl(tmp_path / "a.jsonl", [good, "{broken", good | {"completion": ""}, good | {"prompt": "c"}])
    pool = ingest(store, f"mine={path}")
    assert pool.rows == 2
    assert pool.summary == {
        "rows": 2,
        "distinct": 2,
        "sources": {"mine": 2},
        "formats": {"prompt-completion": 2},
        "rejects": {"not JSON": 1, "empty completion": 1},
        "licences": {},
    }
    rejects = store.query('SELECT source, file, "row", reason FROM rejects ORDER BY "row"').to_pylist()
    assert [(r["source"], r["file"], r["row"], r["reason"]) for r in rejects] == [
        ("mine", path, 2, "not JSON"),
        ("mine", path, 3, "empty completion"),
    ]
    records = store.query(
        "SELECT position, source, format, turns, characters, metadata->>'domain' AS domain, metadata->>'year' AS year "
        "FROM samples WHERE pool = 'pool' ORDER BY position"
    ).to_pylist()
    common = {"source": "mine", "format": "prompt-completion", "turns": 2, "characters": 2}
    assert records == [common | {"position": n, "domain": "math", "year": str(2**70)} for n in (0, 1)]


def test_a_pool_is_read_back_in_order_over_its_shards(tmp_path: Path, store: Store) -> None:
    rows = [{"n": n, "prompt": f"q{n % 5}", "completion": "a", "b": None} for n in range(8)]
    pool = ingest(store, write_jsonl(tmp_path / "a.jsonl", rows), shard_rows=3)
    assert len(pool.shards()) == 3
    back = list(pool_samples(pool))
    assert [position for position, _ in back] == list(range(8))
    assert [sample.original for _, sample in back] == rows
    assert [list(sample.original) for _, sample in back] == [list(row) for row in rows], "columns stay in order"
    ids = [sample.sample_id for _, sample in back]
    assert pool.summary["distinct"] == len(set(ids)) == 5
    found = samples_of(pool, [ids[6], ids[0], "nobody"])
    assert {key: sample.original["n"] for key, sample in found.items()} == {ids[0]: 0, ids[1]: 1}


def test_exact_copies_are_kept_without_deduplicate(tmp_path: Path, store: Store) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}, {"text": "a"}])
    assert ingest(store, path).rows == 3
    single = ingest(store, path, deduplicate=True, name="single")
    assert single.rows == 2 and single.summary["rejects"] == {"duplicate of an earlier row": 1}
    found = store.query(
        "SELECT r.\"row\", s.position FROM rejects r JOIN samples s USING (sample_id) WHERE s.pool = 'single'"
    )
    assert found.to_pylist() == [{"row": 3, "position": 0}]


def test_strict_stops_at_the_first_row_that_cannot_be_used(tmp_path: Path, store: Store) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": ""}])
    with pytest.raises(DataError, match=r"a\.jsonl, row 2: empty text"):
        ingest(store, path, strict=True)
    assert ingest(store, path).rows == 1


def test_data_without_a_usable_row_is_an_error_with_counts_of_the_reasons(tmp_path: Path, store: Store) -> None:
    with pytest.raises(DataError, match=r"empty text \(2\)"):
        ingest(store, write_jsonl(tmp_path / "a.jsonl", [{"text": ""}, {"text": ""}]))
    with pytest.raises(DataError, match="the data has no rows"):
        ingest(store, write_jsonl(tmp_path / "b.jsonl", []))
    assert store.artifacts() == []


def test_sources_keep_their_labels_and_formats_and_licences(tmp_path: Path, store: Store) -> None:
    one = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    two = write_jsonl(tmp_path / "b.jsonl", [{"prompt": "a", "completion": "b"}] * 2)
    pool = ingest(store, f"web={one}", two, licence="web=cc-by-4.0,b=mit")
    assert pool.summary["sources"] == {"b": 2, "web": 1}
    assert pool.summary["formats"] == {"prompt-completion": 2, "text": 1}
    assert pool.summary["licences"] == {"web": "cc-by-4.0", "b": "mit"}
    assert ingest(store, f"web={one}", two, licence={"web": "cc-by-4.0", "b": "mit"}).fingerprint == pool.fingerprint
    assert ingest(store, one, licence="MIT License", name="p2").summary["licences"] == {"a": "MIT License"}
    with pytest.raises(ConfigError, match="Did you mean 'web'"):
        ingest(store, f"web={one}", licence="wbe=mit")


def test_an_ingest_that_was_stopped_starts_again(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.stages import ingest as stage

    rows = [{"text": str(n)} for n in range(10)] + ["broken"]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    real = stage.to_table

    def stop(samples: Any, first: int) -> Any:
        if first == 6:
            raise KeyboardInterrupt
        return real(samples, first)

    monkeypatch.setattr(stage, "to_table", stop)
    with pytest.raises(KeyboardInterrupt):
        ingest(store, path, shard_rows=2)
    monkeypatch.undo()
    pool = ingest(store, path, shard_rows=9)
    assert [sample.original["text"] for _, sample in pool_samples(pool)] == [str(n) for n in range(10)]
    assert store.query("SELECT count(*) AS n FROM samples").to_pylist() == [{"n": 10}]


@pytest.mark.parametrize("label", ["", "odd="])
def test_a_file_whose_name_is_not_utf_8_is_read_and_named(tmp_path: Path, store: Store, label: str) -> None:
    path = tmp_path / "a b\udcff.jsonl"
    path.write_text('{"prompt": "p", "completion": "c"}\nbroken\n')
    made = make(store, "ingest", data=f"{label}{path}", name="pool")
    assert make(store, "ingest", data=[f"{label}file://{tmp_path}/a%20b%FF.jsonl"], name="same") == made
    (reject,) = store.query('SELECT source, file, "row" FROM rejects').to_pylist()
    assert reject == {"source": label.rstrip("=") or r"a b\xff", "file": rf"{tmp_path}/a b\xff.jsonl", "row": 2}


def test_a_pool_that_a_stage_made_can_be_ingested_by_its_name(tmp_path: Path, store: Store) -> None:
    from curate.config import Config

    def fill(draft: Any) -> None:
        draft.files.mkdir(parents=True)
        write_jsonl(draft.files / "pool.jsonl", [{"text": "a"}])

    store.make("demo-pool", fill, Config(name="made"))
    assert ingest(store, "made").summary["sources"] == {"made": 1}


GOOD = b'{"prompt": "a", "completion": "b"}'
lines = st.one_of(
    st.text(max_size=10).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=10),
    st.dictionaries(
        st.sampled_from(["prompt", "completion", "x"]), st.text(max_size=3) | st.integers(), max_size=3
    ).map(lambda row: json.dumps(row).encode()),
    st.just(GOOD),
)


def is_line(line: bytes) -> bool:
    return b"\n" not in line and bool(line.decode("utf-8", "replace").strip("\ufeff").strip())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(lines.filter(is_line), max_size=6))
def test_rows_and_rejects_are_all_the_lines(tmp_path_factory: pytest.TempPathFactory, content: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("wild")
    (folder / "a.jsonl").write_bytes(b"\n".join([*content, GOOD]))
    pool = ingest(Store(folder / "store"), str(folder / "a.jsonl"))
    assert pool.rows is not None
    assert pool.rows + sum(pool.summary["rejects"].values()) == len(content) + 1


@pytest.mark.skipif(not (DATA / "alpaca").exists(), reason="the shared data is not here")
def test_the_empty_outputs_of_alpaca_are_rejected(store: Store) -> None:
    pool = ingest(store, str(DATA / "alpaca/train.parquet"))
    assert pool.rows == 52_002 - 49 and pool.summary["rejects"] == {"empty completion": 49}


@pytest.mark.skipif(not (DATA / "pool6k").exists(), reason="the shared data is not here")
def test_a_pool_that_repeats_itself_on_purpose_is_kept_whole(store: Store) -> None:
    pool = ingest(store, str(DATA / "pool6k/pool.parquet"))
    assert pool.rows == 6000 and pool.summary["distinct"] < 6000
    noise = store.query("SELECT count(*) AS n FROM samples WHERE metadata->>'noise' = 'duplicate'").to_pylist()
    assert noise[0]["n"] > 0


def weights_of(pool: Artifact) -> list[float]:
    return [sample.weight for _, sample in pool_samples(pool)]


def test_weights_are_stored_and_told_and_rows_of_weight_zero_are_rejected(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    good = {"prompt": "a", "completion": "b"}
    values: list[Any] = [2, 1, 0, None, 0.25, -1, 0]
    rows = [{**good, "prompt": f"q{n}", "weight": value} for n, value in enumerate(values)]
    path = write_jsonl(tmp_path / "a.jsonl", [*rows, {**good, "prompt": "late"}])
    with caplog.at_level("INFO"):
        pool = ingest(store, path)
    assert weights_of(pool) == [2, 1, 1, 0.25, 1] and pool.summary["rows with a weight"] == 2
    assert pool.summary["rejects"]["weight 0"] == 2 and sum(pool.summary["rejects"].values()) == 3
    lines = caplog.text
    assert "weights of rows in the loss, from weight: 4 rows differ from 1, from 0 to 2" in lines
    assert "rejected: weight 0: 2" in lines and "kept as metadata" not in lines
    stored = store.query(
        "SELECT s.weight, c.weight AS shard FROM samples s JOIN conversations c USING (sample_id) ORDER BY s.position"
    )
    assert stored["weight"].to_pylist() == stored["shard"].to_pylist() == [2, None, None, 0.25, None]
    with pytest.raises(DataError, match=r"row 6: the weight in column 'weight' .* is negative"):
        ingest(store, path, strict=True, name="strict")


def test_rows_of_weight_zero_are_no_error_with_strict(tmp_path: Path, store: Store) -> None:
    rows = [{"text": "a", "weight": 0}, {"text": "b", "weight": 3}]
    assert weights_of(ingest(store, write_jsonl(tmp_path / "a.jsonl", rows), strict=True)) == [3]


def test_a_column_for_weights_must_exist(tmp_path: Path, store: Store) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "grade": 2}, {"text": "b"}])
    assert weights_of(ingest(store, path, weight_column="grade")) == [2, 1]
    with pytest.raises(DataError, match=r"No row that can be used has a weight in the column 'grad'.*'grade'"):
        ingest(store, path, weight_column="grad", name="other")
    with pytest.raises(ConfigError, match="--weight-column and as --metadata-columns"):
        ingest(store, path, weight_column="grade", metadata_columns=("grade",), name="both")
    assert weights_of(ingest(store, path, name="plain")) == [1, 1]


def test_of_copies_with_different_weights_deduplicate_keeps_the_first_and_its_weight(
    tmp_path: Path, store: Store
) -> None:
    rows = [{"text": "a", "weight": 0}, {"text": "a", "weight": 3}, {"text": "a", "weight": 5}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert weights_of(ingest(store, path)) == [3, 5], "two rows of one sample: each is a candidate with its weight"
    single = ingest(store, path, deduplicate=True, name="single")
    assert weights_of(single) == [3], "weights of copies do not add up"
    assert single.summary["rejects"] == {"weight 0": 1, "duplicate of an earlier row": 1}


def test_another_weight_is_another_pool(tmp_path: Path, store: Store) -> None:
    one, other = ({"text": "a", "weight": weight} for weight in (1, 2))
    first = ingest(store, write_jsonl(tmp_path / "a.jsonl", [one]))
    second = ingest(store, write_jsonl(tmp_path / "a.jsonl", [other]))
    assert first.fingerprint != second.fingerprint


def test_the_garbage_collector_works_as_before_after_an_ingest_and_after_its_error(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curate.stages import ingest

    during = []
    to_sample = ingest.to_sample

    def watched(*args: Any) -> Any:
        during.append(gc.get_threshold()[0])
        return to_sample(*args)

    monkeypatch.setattr(ingest, "to_sample", watched)
    before = gc.get_threshold()
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": ""}\n')
    make(store, "ingest", data=str(path), name="p")
    assert gc.get_threshold() == before and min(during) == ingest.FEW_COLLECTIONS > before[0]
    with pytest.raises(DataError):
        make(store, "ingest", data=str(path), name="q", strict=True)
    assert gc.get_threshold() == before
