"""Rows out of files, folders and Hub data sets, one at a time, so that a pool may be larger than memory.

A row that cannot be read comes out with the reason why, its file and its number: one broken line is not the end of an
ingest. Line-wise formats are read here rather than with a library for exactly that. Only a `.json` file that holds one
array is read whole. Nothing is written anywhere, except that a Hub data set lands in the Hub's own cache.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from ..errors import DataError
from .detect import detect
from .rows import Row
from .tables import hub_rows, parquet_rows, saved_rows

BOOKKEEPING = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""JSON files in data set folders that are about the data."""


def read_place(place: str, *, split: str, subset: str | None = None, revision: str | None = None) -> Iterator[Row]:
    """Every row of a file, of a folder of files, of a `save_to_disk` folder or of a Hub data set.

    Args:
        place: a path, or else a Hub id.
        split: which split, where there are named ones (`save_to_disk` and Hub).
        subset: the Hub data set's configuration.
        revision: the Hub data set's commit.

    Raises:
        DataError: nothing is there that can be read.
    """
    path = Path(place)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return saved_rows(path, split)
    if path.exists():
        return (row for file in data_files(path) for row in read_file(file))
    return hub_rows(place, split, subset, revision)


def data_files(path: Path) -> list[Path]:
    """The file, or a folder's data files at any depth, by name; hidden ones do not count."""
    if path.is_file():
        if _reader(path) is None:
            raise DataError(f"{path} is in no format that curate reads: {', '.join(READERS)} (or one of them .gz).")
        return [path]
    found = sorted(file for file in path.rglob("*") if file.is_file() and _reader(file) is not None)
    shown = [f for f in found if not any(part.startswith(".") for part in f.relative_to(path).parts)]
    files = [file for file in shown if file.name not in BOOKKEEPING]
    if not files:
        raise DataError(f"The folder {path} holds no data file: {', '.join(READERS)} (or one of them .gz).")
    return files


def read_file(path: Path) -> Iterator[Row]:
    """Every row of one file, by what its name ends with."""
    reader = _reader(path)
    assert reader is not None, path
    with _said_plainly(path):
        yield from reader(path)


# Files, by suffix


def _jsonl(path: Path) -> Iterator[Row]:
    with _binary(path) as lines:
        yield from _json_lines(str(path), lines)


def _json_lines(file: str, lines: Iterable[bytes]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            yield Row(file, number, None, "not UTF-8")
            continue
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            yield Row(file, number, None, "not JSON")
            continue
        yield _object(file, number, value)


def _object(file: str, number: int, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(file, number, value)
    return Row(file, number, None, "not an object")


def _json(path: Path) -> Iterator[Row]:
    """An array of objects, an object that holds one list, or (as many are named) lines of objects."""
    with _binary(path) as stream:
        content = stream.read()
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8: save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            raise DataError(
                f"{path} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}. Mend it, or give one "
                "object a line (JSONL), of which curate skips the broken ones."
            ) from None
        yield from _json_lines(str(path), io.BytesIO(content))
        return
    except (ValueError, RecursionError) as error:  # an endless number; nested without end
        raise DataError(f"{path} is not JSON that can be read: {error}.") from None
    yield from (_object(str(path), number, item) for number, item in enumerate(_listed(path, value), start=1))


def _listed(path: Path, value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        try:
            detect([value], {}, str(path))
            return [value]
        except DataError:
            lists = {key: inner for key, inner in value.items() if isinstance(inner, list)}
            if len(lists) == 1:
                return next(iter(lists.values()))
    raise DataError(f"{path} must hold an array of objects, an object with one list of them, or one object a line.")


def _csv(path: Path, delimiter: str = ",") -> Iterator[Row]:
    """All values are text; a row with too few or too many fields (a stray quote or comma) is said so."""
    csv.field_size_limit(2**31 - 1)
    with _binary(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(text, delimiter=delimiter)
        header = next(reader, None)
        if header is None:
            return
        if len(set(header)) < len(header):
            raise DataError(f"{path} names a column twice in its first line: {', '.join(header)}.")
        number = 0
        while True:
            number += 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield Row(str(path), number, None, "not CSV")
                continue
            if not fields:
                number -= 1
            elif len(fields) != len(header):
                yield Row(str(path), number, None, "wrong number of fields")
            else:
                yield Row(str(path), number, dict(zip(header, fields, strict=True)))


def _tsv(path: Path) -> Iterator[Row]:
    return _csv(path, "\t")


READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": parquet_rows,
}


def _reader(path: Path) -> Callable[[Path], Iterator[Row]] | None:
    name = path.name.lower()
    zipped = name.endswith(".gz")
    suffix = Path(name.removesuffix(".gz")).suffix
    return None if zipped and suffix == ".parquet" else READERS.get(suffix)


def _binary(path: Path) -> IO[bytes]:
    if path.name.lower().endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


@contextmanager
def _said_plainly(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        said = str(error).strip().splitlines()
        raise DataError(f"{path} cannot be read: {said[0] if said else type(error).__name__}.") from None
