"""Rows out of files, folders, URLs and Hub data sets, one at a time, so that a pool may be larger than memory.

A row that cannot be read comes out with the reason why, its file and its number: one broken line is not the end of an
ingest. Line-wise formats are read here rather than with a library for exactly that. Only a `.json` file that holds one
array is read whole. Nothing is written anywhere, except that a Hub data set lands in the Hub's own cache.
"""

from __future__ import annotations

import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from ..errors import CurateError, DataError
from ..runtime.redaction import redacted
from .arrow import hub_rows, parquet_rows, saved_rows
from .csv import csv_rows, tsv_rows
from .detect import detect
from .locations import PACKED, File, files_below, is_url, printable, shown
from .rows import Row
from .strict_json import RepeatedKey, decode, decode_marked, is_marked

LONGEST = 1 << 28
"""Bytes of a line of JSON; a longer one is refused, or a few zipped bytes could fill the memory."""
LARGEST = 1 << 32
"""Bytes of a JSON file that is read whole."""
TOO_LONG = f"longer than {LONGEST >> 20} MiB"
TOO_DEEP, TWICE = "nested too deeply", "a key comes twice"

SAVED = frozenset({"dataset_dict.json", "state.json"})
"""In a folder that `save_to_disk` has written, one of these."""
BOOKKEEPING = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""JSON files in data set folders that are about the data."""


def read_location(place: str, *, split: str, subset: str | None = None, revision: str | None = None) -> Iterator[Row]:
    """Every row of a file, of a folder of files, of a `save_to_disk` folder or of a Hub data set.

    Args:
        place: a path or a URL, or else a Hub id.
        split: which split, where there are named ones (`save_to_disk` and Hub).
        subset: the Hub data set's configuration.
        revision: the Hub data set's commit.

    Raises:
        DataError: nothing is there that can be read.
    """
    path = Path(place)
    if is_url(place):
        if _is_saved(place):
            return saved_rows(place, split)
        return (row for file in url_files(place) for row in read_file(file))
    if any((path / name).exists() for name in SAVED):
        return saved_rows(place, split)
    if path.exists():
        return (row for file in data_files(path) for row in read_file(File(printable(file), str(file))))
    return hub_rows(place, split, subset, revision)


def _is_saved(url: str) -> bool:
    """Whether `save_to_disk` has written there."""
    return not SAVED.isdisjoint(files_below(url))


def data_files(path: Path) -> list[Path]:
    """The file, or a folder's data files at any depth, by name; hidden ones do not count."""
    if path.is_file():
        _check_known(path.name, printable(path))
        return [path]
    found = sorted(file for file in path.rglob("*") if file.is_file() and _reader(file.name) is not None)
    visible = [f for f in found if not any(part.startswith(".") for part in f.relative_to(path).parts)]
    files = [file for file in visible if file.name not in BOOKKEEPING]
    if not files:
        raise DataError(f"The folder {path} holds no data file: {KNOWN}.")
    return files


def url_files(url: str) -> list[File]:
    """The file, or the data files below a URL, by name; hidden ones do not count."""
    found = files_below(url)
    if "" in found:
        _check_known(found[""].name, found[""].name)
        return [found[""]]
    files = [f for name, f in found.items() if _reader(name) is not None and Path(name).name not in BOOKKEEPING]
    if not files:
        raise DataError(f"{shown(url)} holds no data file: {KNOWN}.")
    return files


def _check_known(name: str, where: str) -> None:
    if _reader(name) is None:
        raise DataError(f"{where} is in no format that curate reads: {KNOWN}.")


def read_file(file: File) -> Iterator[Row]:
    """Every row of one file, by what its name ends with."""
    reader = _reader(file.name)
    assert reader is not None, file
    with _said_plainly(file):
        yield from reader(file)


# Files, by suffix


def _jsonl(file: File) -> Iterator[Row]:
    with file.open() as stream:
        yield from _json_lines(file.name, stream)


def _json_lines(file: str, stream: IO[bytes]) -> Iterator[Row]:
    for number, line in enumerate(bounded_lines(stream), start=1):
        if line is None:
            yield Row(file, number, None, TOO_LONG)
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            yield Row(file, number, None, "not UTF-8")
            continue
        if not text.strip():
            continue
        try:
            value = decode(text)
        except RepeatedKey:
            yield Row(file, number, None, TWICE)
        except RecursionError:
            yield Row(file, number, None, TOO_DEEP)
        except ValueError:
            yield Row(file, number, None, "not JSON")
        else:
            yield _object(file, number, value)


def bounded_lines(stream: IO[bytes], most: int = LONGEST) -> Iterator[bytes | None]:
    """Lines with their ends; None for one that is longer than `most` bytes, which is passed over."""
    while line := stream.readline(most):
        if len(line) < most or line.endswith(b"\n"):
            yield line
            continue
        while (rest := stream.readline(1 << 20)) and not rest.endswith(b"\n"):
            pass
        yield None


def _object(file: str, number: int, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(file, number, value)
    return Row(file, number, None, "not an object")


def _json(file: File) -> Iterator[Row]:
    """An array of objects, an object that holds one list, or (as many are named) lines of objects."""
    with file.open() as stream:
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise DataError(
            f"{file.name} is larger than {LARGEST >> 30} GiB, and has to be read whole. Give one object a line (JSONL)."
        )
    marked = False
    try:
        text = content.decode("utf-8-sig")
        try:
            value = decode(text)
        except RepeatedKey:
            value, marked = decode_marked(text), True
    except UnicodeDecodeError:
        raise DataError(f"{file.name} is not UTF-8: save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            raise DataError(
                f"{file.name} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}. Mend it, or give "
                "one object a line (JSONL), of which curate skips the broken ones."
            ) from None
        yield from _json_lines(file.name, io.BytesIO(content))
        return
    except (ValueError, RecursionError) as error:  # an endless number; nested without end
        raise DataError(f"{file.name} is not JSON that can be read: {error}.") from None
    for number, item in enumerate(_listed(file, value), start=1):
        yield Row(file.name, number, None, TWICE) if marked and is_marked(item) else _object(file.name, number, item)


def _listed(file: File, value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        try:
            detect([value], {}, file.name)
            return [value]
        except DataError:
            lists = {key: inner for key, inner in value.items() if isinstance(inner, list)}
            if len(lists) == 1:
                return next(iter(lists.values()))
    raise DataError(
        f"{file.name} must hold an array of objects, an object with one list of them, or one object a line."
    )


READERS: Mapping[str, Callable[[File], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
}
KNOWN = f"{', '.join(READERS)}, and all but the last also packed: {', '.join(PACKED)}"


def _reader(name: str) -> Callable[[File], Iterator[Row]] | None:
    path = Path(name.lower())
    packed = path.suffix in PACKED
    suffix = Path(path.stem).suffix if packed else path.suffix
    return None if packed and suffix == ".parquet" else READERS.get(suffix)


@contextmanager
def _said_plainly(file: File) -> Iterator[None]:
    try:
        yield
    except CurateError:
        raise
    except Exception as error:
        # behind a URL anything may be raised: drivers raise what the libraries below them do
        if file.system is None and not isinstance(
            error, (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)
        ):
            raise
        said = str(error).strip().splitlines()
        raise DataError(f"{file.name} cannot be read: {redacted(said[0]) if said else type(error).__name__}.") from None
