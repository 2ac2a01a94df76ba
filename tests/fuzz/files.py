"""Files of rows, good and odd ones among each other, in every format that is read; and files that are broken."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .rows import Line, as_json, chat_row, good_line, good_row, odd_line, odd_row, odd_text

PACKERS: Mapping[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: bytes(pa.compress(content, "zstd", asbytes=True)),
}
GOOD = 0.3
"""Share of rows that are good."""


@dataclass(frozen=True)
class Batch:
    """A file, and what is in it.

    Attributes:
        path: the file or folder.
        format: how it is written.
        good: the good rows that it holds, in order, as they must come back.
        rows: how many rows it holds; None where it is broken, and nobody knows.
        held: row number -> the row, where it is known what it holds.
    """

    path: Path
    format: str
    good: list[dict[str, Any]]
    rows: int | None
    held: Mapping[int, Any]


def lines_of(rng: Random, count: int) -> list[Line]:
    """Good lines and odd ones, all of one format; the first and the last are good."""
    base = rng.choice([good_row, chat_row])
    inner = [
        (good_line if rng.random() < GOOD else odd_line)(rng, number, base) for number in range(1, max(count - 1, 1))
    ]
    return [good_line(rng, 0, base), *inner, good_line(rng, count, base)]


def jsonl(rng: Random, folder: Path, count: int) -> Batch:
    lines = lines_of(rng, count)
    content = b"\n".join(line.raw for line in lines) + rng.choice([b"", b"\n", b"\n\n \n"])
    content, name = rng.choice([b"", b"\xef\xbb\xbf"]) + content, "a.jsonl"
    if rng.random() < 0.2:
        end, pack = rng.choice(list(PACKERS.items()))
        name, content = name + end, pack(content)
    (folder / name).write_bytes(content)
    held = {number: line.row for number, line in enumerate(lines, 1) if line.row is not None}
    return Batch(folder / name, "jsonl", _good(lines), len(lines), held)


def json_array(rng: Random, folder: Path, count: int) -> Batch:
    lines = [line for line in lines_of(rng, count) if line.row is not None]
    (folder / "a.json").write_bytes(b"[" + b",\n".join(line.raw for line in lines) + b"]")
    return Batch(folder / "a.json", "json", _good(lines), len(lines), dict(enumerate((x.row for x in lines), 1)))


def _good(lines: Sequence[Line]) -> list[dict[str, Any]]:
    return [line.row for line in lines if line.kind == "good" and line.row is not None]


def table(rng: Random, folder: Path, count: int) -> Batch:
    """CSV or TSV. Rows are written well, or are broken within their own line, with quotes in pairs."""
    suffix, delimiter = rng.choice([("csv", ","), ("tsv", "\t")])
    text, good, held = io.StringIO(newline=""), [], dict[int, Any]()
    ends, quoting = rng.choice([("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)])  # a bare \r ends a row, too
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ends, quoting=quoting)
    columns = ["prompt", "completion", "id"]
    writer.writerow(columns)
    for number in range(1, count + 1):
        row = good_row(rng, number)
        if number in (1, count) or rng.random() < GOOD:
            held[number] = {key: row[key] for key in columns}
            good.append(held[number])
            writer.writerow(held[number].values())
        elif rng.random() < 0.7:
            cells = [odd_text(rng) for _ in columns]
            held[number] = dict(zip(columns, cells, strict=True))
            writer.writerow(cells)
        else:
            text.write(rng.choice(['"a"b', 'a,"b"c"d",e', "a", "a,b,c,d", '"a" ,"b","c"', 'x"y"z', "\x00"]) + "\n")
    content = text.getvalue().encode("utf-8", "surrogatepass")
    (folder / f"a.{suffix}").write_bytes(content)
    return Batch(folder / f"a.{suffix}", suffix, good, count, held)


def parquet(rng: Random, folder: Path, count: int) -> Batch:
    """Text columns with whatever bytes, beside columns of types that Python has not got. Good rows have none."""
    prompts, completions, good = [], [], []
    odd = rng.sample(list(ODD_COLUMNS), rng.randint(0, 3))
    others: dict[str, list[Any]] = {name: [] for name in odd}
    for number in range(count):
        row = good_row(rng, number)
        prompt, completion = row["prompt"].encode(), row["completion"].encode()
        is_good = number in (0, count - 1) or rng.random() < GOOD
        if is_good:
            good.append({"prompt": row["prompt"], "completion": row["completion"], "id": f"row-{number}"})
        else:
            prompt, completion = (
                rng.choice([None, b"\xff\xfe", odd_text(rng).encode(), b"\xed\xa0\x80", text])
                for text in (prompt, completion)
            )
        prompts.append(prompt)
        completions.append(completion)
        for name, values in others.items():
            values.append(None if is_good else ODD_COLUMNS[name][1](rng))
    ids = pa.array([f"row-{number}" for number in range(count)])
    columns = {"prompt": _as_text(prompts), "completion": _as_text(completions), "id": ids}
    columns |= {name: pa.array(values, ODD_COLUMNS[name][0]) for name, values in others.items()}
    path = folder / "a.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=rng.choice([3, 1000]))
    return Batch(path, "parquet", good, count, {})


def _as_text(values: Sequence[bytes | None]) -> pa.Array:
    """Bytes as an Arrow string column, which nobody checks to be UTF-8."""
    return pa.array(values, pa.binary()).view(pa.string())


ODD_COLUMNS: Mapping[str, tuple[pa.DataType, Callable[[Random], Any]]] = {
    "day": (pa.date32(), lambda rng: rng.choice([None, 0, -(2**31), 2**31 - 1])),
    "moment": (pa.timestamp("us"), lambda rng: rng.choice([None, 0, -(2**63) + 1, 2**63 - 1])),
    "nano": (pa.timestamp("ns"), lambda rng: rng.choice([None, 1, 2**63 - 1])),
    "zone": (pa.timestamp("s", tz="Nowhere/Never"), lambda rng: rng.choice([None, 5])),
    "span": (pa.duration("s"), lambda rng: rng.choice([None, 1, 2**62])),
    "bytes": (pa.binary(), lambda rng: rng.randbytes(3)),
    "real": (pa.float64(), lambda rng: rng.choice([float("nan"), float("inf"), 1.0])),
    "decimal": (pa.decimal128(38, 2), lambda rng: None),
    "map": (pa.map_(pa.string(), pa.int64()), lambda rng: rng.choice([None, [], [("a", 1), ("a", 2)]])),
    "words": (pa.dictionary(pa.int8(), pa.string()), lambda rng: rng.choice(["a", None])),
    "deep": (pa.list_(pa.struct({"x": pa.list_(pa.date32())})), lambda rng: [{"x": [rng.choice([0, -(2**31)])]}]),
    "one": (pa.struct({"t": pa.timestamp("us")}), lambda rng: {"t": rng.choice([None, 2**63 - 1])}),
    "json": (pa.json_(), lambda rng: rng.choice([None, "{}", "{broken", "[" * 2000, '{"a": 1, "a": 2}', "NaN"])),
    "many": (pa.large_list(pa.string()), lambda rng: rng.choice([None, [None], ["x"]])),
}


def saved(rng: Random, folder: Path, count: int) -> Batch:
    """A folder of `save_to_disk`, whole or with one of its files spoilt."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    rows = [{key: good_row(rng, number)[key] for key in ("prompt", "completion", "id")} for number in range(count)]
    Dataset.from_list(rows).save_to_disk(str(folder / "a"))
    if rng.random() < 0.3:
        return Batch(folder / "a", "hf", rows, count, dict(enumerate(rows, 1)))
    spoilt = rng.choice(sorted((folder / "a").iterdir()))
    spoil(rng, spoilt)
    return Batch(folder / "a", "broken", [], None, {})


