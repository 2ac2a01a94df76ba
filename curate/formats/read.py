"""Read rows from files, folders, URLs and Hub datasets, one at a time, so that a pool may be larger than memory.

A row that cannot be read is yielded with the reason, its file and its number, so one broken line does not stop an
ingest. For this, formats with one row per line are parsed here and not by a library. Files of another split than the
requested one are left out. Nothing is written, except that a Hub dataset is stored in the Hub's own cache.
"""

from __future__ import annotations

import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from ..errors import CurateError, DataError
from ..runtime.redaction import redacted
from .arrow import hub_rows, parquet_rows, saved_rows
from .csv import csv_rows, tsv_rows
from .json_files import json_rows, jsonl_rows
from .locations import COMPRESSIONS, File, choose_split, files_below, is_url, printable, shown
from .reading import Notes, Row

SAVED_FILES = frozenset({"dataset_dict.json", "state.json"})
"""Files of which every `save_to_disk` folder contains one."""
METADATA_FILES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""JSON files in dataset folders that describe the data and contain no rows."""


def read_location(
    location: str, *, split: str, subset: str | None = None, revision: str | None = None, notes: Notes | None = None
) -> Iterator[Row]:
    """Return the rows of a file, of a folder of files, of a `save_to_disk` folder or of a Hub dataset.

    Args:
        location: a path, a URL or a Hub id; what is neither a URL nor an existing path is a Hub id.
        split: name of the split to read, if the data has named splits; `all` reads all files of a folder.
        subset: configuration of the Hub dataset.
        revision: commit of the Hub dataset.
        notes: receives the files that are left out.

    Raises:
        DataError: there is nothing at the location that curate can read, or no such split.
    """
    path, notes = Path(location), notes or Notes()
    if is_url(location):
        if _is_saved(location):
            return saved_rows(location, split)
        return (row for file in url_files(location, split, notes) for row in read_file(file))
    if any((path / name).exists() for name in SAVED_FILES):
        return saved_rows(location, split)
    if path.exists():
        files = data_files(path, split, notes)
        return (row for file in files for row in read_file(File(printable(file), str(file), split=split)))
    return hub_rows(location, split, subset, revision)


def _is_saved(url: str) -> bool:
    """Return whether the URL is a folder that `save_to_disk` wrote."""
    return not SAVED_FILES.isdisjoint(files_below(url))


def data_files(path: Path, split: str = "all", notes: Notes | None = None) -> list[Path]:
    """Return the file, or the data files of a split below the folder, sorted by name, without hidden files.

    Links to folders are followed; a folder is read once.

    Raises:
        DataError: there is no file that can be read, or none of this split.
    """
    if path.is_file():
        _check_known(path.name, printable(path))
        return [path]
    notes = notes or Notes()
    root = _snapshot(path, notes)
    names = sorted(_names_below(root, notes))
    return [root / name for name in _chosen(names, printable(path), split, notes)]


def _names_below(root: Path, notes: Notes) -> Iterator[str]:
    """Yield the names of the files below a folder, without hidden ones. Links to folders are followed."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            notes.files.append(f"{printable(folder)}: a link to a folder that is read already")
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        folders.sort(key=lambda name: os.path.islink(os.path.join(folder, name)))
        for name in files:
            if not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def _snapshot(path: Path, notes: Notes) -> Path:
    """Return the folder, or the current snapshot if the folder is a dataset in the cache of the Hub.

    Raises:
        DataError: the cache has several snapshots, and does not say which is current.
    """
    snapshots = path / "snapshots"
    if not snapshots.is_dir() or not (path / "refs").is_dir():
        return path
    found = sorted(folder.name for folder in snapshots.iterdir() if folder.is_dir())
    main = path / "refs" / "main"
    current = main.read_text().strip() if main.is_file() else ""
    if current not in found and len(found) != 1:
        raise DataError(f"{printable(path)} has several snapshots ({', '.join(found) or 'none'}): name one of them.")
    current = current if current in found else found[0]
    left = [name for name in found if name != current]
    notes.files += [f"{printable(snapshots / name)}: not the current snapshot" for name in left]
    return snapshots / current


def url_files(url: str, split: str = "all", notes: Notes | None = None) -> list[File]:
    """Return the file, or the data files of a split below the URL, sorted by name, without hidden files."""
    found = files_below(url)
    if "" in found:
        _check_known(found[""].name, found[""].name)
        return [replace(found[""], split=split)]
    return [replace(found[name], split=split) for name in _chosen(list(found), shown(url), split, notes or Notes())]


def _chosen(names: list[str], where: str, split: str, notes: Notes) -> list[str]:
    """Return the names of the data files of a split, and note the others.

    Raises:
        DataError: there is no data file, or none of this split.
    """
    known = [name for name in names if _reader(name) is not None and Path(name).name not in METADATA_FILES]
    unknown = [name for name in names if _reader(name) is None and _may_hold_data(name)]
    if unknown:
        listed = ", ".join(map(printable, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        notes.files.append(f"{listed} in {where}: no file type that curate reads")
    if not known:
        raise DataError(f"{'The folder ' if '://' not in where else ''}{where} contains no data file. {KNOWN}")
    return choose_split(known, where, split, notes)


def _may_hold_data(name: str) -> bool:
    """Return whether a file that cannot be read is worth a note: no documentation, no code, no picture."""
    path = Path(name.lower())
    return path.suffix not in NO_DATA and path.stem not in ("readme", "license", "licence", "dataset_infos")


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


READERS: Mapping[str, Callable[[File], Iterator[Row]]] = {
    ".jsonl": jsonl_rows,
    ".jsonlines": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
}
NO_DATA = frozenset({".md", ".py", ".sh", ".yaml", ".yml", ".toml", ".png", ".jpg", ".svg", ".sha256", ".lock", ".crc"})
"""Ends of names of files that are passed over without a note."""
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
