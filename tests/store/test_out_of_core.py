"""Rows of shards are counted, found and reordered without all of them in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.store.rows import out_of_core as store_rows
from curate.store.rows.out_of_core import count_distinct, first_of_each, gather, positions_of, read_batches


def write_pool(folder: Path, ids: list[str], each: int) -> list[Path]:
    paths = []
    for number, start in enumerate(range(0, len(ids), each)):
        part = ids[start : start + each]
        columns = {"sample_id": part, "position": range(start, start + len(part)), "text": [f"{i}!" for i in part]}
        paths.append(folder / f"part-{number:05d}.parquet")
        pq.write_table(pa.table(columns), paths[-1])
    return paths


@pytest.mark.parametrize("share", [10_000, 7, 1])
def test_rows_come_in_the_order_of_the_ids_each_once_and_the_first_of_its_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    rng = np.random.default_rng(1)
    ids = [f"s{number}" for number in rng.integers(200, size=500)]
    shards = write_pool(tmp_path, ids, each=70)
    wanted = [str(name) for name in rng.permutation(sorted(set(ids)))[:90]]
    monkeypatch.setattr(store_rows, "MIN_ROWS_PER_FILE", share)
    positions = positions_of(shards, pa.array(["x", *wanted, "a"]), tmp_path)
    assert positions.tolist() == [-1, *map(ids.index, wanted), -1]
    gather(shards, positions[1:-1], tmp_path / "out" / "found.parquet")
    rows = [row for batch in read_batches(tmp_path / "out" / "found.parquet", rows=7) for row in batch.to_pylist()]
    assert rows == [{"sample_id": name, "position": ids.index(name), "text": f"{name}!"} for name in wanted]
    assert count_distinct(shards, "sample_id", tmp_path) == len(set(ids))
    there = {path.name for path in tmp_path.rglob("*")}
    assert there == {"out", "found.parquet", *(path.name for path in shards)}, "spilled files are removed"


def test_first_of_each_is_where_each_comes_first() -> None:
    values = np.random.default_rng(0).integers(40, size=300).astype(str).tolist()
    slow = sorted({value: index for index, value in reversed(list(enumerate(values)))}.values())
    chunks = pa.chunked_array([values[:100], values[100:]])
    assert first_of_each(chunks).tolist() == slow and first_of_each(chunks[:0]).tolist() == []
