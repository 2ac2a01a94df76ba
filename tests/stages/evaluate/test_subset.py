"""`curate evaluate --subset`: its samples have the losses that they have in the whole pool; no other is measured."""

from __future__ import annotations

import pytest

from curate import make
from curate.errors import ConfigError, DataError
from curate.store import Store
from tests.support.exports import ingest

CHOSEN = "SELECT sample_id FROM samples WHERE position IN (0, 2, 3) ORDER BY position"


def test_a_subset_is_measured_as_part_of_its_pool(store: Store, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store.root.parent)
    rows = [{"instruction": f"Say {word}.", "input": "", "output": word} for word in ("one", "two", "six", "ten")]
    ids = ingest(store, rows, "held")
    options = {"model": tiny, "pool": "held", "max_length": 64, "shard_rows": 1}
    make(store, "subset", name="some", pool="held", sql=CHOSEN)
    make(store, "evaluate", name="all", **options)
    assert make(store, "evaluate", subset="some", **options).name.endswith("-on-some")
    losses = {
        name: {
            row["sample_id"]: row["loss"]
            for row in store.query(
                "SELECT sample_id, loss FROM answers WHERE evaluation LIKE '%' || $name", {"name": name}
            ).to_pylist()
        }
        for name in ("all", "some")
    }
    assert losses["some"] == {ids[n]: losses["all"][ids[n]] for n in (0, 2, 3)}
    assert make(store, "evaluate", name="first", subset="some", limit=2, **options).rows == 2
    with pytest.raises(ConfigError, match="--subset has an effect only with --pool"):
        make(store, "evaluate", name="no", model=tiny, subset="some", tasks=["x"])
    ingest(store, rows[:2], "other")
    with pytest.raises(DataError, match="'some' is not of the pool 'other'"):
        make(store, "evaluate", name="no", subset="some", **{**options, "pool": "other"})
