"""Rows of a pool are read by number, and repeats are those that a loop over all rows finds, in little memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.store.artifacts.parquet import write_parquet
from curate.store.rows.pool_rows import PoolRows, read_repeats, write_repeats


def pool(folder: Path, ids: list[str], sizes: list[int], group: int = 7) -> list[Path]:
    """Write a pool as files with these numbers of rows, in row groups."""
    table = pa.table({"sample_id": ids, "position": pa.array(range(len(ids)), pa.int64()), "text": ids})
    parts, start = [], 0
    for number, size in enumerate(sizes):
        parts.append(folder / f"part-{number:05d}.parquet")
        pq.write_table(table.slice(start, size), parts[-1], row_group_size=group)
        start += size
    assert start == len(ids)
    return parts


def test_any_rows_are_read_across_files_and_row_groups(tmp_path: Path) -> None:
    ids = [f"s{n}" for n in range(60)]
    rows = PoolRows(pool(tmp_path, ids, [20, 1, 0, 25, 14]))
    assert len(rows) == 60
    for start in range(0, 61, 3):
        for stop in (start, start + 1, start + 8, start + 40):
            tables = list(rows.read(start, stop, ["sample_id"]))
            found = [sample_id for table in tables for sample_id in table["sample_id"].to_pylist()]
            assert found == ids[start:stop], (start, stop)
            assert all(table.column_names == ["sample_id"] for table in tables)


def test_only_the_row_groups_of_the_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, read = PoolRows(pool(tmp_path, [f"s{n}" for n in range(40)], [40], group=10)), []
    whole = pq.ParquetFile.read_row_groups

    def noting(self: pq.ParquetFile, groups: list[int], **options: object) -> pa.Table:
        read.extend(groups)
        return whole(self, groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", noting)
    assert sum(len(table) for table in rows.read(12, 25, ["text"])) == 13 and read == [1, 2]


@pytest.mark.parametrize("memory", [10**9, 40 * 10**6])
def test_repeats_are_those_of_a_walk_that_remembers_all_ids(tmp_path: Path, memory: int) -> None:
    names = np.random.default_rng(0).integers(0, 150_000, 200_000)
    ids = [f"{name:032x}" for name in names.tolist()]
    seen: set[str] = set()
    slow = [position for position, sample_id in enumerate(ids) if sample_id in seen or seen.add(sample_id)]
    path = tmp_path / "repeats.parquet"
    write_repeats(pool(tmp_path, ids, [70_000, 130_000], group=20_000), path, memory=memory)
    assert pq.read_table(path)["position"].to_pylist() == slow
    assert read_repeats(path, 1000, 3000) == {position for position in slow if 1000 <= position < 3000}
    assert [file for file in tmp_path.iterdir() if file.name.startswith(".")] == [], "spilled files are removed"


def test_a_pool_without_repeats_has_none(tmp_path: Path) -> None:
    write_repeats(pool(tmp_path, ["a", "b", "c"], [2, 1]), tmp_path / "repeats.parquet")
    assert read_repeats(tmp_path / "repeats.parquet", 0, 3) == set()


def test_shards_are_written_in_row_groups_that_can_be_read_apart(tmp_path: Path) -> None:
    from curate.store import Draft

    Draft(tmp_path, "c1:0", tmp_path / "catalog").write(0, pa.table({"row": range(5000)}))
    assert pq.read_metadata(tmp_path / "part-00000.parquet").num_row_groups == 3
    write_parquet(tmp_path / "one.parquet", pa.table({"row": range(5000)}))
    assert pq.read_metadata(tmp_path / "one.parquet").num_row_groups == 1
