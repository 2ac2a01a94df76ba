"""Files that are not as they were written: a stage that reads them refuses and names them, as `curate verify` does."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from curate.store import Store

from .injection import Fault
from .repairs import drop, mend, must_be_clear, some
from .stages import INPUTS, Workshop

HEADERS, BLOCK = 3 * 4096, 1 << 18
"""Bytes of a DuckDB file before its first block, and of a block."""

READ = ("sample_id", "messages.list.element.content")
"""Columns of which a reader of a table reads at least one."""


def flipped(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """A byte of an input is another."""

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        for at in _within(path):
            content[at] ^= 0x10
        path.write_bytes(content)

    return _damaged(shop, stage, flip, most)


def _within(path: Path) -> list[int]:
    """Places in a file one of which whoever reads it has to read: of a table, of the ids and of the texts."""
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
    """A place in a block of the ledger; a flipped byte in a block that is free is nobody's, and harmless."""
    with duckdb.connect(str(path), read_only=True) as connection:
        (block,) = connection.execute("SELECT max(block_id) FROM pragma_storage_info('ledger')").fetchall()[0]
    return HEADERS + int(block) * BLOCK + BLOCK // 2


def truncated(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """An input is cut off."""
    return _damaged(shop, stage, lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), most)


def missing(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """An input has gone."""
    return _damaged(shop, stage, Path.unlink, most)


def bad_checkpoint(shop: Workshop, stage: str, most: int | None, chance: random.Random) -> str:
    """A run that was stopped finds the checkpoint damaged that it would go on from."""
    whole = [n for n, what in enumerate(shop.points(stage), 1) if what.endswith("checkpoint-4/.curate.json.tmp")]
    if not whole or stage == "compare":
        return "has none of its own"
    for file in some(["optimizer.pt", "adapter_model.safetensors", "curate.json"], most, chance):
        folder = shop.case()
        running = shop.run(stage, folder, fault=Fault(f"{folder}/", "kill", whole[-1] + 1))
        assert running.code == -signal.SIGKILL, running.err
        (path,) = (p for p in folder.glob(f"store/artifacts/*/*/checkpoints/checkpoint-4/{file}") if _unfinished(p))
        path.write_bytes(path.read_bytes()[:-9])
        for refusing in (shop.run(stage, folder), shop.commands.run(folder, "verify")):
            must_be_clear(refusing)
            assert path.name in refusing.err + refusing.out, refusing.err
        assert f"Removed {path.parent}" in shop.commands.done(folder, "repair").out.replace(
            "store/", f"{folder}/store/"
        )
        mend(shop, stage, folder, gc_first=False)
    return "refused, named, repaired; rerun the same"


def _unfinished(path: Path) -> bool:
    return (path.parents[2] / "draft.json").exists()


def _damaged(shop: Workshop, stage: str, damage: Callable[[Path], object], most: int | None) -> str:
    """Inputs one after the other: the stage refuses and names the file, so does verify; put back, all is as ever."""
    if stage not in INPUTS:
        return _damaged_catalogue(shop, stage, damage)
    inputs = list(INPUTS[stage].items())[:most]
    for name, file in inputs:
        folder = shop.case()
        path = Store(folder / "store").get(name).path / file
        kept = path.read_bytes()
        damage(path)
        running = shop.run(stage, folder)
        must_be_clear(running)
        assert path.name in running.err, f"does not name {path}: {running.err}"
        verified = shop.commands.run(folder, "verify")
        must_be_clear(verified)
        assert path.name in verified.out, f"verify does not name {path}: {verified.out}"
        path.write_bytes(kept)
        shop.must_be_as_ever(stage, folder, shop.run(stage, folder))
        drop(folder)
    return f"{', '.join(name for name, _ in inputs)}: refused, named"


def _damaged_catalogue(shop: Workshop, stage: str, damage: Callable[[Path], object]) -> str:
    """A stage that reads no files of artifacts: the catalogue is damaged, and made again."""
    folder = shop.case()
    path = folder / "store" / "catalog.duckdb"
    damage(path)
    running = shop.run(stage, folder)
    if running.code != 0:
        must_be_clear(running)
        assert path.name in running.err, running.err
    verified = shop.commands.run(folder, "verify")
    must_be_clear(verified)
    assert path.name in verified.out, verified.out
    shop.commands.done(folder, "repair")
    shop.must_be_as_ever(stage, folder, shop.run(stage, folder))
    shop.must_be_clean(folder)
    drop(folder)
    return "catalogue: named, repaired"