def broken(rng: Random, folder: Path, count: int) -> Batch:
    """A file of some format with bytes changed, cut off or put in."""
    batch = rng.choice([json_array, table, parquet])(rng, folder, min(count, 5))
    path = batch.path
    if rng.random() < 0.3 and path.suffix != ".parquet":
        end, pack = rng.choice(list(PACKERS.items()))
        path = path.with_name(path.name + end)
        path.write_bytes(pack(batch.path.read_bytes()))
        batch.path.unlink()
    spoil(rng, path)
    return Batch(path, "broken", [], None, {})


def spoil(rng: Random, path: Path) -> None:
    """Change a file as a bad disk, a stopped copy or a bad neighbour would."""
    content = bytearray(path.read_bytes())
    how = rng.choice(["flip", "cut", "insert", "empty", "junk", "json"])
    if how == "flip" and content:
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del content[rng.randint(0, len(content)) :]
    elif how == "insert":
        at = rng.randint(0, len(content))
        content[at:at] = rng.choice([b'"', b"\xff", b"\x00" * 9, b"[" * 5000, b"\n", b",", odd_text(rng).encode()])
    elif how == "json":
        content = bytearray(
            as_json(rng.choice([[], {}, None, 3, {"_data_files": [{"filename": "../../../etc/passwd"}]}]))
        )
    else:
        content = bytearray(b"" if how == "empty" else rng.randbytes(40))
    path.write_bytes(content)


def broken_lines(rng: Random, folder: Path, count: int) -> Batch:
    """Random bytes with line ends, some of them JSON."""
    parts = [
        rng.choice([rng.randbytes(5), b"\n", b'{"text": "a"}', b"\r\n", b"{", b'"', b"\x00"]) for _ in range(count)
    ]
    path = folder / rng.choice(["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.parquet"])
    path.write_bytes(b"".join(parts))
    return Batch(path, "broken", [], None, {})


def odd_names(rng: Random, folder: Path, count: int) -> Batch:
    """A file whose name hurts."""
    name = rng.choice(["=1+1.jsonl", "a'b.jsonl", "a\nb.jsonl", "-x.jsonl", "a|b.jsonl", "\x1b[1m.jsonl", "né.jsonl"])
    row = json.dumps(good_row(rng, 0)).encode()
    path = Path(str(folder) + "/" + name) if rng.random() < 0.7 else folder / "\udcff.jsonl"
    path.write_bytes(row + b"\nbroken\n")
    return Batch(path, "jsonl", [json.loads(row)], 2, {})


MAKERS: Mapping[str, Callable[[Random, Path, int], Batch]] = {
    maker.__name__: maker for maker in (jsonl, json_array, table, parquet, saved, broken, broken_lines, odd_names)
}
SHARES = {
    "jsonl": 40,
    "json_array": 8,
    "table": 14,
    "parquet": 14,
    "saved": 4,
    "broken": 14,
    "broken_lines": 4,
    "odd_names": 2,
}


def batch(rng: Random, folder: Path, count: int) -> Batch:
    """A file of some format."""
    (name,) = rng.choices(list(SHARES), SHARES.values())
    return MAKERS[name](rng, folder, count)


def other_batch(rng: Random, folder: Path, count: int) -> Batch:
    """Rows of one kind as a file of another format, so that types are mixed."""
    rows = [odd_row(rng, number)[1] for number in range(count)]
    (folder / "b.jsonl").write_bytes(b"\n".join(map(as_json, rows)))
    return Batch(folder / "b.jsonl", "jsonl", [], count, dict(enumerate(rows, 1)))
