"""The ledger's thread writes the same rows as the slow obvious way, and no row is lost."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import curate.store.ledger.ledger as module
import curate.store.ledger.rows as rows_module
from curate.config import Config
from curate.errors import StoreError
from curate.store import Draft, Store
from curate.store.catalog.catalog import Catalog
from curate.store.catalog.fragments import fragments
from curate.store.ledger.ledger import Ledger
from curate.store.ledger.rows import SCHEMA, RowBuffer, to_table

IDS = [f"{n:032x}" for n in range(50)]
DICTIONARY = pa.array(IDS)
FLOATS = ("score", "weight", "loss")


def draw(rng: np.random.Generator, count: int, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the columns of a step, with missing values."""

    def floats() -> np.ndarray[Any, Any]:
        return np.where(rng.random(count) < 0.2, np.nan, rng.standard_normal(count).astype(np.float32))

    index = rng.integers(0, len(IDS), count)
    return {
        "sample_id": pa.DictionaryArray.from_arrays(index, DICTIONARY),
        "position": index * 7,
        "kept": rng.random(count) < 0.3,
        "score": floats(),
        "weight": None if rng.random() < 0.5 else floats(),
        "loss": floats(),
        "tokens": rng.integers(1, 9, count),
        "target_tokens": rng.integers(1, 9, count),
        "parts": {name: floats() for name in names},
    }


