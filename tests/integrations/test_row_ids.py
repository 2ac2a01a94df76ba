"""Positions in a pool of the samples that a user's loop trains on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from curate import make
from curate.errors import DataError
from curate.integrations.row_ids import PoolPositions
from curate.stages.pools import pool_samples
from curate.store import Store


def test_a_position_is_the_first_in_the_pool_and_an_unknown_sample_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"p{n * n % 7}", "completion": "c"} for n in range(40)]
    Path("pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool = make(Store("store"), "ingest", name="pool", data="pool.jsonl", shard_rows=9)
    ids = [sample.sample_id for _, sample in pool_samples(pool)]
    positions = PoolPositions(pool)
    requested = [*ids[::-1], ids[3]]
    assert positions.of(requested).tolist() == [ids.index(each) for each in requested]
    for unknown in ("", "é", ids[0][:31], ids[0] + "0", "f" * 32):
        with pytest.raises(DataError, match=rf"1 of 2 candidates are not in the pool 'pool', .* them {unknown}\."):
            positions.of([ids[0], unknown])
