"""Faults in files: a stage that reads a damaged file, and `curate verify`, must end with an error that names it."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from curate.store import Store

from .injection import Fault
from .repairs import assert_clear_error, drop, rerun_and_check, some
from .stages import INPUTS, Harness

HEADERS, BLOCK = 3 * 4096, 1 << 18
"""Bytes of a DuckDB file before its first block, and of a block."""

READ = ("sample_id", "messages.list.element.content")
"""Columns of a table. Every reader of the table reads at least one of them."""


def flipped(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Change one byte of an input."""

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        for at in _within(path):
            content[at] ^= 0x10
        path.write_bytes(content)

    return _damaged(harness, stage, flip, most)


def _within(path: Path) -> list[int]:
    """Return offsets in a file, of which every reader reads at least one. In a table, they are in ids and in texts."""
    if path.suffix == ".duckdb":
        return [_within_catalogue(path)]
    if path.suffix != ".parquet":
        return [path.stat().st_size * 2 // 3]
    group = pq.read_metadata(path).row_group(0)
    columns = map(group.column, range(group.num_columns))
    return [_within_column(column) for column in columns if column.path_in_schema in READ]


def _within_column(column: pq.ColumnChunkMetaData) -> int:
    start, data = column.dictionary_page_offset, column.data_page_offset
    return int((start + data) // 2 if start else data + column.total_compressed_size // 2)


def _within_catalogue(path: Path) -> int:
    """Return an offset in a block of the ledger. A changed byte in a free block would be harmless."""
    with duckdb.connect(str(path), read_only=True) as connection:
        (block,) = connection.execute("SELECT max(block_id) FROM pragma_storage_info('ledger')").fetchall()[0]
    return HEADERS + int(block) * BLOCK + BLOCK // 2


def truncated(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Cut an input to half of its size."""
    return _damaged(harness, stage, lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), most)


def missing(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Delete an input."""
    return _damaged(harness, stage, Path.unlink, most)


def bad_checkpoint(harness: Harness, stage: str, most: int | None, rng: random.Random) -> str:
    """Damage the checkpoint from which a stopped run would resume."""
    whole = [n for n, what in enumerate(harness.points(stage), 1) if what.endswith("checkpoint-4/.curate.json.tmp")]
    if not whole or stage == "compare":
        return "makes no checkpoints"
    for file in some(["optimizer.pt", "adapter_model.safetensors", "curate.json"], most, rng):
        folder = harness.case()
        running = harness.run(stage, folder, fault=Fault(f"{folder}/", "kill", whole[-1] + 1))
        assert running.code == -signal.SIGKILL, running.err
        (path,) = (p for p in folder.glob(f"store/artifacts/*/*/checkpoints/checkpoint-4/{file}") if _unfinished(p))
        path.write_bytes(path.read_bytes()[:-9])
        for failing in (harness.run(stage, folder), harness.commands.run(folder, "verify")):
            assert_clear_error(failing)
            assert path.name in failing.err + failing.out, failing.err
        assert f"Removed {path.parent}" in harness.commands.done(folder, "repair").out.replace(
            "store/", f"{folder}/store/"
        )
        rerun_and_check(harness, stage, folder, gc_first=False)
    return "clear error, named, repaired; rerun the same"


def _unfinished(path: Path) -> bool:
    return (path.parents[2] / "draft.json").exists()


def _damaged(harness: Harness, stage: str, damage: Callable[[Path], object], most: int | None) -> str:
    """Damage one input after the other: the stage and verify must name it, and all works again once it is restored."""
    if stage not in INPUTS:
        return _damaged_catalogue(harness, stage, damage)
    inputs = list(INPUTS[stage].items())[:most]
    for name, file in inputs:
        folder = harness.case()
        path = Store(folder / "store").get(name).path / file
        kept = path.read_bytes()
        damage(path)
        running = harness.run(stage, folder)
        assert_clear_error(running)
        assert path.name in running.err, f"does not name {path}: {running.err}"
        verified = harness.commands.run(folder, "verify")
        assert_clear_error(verified)
        assert path.name in verified.out, f"verify does not name {path}: {verified.out}"
        path.write_bytes(kept)
        harness.assert_same_result(stage, folder, harness.run(stage, folder))
        drop(folder)
    return f"{', '.join(name for name, _ in inputs)}: clear error, named"


def _damaged_catalogue(harness: Harness, stage: str, damage: Callable[[Path], object]) -> str:
    """Damage and rebuild the catalogue, for a stage that reads no files of artifacts."""
    folder = harness.case()
    path = folder / "store" / "catalog.duckdb"
    damage(path)
    running = harness.run(stage, folder)
    if running.code != 0:
        assert_clear_error(running)
        assert path.name in running.err, running.err
    verified = harness.commands.run(folder, "verify")
    assert_clear_error(verified)
    assert path.name in verified.out, verified.out
    harness.commands.done(folder, "repair")
    harness.assert_same_result(stage, folder, harness.run(stage, folder))
    harness.assert_clean(folder)
    drop(folder)
    return "catalogue: named, repaired"