def row_by_row(steps: dict[int, dict[str, Any]], rank: int = 0) -> pa.Table:
    """Return the table in the slow obvious way: one dictionary per row."""
    rows = []
    for step, columns in steps.items():
        for i, sample_id in enumerate(columns["sample_id"].to_pylist()):
            row: dict[str, Any] = {"step": step, "rank": rank, "slot": i, "sample_id": sample_id}
            row |= {name: int(columns[name][i]) for name in ("rank", "slot") if name in columns}
            row |= {name: columns[name][i].item() for name in ("position", "kept", "tokens", "target_tokens")}
            for name in FLOATS:
                value = None if columns[name] is None else float(columns[name][i])
                row[name] = None if value is None or value != value else value
            named = {name: float(values[i]) for name, values in columns["parts"].items()}
            row["parts"] = [(name, value) for name, value in named.items() if value == value]
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def drawn(seed: int, steps: int = 12) -> dict[int, dict[str, Any]]:
    """Steps of several sizes, whose parts change their names."""
    rng = np.random.default_rng(seed)
    names: list[tuple[str, ...]] = [("utility", "diversity"), (), ("gain",), ("diversity", "utility")]
    return {step: draw(rng, int(rng.integers(1, 20)), names[step // 3 % 4]) for step in range(1, steps + 1)}


def table_of(steps: dict[int, dict[str, Any]], rank: int = 0) -> pa.Table:
    buffer = RowBuffer()
    for step, columns in steps.items():
        buffer.append(step, columns, rank=rank)
    return to_table(buffer.rows())


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "run", "c1:run", Catalog(tmp_path / "catalog.duckdb"), every=1e9)


def written(ledger: Ledger) -> list[Path]:
    return fragments(ledger.folder, "ledger")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold back the writing of fragments until this event is set."""
    open_gate, write = threading.Event(), module.write_parquet

    def hold(*args: Any, **options: Any) -> None:
        assert open_gate.wait(timeout=60)
        write(*args, **options)

    monkeypatch.setattr(module, "write_parquet", hold)
    yield open_gate
    open_gate.set()


@pytest.mark.parametrize("seed", range(5))
def test_columns_become_the_rows_that_the_slow_obvious_way_makes(seed: int) -> None:
    steps = drawn(seed)
    assert table_of(steps, rank=3) == row_by_row(steps, rank=3)


def test_sample_ids_may_be_a_dictionary_or_strings_from_step_to_step() -> None:
    steps = drawn(1)
    mixed = {step: dict(columns) for step, columns in steps.items()}
    for step, columns in mixed.items():
        if step % 3 == 0:
            columns["sample_id"] = columns["sample_id"].dictionary_decode()
        elif step % 3 == 1:
            columns["sample_id"] = columns["sample_id"].to_pylist()
    assert table_of(mixed) == row_by_row(steps)


def test_rank_and_slot_are_taken_where_they_are_given() -> None:
    steps = drawn(2, steps=2)
    for columns in steps.values():
        n = len(columns["sample_id"])
        columns |= {"rank": np.arange(n) % 2, "slot": np.arange(n) // 2}
    table = table_of(steps, rank=5)
    assert table == row_by_row(steps) and set(table["rank"].to_pylist()) == {0, 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": np.zeros(3)}, r"column loss has the shape \(3,\), but there are 4 sample ids"),
        ({"parts": {"gain": np.zeros((4, 1))}}, r"column gain has the shape \(4, 1\)"),
        ({"lost": np.zeros(4)}, "columns of the ledger: lost"),
    ],
)
def test_a_wrong_column_is_an_error_of_the_call_that_passes_it(
    ledger: Ledger, change: dict[str, Any], message: str
) -> None:
    columns = draw(np.random.default_rng(0), 4, ())
    with pytest.raises(ValueError, match=message):
        ledger.append(1, columns | change)
    with pytest.raises(ValueError, match="columns of the ledger: kept"):
        ledger.append(1, {name: value for name, value in columns.items() if name != "kept"})


def test_a_refused_step_leaves_no_row(ledger: Ledger) -> None:
    steps = drawn(7, steps=2)
    ledger.append(1, steps[1])
    with pytest.raises(ValueError, match="column loss has the shape"):
        ledger.append(2, steps[2] | {"loss": np.zeros(99)})
    ledger.append(2, steps[2])
    ledger.close_fragment()
    assert pq.read_table(written(ledger)[0]) == row_by_row(steps)


def test_one_value_is_no_column(ledger: Ledger) -> None:
    columns = draw(np.random.default_rng(0), 4, ())
    with pytest.raises(ValueError, match=r"column score has the shape \(1,\)"):
        ledger.append(1, columns | {"score": np.zeros(1)})


@pytest.mark.parametrize("room", [1, 3, 64])
def test_rows_that_were_given_to_the_thread_do_not_change(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(rows_module, "BLOCK", room)
    steps, buffer = drawn(8), RowBuffer()
    for step in range(1, 7):
        buffer.append(step, steps[step], rank=0)
    given = buffer.rows()
    for step in range(7, 13):
        buffer.append(step, steps[step], rank=0)
    assert to_table(given) == row_by_row({step: steps[step] for step in range(1, 7)})
    for last in (9, 4, 0):
        buffer.rewind(last)
        kept = {step: steps[step] for step in range(1, last + 1)}
        assert len(buffer) == sum(len(columns["position"]) for columns in kept.values())
        assert not kept or to_table(buffer.rows()) == row_by_row(kept)


def test_arrays_may_be_used_again_once_they_are_appended(ledger: Ledger) -> None:
    columns = draw(np.random.default_rng(0), 4, ("gain",))
    expected = row_by_row({1: columns})
    ledger.append(1, columns)
    for array in (columns["score"], columns["position"], columns["parts"]["gain"]):
        array[:] = 0
    ledger.close_fragment()
    assert pq.read_table(written(ledger)[0]) == expected


def test_fragments_are_those_of_writing_without_a_thread(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 30)
    steps = drawn(3, steps=20)
    block: dict[int, dict[str, Any]] = {}
    for step, columns in steps.items():
        ledger.append(step, columns)
        block[step] = columns
        if sum(len(each["sample_id"]) for each in block.values()) >= 30 or step == 20:
            path = tmp_path / f"{min(block):09d}-r0.parquet"
            options = {"compression": module.COMPRESSION, "use_dictionary": module.DICTIONARY_COLUMNS}
            pq.write_table(table_of(block), path, write_page_checksum=True, **options)
            block = {}
    ledger.close_fragment()
    expected = {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    assert {path.name: path.read_bytes() for path in written(ledger)} == expected and len(expected) > 3


def test_append_does_not_wait_for_the_disk_and_commit_does(
    ledger: Ledger, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 10)
    steps = {step: draw(np.random.default_rng(step), 10, ("gain",)) for step in (1, 2, 3)}
    for step, columns in steps.items():
        ledger.append(step, columns)
    assert not written(ledger)
    threading.Timer(0.2, gate.set).start()
    ledger.commit(3)
    assert not written(ledger), "they are merged"
    with ledger.catalog.open() as connection:
        found = connection.sql("SELECT * EXCLUDE (artifact) FROM ledger ORDER BY step, slot").to_arrow_table()
    assert found.cast(SCHEMA) == row_by_row(steps)


def test_a_caller_that_is_faster_than_the_disk_waits(
    ledger: Ledger, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 1)
    columns = draw(np.random.default_rng(0), 1, ())

    def write() -> None:
        for step in range(1, 20):
            ledger.append(step, columns)
            done.append(step)

    done: list[int] = []
    writer = threading.Thread(target=write)
    writer.start()
    writer.join(timeout=0.5)
    assert writer.is_alive() and len(done) < 8
    gate.set()
    writer.join(timeout=60)
    ledger.close_fragment()
    assert len(written(ledger)) == 19


def full_disk(*args: Any, **options: Any) -> None:
    raise OSError(28, "No space left on device")


CALLS: dict[str, Callable[[Ledger], None]] = {
    "append": lambda ledger: ledger.append(2, draw(np.random.default_rng(0), 4, ())),
    "settle": lambda ledger: ledger.commit(1),
    "rewind": lambda ledger: ledger.rewind(0),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_error_of_the_thread_is_raised_by_the_next_call_and_every_one_after(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, call: Callable[[Ledger], None]
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 1)
    monkeypatch.setattr(module, "write_parquet", full_disk)
    ledger.append(1, draw(np.random.default_rng(0), 4, ()))
    wait([*ledger._writer._jobs])
    for _ in range(2):
        with pytest.raises(StoreError, match=r"cannot be written to .*No space left on device.*run the same command"):
            call(ledger)
    assert not ledger._marker.exists(), "no step is marked final whose rows are not written"
    assert not working()


def working() -> bool:
    """Return whether a ledger's thread is running."""
    return any(thread.name.startswith("curate-ledger") for thread in threading.enumerate())


def test_no_thread_is_left(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 1)
    for end in (ledger.close_fragment, lambda: ledger.commit(1), lambda: ledger.rewind(0)):
        ledger.append(1, draw(np.random.default_rng(0), 4, ()))
        assert working()
        end()
        assert not working()


def test_an_abandoned_ledgers_thread_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 1)
    ledger = Ledger(tmp_path / "run", "c1:run", Catalog(tmp_path / "catalog.duckdb"))
    ledger.append(1, draw(np.random.default_rng(0), 4, ()))
    [thread] = [each for each in threading.enumerate() if each.name.startswith("curate-ledger")]
    del ledger
    gc.collect()
    thread.join(timeout=60)
    assert not thread.is_alive() and len(list(tmp_path.rglob("*.parquet"))) == 1


def test_a_rewound_ledger_continues_as_if_there_were_no_later_steps(ledger: Ledger, tmp_path: Path) -> None:
    steps = drawn(4, steps=6)
    ledger.append(1, steps[1])
    ledger.append(2, steps[2])
    ledger.close_fragment()
    for step in (3, 4, 5):
        ledger.append(step, drawn(5)[step])
    ledger._write()
    ledger.rewind(2)
    for step in (3, 4, 5, 6):
        ledger.append(step, steps[step])
    ledger.close_fragment()
    assert pa.concat_tables(map(pq.read_table, written(ledger))) == row_by_row(steps)


def test_a_query_sees_rows_that_are_not_merged_and_then_those_that_are(store: Store) -> None:
    seen = []

    def fill(draft: Draft) -> None:
        ledger = Ledger.of(draft)
        ledger.every = 0.0
        for step, columns in drawn(6, steps=4).items():
            ledger.append(step, columns)
            ledger._writer.drain()
            seen.append(store.query("SELECT max(step) AS step FROM ledger WHERE run = 'live'").to_pylist()[0]["step"])
            if step == 2:
                ledger.commit(2)
        ledger.close_fragment()

    store.make("toy", fill, Config(name="live"))
    assert seen == [1, 2, 3, 4]
    found = store.query("SELECT * EXCLUDE (run) FROM ledger ORDER BY step, slot")
    assert found.cast(SCHEMA) == row_by_row(drawn(6, steps=4))
