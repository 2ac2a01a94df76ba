"""Keep what was measured, and take it from an earlier result that differs only in what is decided afterwards.

Pairs are measured down to a floor that depends on the threshold alone, so another threshold with the same floor, or
another rule of what is kept, needs no new measurement, and gives the same result as one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...errors import ConfigError, StoreError
from ...log import LOGGER
from ...store import Artifact
from ...store.artifacts.files import read_json, write_json
from ...store.artifacts.parquet import read_parquet, write_parquet
from ..inputs import Inputs
from .config import DedupConfig
from .pairs import MOST_PAIRS, Pairs
from .rows import Compared

ROWS, PAIRS, COUNTS = "rows.parquet", "pairs.parquet", "measured.json"
"""Files of an artifact: its rows, the pairs of items, and what else was found."""

ROW = pa.schema({"sample_id": pa.string(), "item": pa.int64(), "characters": pa.int64(), "question": pa.int64()})
PAIR = pa.schema({"one": pa.int64(), "two": pa.int64(), "similarity": pa.float64(), "answers": pa.float64()})
NUMBERS = ("other", "repeats", "empty", "unusable")


def write_measured(folder: Path, rows: Compared) -> None:
    """Write what was measured into the folder of an artifact. The question of an item is that of each of its rows."""
    columns = [pa.array(rows.ids, pa.string()), rows.items, rows.lengths, rows.questions[rows.items]]
    write_parquet(folder / ROWS, pa.table(columns, schema=ROW))
    pairs = rows.pairs
    values = [pairs.items[:, 0], pairs.items[:, 1], pairs.similarity, pairs.answers]
    write_parquet(folder / PAIRS, pa.table(values, schema=PAIR))
    write_json(folder / COUNTS, {"note": rows.note, **{name: getattr(rows, name) for name in NUMBERS}})


def find_measured(config: DedupConfig, inputs: Inputs) -> tuple[Artifact, Compared] | None:
    """Return the latest artifact with what `config` would measure, and that; None if there is none."""
    for artifact in reversed(inputs.store.artifacts()):
        if artifact.stage != "dedup" or not _same(config, inputs, artifact) or not (artifact.path / COUNTS).is_file():
            continue
        try:
            artifact.check(read=True)
            return artifact, _read(artifact.path)
        except StoreError as error:
            LOGGER.warning(f"Nothing is taken from '{artifact.name}': {error}")
    return None


def _same(config: DedupConfig, inputs: Inputs, artifact: Artifact) -> bool:
    try:
        recorded = DedupConfig(**DedupConfig.recorded(artifact.config))
    except (ValueError, ConfigError):  # made by another version
        return False
    asked, given = (
        (each.by, each.on, each.vector, each.floor, *(of.get(name) for name in config.measures))
        for each, of in ((config, inputs.fingerprints), (recorded, artifact.inputs))
    )
    return asked == given


def _read(folder: Path) -> Compared:
    """Read what was measured; raise `StoreError` if it cannot be."""
    rows, pairs, counts = read_parquet(folder / ROWS), read_parquet(folder / PAIRS), read_json(folder / COUNTS)
    numbers = [counts.get(name) for name in NUMBERS]
    note = counts.get("note")
    if not (
        rows.schema.equals(ROW)
        and pairs.schema.equals(PAIR)
        and all(type(number) is int and 0 <= number <= len(rows) for number in numbers)
        and isinstance(note, str)
        and len(pairs) <= MOST_PAIRS
        and not any(column.null_count for table in (rows, pairs) for column in table.columns)
    ):
        raise StoreError(f"{folder} does not hold the pairs of a dedup: delete the folder, and make it again.")
    items, lengths, asked = (rows[name].to_numpy() for name in ROW.names[1:])
    ends = np.stack([pairs["one"].to_numpy(), pairs["two"].to_numpy()], axis=1)
    count = int(items.max(initial=-1)) + 1
    whole = np.array_equal(np.unique(items), np.arange(count)) and count <= len(items)
    if not whole or not _within(ends, 0, count) or not _within(asked, -1, count):
        raise StoreError(f"{folder} names items that it does not have: delete the folder, and make it again.")
    questions = np.zeros(count, np.int64)
    questions[items] = asked
    found = Pairs(ends, pairs["similarity"].to_numpy(), pairs["answers"].to_numpy())
    named: dict[str, Any] = dict(zip(NUMBERS, numbers, strict=True))
    return Compared(rows["sample_id"].to_pylist(), items, lengths, questions, found, note=note, **named)


def _within(values: np.ndarray, least: int, end: int) -> bool:
    return bool(((values >= least) & (values < end)).all())
