"""Splits: parts share no sample and no copy, rows stay as they were, and the order of the rows decides nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from curate import make
from curate.errors import ConfigError, DataError, StoreError
from curate.stages.split.parts import _fill
from curate.store import Store

SHARES = {"train": 0.6, "race": 0.2, "verdict": 0.2}
WORDS = [
    "river",
    "stone",
    "lamp",
    "cloud",
    "paper",
    "engine",
    "garden",
    "violin",
    "copper",
    "winter",
    "bridge",
    "candle",
]


def rows() -> list[dict[str, Any]]:
    """60 rows: 40 of their own, 10 near copies of the first, 10 exact ones of the next; one row has a weight."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=24)) for _ in range(40)]
    near = [f"{text} {text.split()[0]}" for text in texts[:10]]
    made = [
        {
            "messages": [{"role": "user", "content": f"Say {text}"}, {"role": "assistant", "content": text}],
            "kind": "own",
        }
        for text in [*texts, *near, *texts[10:20]]
    ]
    made[25]["weight"] = 2.0
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("split")
    store = Store(folder / "store")
    ingest(store, folder, "pool", rows())
    ingest(store, folder, "other", rows()[:5])
    for part in SHARES:
        make(store, "split", pool="pool", shares=SHARES, part=part, name=f"pool-{part}")
    return store


def ingest(store: Store, folder: Path, name: str, some: list[dict[str, Any]]) -> None:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in some))
    make(store, "ingest", name=name, data=[f"chats={file}"])


def words(text: str) -> set[tuple[str, ...]]:
    parts = text.split()
    return {tuple(parts[at : at + 3]) for at in range(len(parts) - 2)}


def test_no_part_has_a_copy_of_a_row_of_another_part(store: Store) -> None:
    sql = "SELECT pool, sample_id, messages[2].content AS answer FROM conversations WHERE pool LIKE 'pool-%'"
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in SHARES}
    for row in store.query(sql).to_pylist():
        found[row["pool"].removeprefix("pool-")].append(row)
    assert all(found.values())
    for one in SHARES:
        for two in SHARES:
            if one < two:
                assert not {row["sample_id"] for row in found[one]} & {row["sample_id"] for row in found[two]}
                near = [
                    len(words(a["answer"]) & words(b["answer"])) / len(words(a["answer"]) | words(b["answer"]))
                    for a in found[one]
                    for b in found[two]
                ]
                assert max(near) < 0.8


def test_held_out_parts_have_one_row_of_a_group_and_the_largest_all(store: Store) -> None:
    counts = {part: store.get(f"pool-{part}") for part in SHARES}
    assert counts["train"].summary["groups of copies"] == 10
    assert counts["train"].summary["rows that hold a sample again"] == 10
    for part in ("race", "verdict"):
        assert counts[part].rows == counts[part].summary["distinct"]
    of_pool = store.query("SELECT sample_id, count(*) n FROM samples WHERE pool = 'pool' GROUP BY 1").to_pylist()
    times = {row["sample_id"]: row["n"] for row in of_pool}
    train = store.query("SELECT sample_id FROM samples WHERE pool = 'pool-train'")["sample_id"].to_pylist()
    assert len(train) == sum(times[sample_id] for sample_id in set(train))


def test_rows_are_copied_as_they_are(store: Store) -> None:
    sql = """
    SELECT a.sample_id, a.weight, b.weight AS was, a.metadata, b.metadata AS of_it, a.source
    FROM samples a JOIN samples b ON a.sample_id = b.sample_id AND b.pool = 'pool' WHERE a.pool LIKE 'pool-%'
    """
    found = store.query(sql).to_pylist()
    assert {row["source"] for row in found} == {"chats"} and all(row["metadata"] == row["of_it"] for row in found)
    assert all(row["weight"] == row["was"] for row in found) and any(row["weight"] == 2 for row in found)
    for part in SHARES:
        table = store.get(f"pool-{part}").table()
        assert table["position"].to_pylist() == list(range(len(table)))
        records = store.query("SELECT sample_id FROM samples WHERE pool = $p ORDER BY position", {"p": f"pool-{part}"})
        assert records["sample_id"].to_pylist() == table["sample_id"].to_pylist()
        known = {row["sample_id"]: row for row in store.get("pool").table().to_pylist()}
        for row in table.to_pylist():
            assert {**row, "position": 0} == {**known[row["sample_id"]], "position": 0}


