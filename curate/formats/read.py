"""Read rows from files, folders, URLs and Hub datasets, one at a time, so that a pool may be larger than memory.

A row that cannot be read is yielded with the reason, its file and its number, so one broken line does not stop an
ingest. For this, formats with one row per line are parsed here and not by a library. Only a `.json` file that holds
one array is read whole. Nothing is written, except that a Hub dataset is stored in the Hub's own cache.
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
from .locations import COMPRESSIONS, File, files_below, is_url, printable, shown
from .reading import Row
from .strict_json import RepeatedKey, decode, decode_tolerant, has_repeated_key

LONGEST = 1 << 28
"""Maximum bytes of a line of JSON. A longer line is rejected: a small compressed file could fill the memory with it."""
LARGEST = 1 << 32
"""Maximum bytes of a JSON file that is read whole."""
TOO_LONG = f"longer than {LONGEST >> 20} MiB"
TOO_DEEP, REPEATED_KEY = "nested too deeply", "a key comes twice"

SAVED_FILES = frozenset({"dataset_dict.json", "state.json"})
"""Files of which every `save_to_disk` folder contains one."""
METADATA_FILES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""JSON files in dataset folders that describe the data and contain no rows."""


def read_location(
    location: str, *, split: str, subset: str | None = None, revision: str | None = None
) -> Iterator[Row]:
    """Return the rows of a file, of a folder of files, of a `save_to_disk` folder or of a Hub dataset.

    Args:
        location: a path, a URL or a Hub id; what is neither a URL nor an existing path is a Hub id.
        split: name of the split to read, if the data has named splits (`save_to_disk` and Hub).
        subset: configuration of the Hub dataset.
        revision: commit of the Hub dataset.

    Raises:
        DataError: there is nothing at the location that curate can read.
    """
    path = Path(location)
    if is_url(location):
        if _is_saved(location):
            return saved_rows(location, split)
        return (row for file in url_files(location) for row in read_file(file))
    if any((path / name).exists() for name in SAVED_FILES):
        return saved_rows(location, split)
    if path.exists():
        return (row for file in data_files(path) for row in read_file(File(printable(file), str(file))))
    return hub_rows(location, split, subset, revision)


def _is_saved(url: str) -> bool:
    """Return whether the URL is a folder that `save_to_disk` wrote."""
    return not SAVED_FILES.isdisjoint(files_below(url))


def data_files(path: Path) -> list[Path]:
    """Return the file, or all data files below the folder, sorted by name, without hidden files."""
    if path.is_file():
        _check_known(path.name, printable(path))
        return [path]
    found = sorted(file for file in path.rglob("*") if file.is_file() and _reader(file.name) is not None)
    visible = [f for f in found if not any(part.startswith(".") for part in f.relative_to(path).parts)]
    files = [file for file in visible if file.name not in METADATA_FILES]
    if not files:
        raise DataError(f"The folder {path} contains no data file. {KNOWN}")
    return files


def url_files(url: str) -> list[File]:
    """Return the file, or all data files below the URL, sorted by name, without hidden files."""
    found = files_below(url)
    if "" in found:
        _check_known(found[""].name, found[""].name)
        return [found[""]]
    files = [f for name, f in found.items() if _reader(name) is not None and Path(name).name not in METADATA_FILES]
    if not files:
        raise DataError(f"{shown(url)} contains no data file. {KNOWN}")
    return files


def _check_known(name: str, where: str) -> None:
    if _reader(name) is None:
        raise DataError(f"{where} has no file type that curate can read. {KNOWN}")


def read_file(file: File) -> Iterator[Row]:
    """Yield every row of one file; the end of its name decides how it is read."""
    reader = _reader(file.name)
    assert reader is not None, file
    with _plain_errors(file):
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
            yield Row(file, number, None, REPEATED_KEY)
        except RecursionError:
            yield Row(file, number, None, TOO_DEEP)
        except ValueError:
            yield Row(file, number, None, "not JSON")
        else:
            yield _object(file, number, value)


def bounded_lines(stream: IO[bytes], most: int = LONGEST) -> Iterator[bytes | None]:
    """Yield lines with their line ends; None for a line longer than `most` bytes, which is skipped."""
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
    """Yield the rows of an array of objects, of an object with one list, or (also common) of one object per line."""
    with file.open() as stream:
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise DataError(
            f"{file.name} must be read whole and is larger than {LARGEST >> 30} GiB. Save it with one object per line "
            "(JSONL)."
        )
    repeats = False
    try:
        text = content.decode("utf-8-sig")
        try:
            value = decode(text)
        except RepeatedKey:
            value, repeats = decode_tolerant(text), True
    except UnicodeDecodeError:
        raise DataError(f"{file.name} is not UTF-8: save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            raise DataError(
                f"{file.name} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}. Fix it, or save "
                "it with one object per line (JSONL): curate then skips only the broken lines."
            ) from None
        yield from _json_lines(file.name, io.BytesIO(content))
        return
    except (ValueError, RecursionError) as error:  # a number without end; nested too deeply
        raise DataError(f"{file.name} is not JSON that can be read: {error}.") from None
    for number, item in enumerate(_items(file, value), start=1):
        repeated = repeats and has_repeated_key(item)
        yield Row(file.name, number, None, REPEATED_KEY) if repeated else _object(file.name, number, item)


def _items(file: File, value: Any) -> list[Any]:
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
        f"{file.name} must contain an array of objects, an object with one list of them, or one object per line."
    )


READERS: Mapping[str, Callable[[File], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
}
KNOWN = f"curate reads {', '.join(READERS)}, and all but the last also compressed ({', '.join(COMPRESSIONS)})."


def _reader(name: str) -> Callable[[File], Iterator[Row]] | None:
    path = Path(name.lower())
    compressed = path.suffix in COMPRESSIONS
    suffix = Path(path.stem).suffix if compressed else path.suffix
    return None if compressed and suffix == ".parquet" else READERS.get(suffix)


@contextmanager
def _plain_errors(file: File) -> Iterator[None]:
    try:
        yield
    except CurateError:
        raise
    except Exception as error:
        # behind a URL any error is possible: drivers raise all errors of the libraries below them
        if file.system is None and not isinstance(
            error, (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)
        ):
            raise
        lines = str(error).strip().splitlines()
        reason = redacted(lines[0]) if lines else type(error).__name__
        raise DataError(f"{file.name} cannot be read: {reason}.") from None