def test_the_order_of_the_rows_decides_nothing(store: Store, tmp_path: Path) -> None:
    shuffled = rows()
    random.Random(1).shuffle(shuffled)
    ingest(store, tmp_path, "shuffled", shuffled)
    for part in SHARES:
        again = make(store, "split", pool="shuffled", shares=SHARES, part=part, name=f"again-{part}")
        ids = set(again.table()["sample_id"].to_pylist())
        assert ids == set(store.get(f"pool-{part}").table()["sample_id"].to_pylist())
    other = make(store, "split", pool="pool", shares=SHARES, part="race", seed=1, name="seeded")
    assert set(other.table()["sample_id"].to_pylist()) != set(store.get("pool-race").table()["sample_id"].to_pylist())


def test_the_order_of_the_parts_decides_nothing(store: Store) -> None:
    for shares in ({"a": 0.5, "b": 0.5}, {"train": 0.8, "x": 0.1, "y": 0.1}):
        turned = dict(reversed(shares.items()))
        one, two = (samples_of_parts(store, each) for each in (shares, turned))
        assert one == two
        held = [set(ids) for ids in one.values()]
        assert not set.intersection(*held[:2]) and sum(map(len, held)) == len(set.union(*held))


def samples_of_parts(store: Store, shares: dict[str, float]) -> dict[str, list[str]]:
    """Part -> the samples that the split puts into it, without making pools."""
    table = store.get("pool").table(["sample_id"])
    groups = [[sample_id] for sample_id in dict.fromkeys(table["sample_id"].to_pylist())]
    samples, _ = _fill(groups, shares)
    return dict(sorted(samples.items()))


def test_copies_of_another_pool_are_left_out(store: Store) -> None:
    clean = make(store, "split", pool="pool", shares={"all": 1.0}, part="all", against="other", name="clean")
    assert clean.rows == 50 and clean.summary["samples with a copy in the other pool"] == 10
    ids = set(store.get("other").table()["sample_id"].to_pylist())
    assert not ids & set(clean.table()["sample_id"].to_pylist())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shares": {"a": 0.7, "b": 0.7}, "part": "a"}, "add up to at most 1"),
        ({"shares": {"a": 0.0}, "part": "a"}, "a share above 0"),
        ({"shares": {"a": float("nan")}, "part": "a"}, "a share above 0"),
        ({"shares": {"train": 0.5}, "part": "trian"}, "Did you mean 'train'"),
        ({"shares": {"a": 0.999, "b": 0.001}, "part": "b"}, "'b' would be empty: the pool 'pool' has 60 rows"),
        ({"shares": {"a": 1.0}, "part": "a", "against": "pool"}, "names the same pool"),
    ],
)
def test_what_cannot_be_split_is_told(store: Store, values: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        make(store, "split", pool="pool", name="wrong", **values)
    assert not store.has("wrong")


def test_an_export_of_a_part_has_the_columns_and_the_weights(store: Store, tmp_path: Path) -> None:
    sql = "SELECT sample_id FROM samples WHERE pool = 'graded-part' ORDER BY sample_id"
    file = tmp_path / "graded.jsonl"
    file.write_text("".join(json.dumps({**row, "grade": 1 + at % 2}) + "\n" for at, row in enumerate(rows()[:8])))
    make(store, "ingest", name="graded", data=[str(file)], weight_column="grade", metadata_columns=["weight"])
    make(store, "split", pool="graded", shares={"part": 1.0}, part="part", name="graded-part")
    out = tmp_path / "out"
    make(store, "export", sql=sql, pool="graded-part", file_format="jsonl", to=str(out), name="out")
    exported = [json.loads(line) for line in next(out.glob("*.jsonl")).read_text().splitlines()]
    assert len(exported) == 8 and {row["grade"] for row in exported} == {1, 2}
    assert {row["messages"][1]["content"] for row in exported} == {row["messages"][1]["content"] for row in rows()[:8]}


def test_a_part_is_read_as_any_pool(store: Store) -> None:
    train = store.get("pool-train")
    kept = make(store, "dedup", pool="pool-train", name="once")
    assert kept.rows and train.rows and kept.rows < train.rows
    with pytest.raises(StoreError, match="made by dedup, not by ingest or split"):
        make(store, "dedup", pool="once", name="twice")
