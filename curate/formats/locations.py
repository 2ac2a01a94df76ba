"""Access data on this machine and behind URLs (s3://, gs://, hf://, https://, memory://), and choose files by split.

Every scheme with an fsspec driver works. A URL is fingerprinted by what its file system reports about the content
(checksum, ETag, or size and time), so a fingerprint needs no download.

The Hub, `datasets` and most people name splits in the same few ways: `split=train/`, a folder `train/`,
`train-00000-of-00002.parquet`, `train.jsonl`, `gsm8k_test.jsonl`. Files whose names have no split belong to `train`.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ..errors import DataError
from ..log import LOGGER
from ..runtime.redaction import redacted
from ..runtime.terminal import cell
from .reading import Notes

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
CONTENT_KEYS = ("sha256", "ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "checksum", "blob_id")
"""Keys under which file systems report a value that changes with the content."""
DRIVERS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
DRIVERS |= {"az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
"""Scheme -> the package that fsspec needs for it, if curate does not install that package."""


def _zstd(stream: Any) -> IO[bytes]:
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(stream, "zstd"), 1 << 20)


COMPRESSIONS: Mapping[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstd}
"""End of a file name -> function that decompresses the stream."""


@dataclass(frozen=True)
class File:
    """A file that can be read.

    Attributes:
        name: name of the file in errors and rejects.
        path: path of the file in its file system.
        system: fsspec file system of the file; None for the local disk.
        split: split to read, of a file that holds several.
    """

    name: str
    path: str
    system: Any = None
    split: str = ""

    def open(self) -> IO[bytes]:
        """Open the file for reading bytes; they are decompressed if its name ends with one of `COMPRESSIONS`."""
        if self.system is None:
            stream: Any = Path(self.path).open("rb")  # noqa: SIM115
        else:
            ranges = {"block_size": 0} if _is_web(self.system) else {}  # many servers support none: read in one go
            stream = io.BufferedReader(self.system.open(self.path, "rb", **ranges), 1 << 20)
        decompress = COMPRESSIONS.get(Path(self.name.lower()).suffix)
        return cast(IO[bytes], decompress(stream) if decompress else stream)


UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
"""First bytes of a text in UTF-16."""


def utf_16_error(name: str) -> DataError:
    """Return the error for a file in UTF-16."""
    return DataError(
        f"{name} is in UTF-16. Save it as UTF-8 (in a spreadsheet: CSV UTF-8), or convert it: "
        "iconv -f UTF-16 -t UTF-8 FILE > NEW."
    )


def printable(path: str | Path) -> str:
    """Return a path as text that can be stored: bytes that are not UTF-8 become escapes."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_url(text: str | Path) -> bool:
    """Return whether the text is a URL, and not a path or a Hub id."""
    return SCHEME.match(str(text)) is not None


def label_and_location(entry: str) -> tuple[str | None, str]:
    """Split `label=location`; the label is None if there is none. A URL or an existing path may contain = itself."""
    label, equals, rest = entry.partition("=")
    if not equals or is_url(label):
        return None, entry
    return (None, entry) if ("/" in label or not _exists(rest)) and _exists(entry) else (label, rest)


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def local(url: str) -> Path | None:
    """Return the path of a file:// URL, with its %-escapes as bytes; None for other URLs."""
    return Path(unquote(urlsplit(url).path, errors="surrogateescape")) if url.startswith("file://") else None


def writable(entry: str) -> str:
    """Return `[label=]location` as text that can be stored: a path that is not UTF-8 becomes a file:// URL."""
    label, location = label_and_location(entry)
    try:
        location.encode()
    except UnicodeEncodeError:
        url = "file://" + quote(os.fsencode(Path(location).absolute()))
        return url if label is None else f"{label}={url}"
    return entry


def shown(url: str) -> str:
    """Return a URL without the parts that may be secret: user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")) if is_url(url) else url


def system_of(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path of the URL in it.

    Raises:
        DataError: the scheme is unknown, or its driver is not installed.
    """
    from fsspec.core import url_to_fs

    scheme = url.partition("://")[0].lower()
    with reached(url):
        try:
            system, path = url_to_fs(url)
        except ImportError:
            driver = DRIVERS.get(scheme, f"the fsspec driver of {scheme}")
            raise DataError(f"{shown(url)} needs a driver that is not installed: pip install {driver}.") from None
        except ValueError as error:
            raise DataError(
                f"{shown(url)} cannot be read: {redacted(str(error)).rstrip('.')}. Check the URL."
            ) from None
    system.invalidate_cache()
    return system, str(path)


@contextmanager
def reached(url: str) -> Iterator[None]:
    """Turn every error of a driver into a plain `DataError`; drivers raise any error of the libraries below them."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"There is nothing at {shown(url)}. Check the URL.") from None
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = redacted(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
        raise DataError(f"{shown(url)} cannot be reached ({reason}). Check the URL and your credentials.") from error


def files_below(url: str) -> dict[str, File]:
    """Return name below the URL -> file, sorted by name, without hidden files; a single file has the name "".

    Raises:
        DataError: there is nothing at the URL.
    """
    system, root = system_of(url)
    with reached(url):
        if _is_web(system) or not system.isdir(root):
            system.info(root)
            return {"": File(shown(url), root, system)}
        paths = sorted(system.find(root))
    names = {path[len(root) :].lstrip("/") if path.startswith(root) else path: path for path in paths}
    return {
        name: File(f"{shown(url).rstrip('/')}/{name}", path, system)
        for name, path in names.items()
        if not any(part.startswith(".") for part in name.split("/"))
    }


def _is_web(system: Any) -> bool:
    return "https" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol)


def digest_url(url: str) -> str:
    """Return a hash of the names of the files at a URL, and of what its file system reports about their content."""
    digest = hashlib.blake2b(digest_size=16)
    with reached(url):
        for name, file in files_below(url).items():
            digest.update(f"{name}\0{_content_tag(file)}\0".encode())
    return "url:" + digest.hexdigest()


def _content_tag(file: File) -> str:
    """Return text that changes with the file: a reported checksum, or size and time, or else a hash of the content."""
    info = file.system.info(file.path)
    known = {**info, **(info.get("lfs") or {})}
    for key in CONTENT_KEYS:
        if known.get(key):
            return f"{key} {known[key]}"
    try:
        return f"{info.get('size')} {file.system.modified(file.path).isoformat()}"
    except (NotImplementedError, AttributeError, KeyError, TypeError):
        LOGGER.info("Reading all of %s for its fingerprint: its file system reports no checksum or time.", file.name)
    digest = hashlib.blake2b(digest_size=16)
    with File("", file.path, file.system).open() as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


# Splits

SYNONYMS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "validate"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Word in a name -> split."""
ALL = "all"
"""The `--split` that reads every file."""
IN_FOLDER = re.compile(r"split=([^/]+)")
NUMBERED = re.compile(r"(?:.*/)?([\w.]+(?:-[A-Za-z_]\w*)*)-\d{5}-of-\d{5}\b")
"""A name of the Hub: split, number of the file, number of files."""
WORDS = re.compile(r"[^A-Za-z]+")


def split_of(name: str) -> str:
    """Return the split that a file's path names, or "" if it names none.

    Args:
        name: path below the folder, with `/`.
    """
    if found := IN_FOLDER.search(name):
        return found[1]
    *folders, file = name.split("/")
    for folder in reversed(folders):
        if split := SYNONYMS.get(folder.lower()):
            return split
    if found := NUMBERED.match(file):
        stem = found[1].rpartition("-")[2]
        return SYNONYMS.get(stem.lower(), stem)
    words = [SYNONYMS[word] for word in WORDS.split(file.partition(".")[0].lower()) if word in SYNONYMS]
    return words[-1] if words else ""


def same_split(one: str, other: str) -> bool:
    """Return whether two names mean the same split."""
    return SYNONYMS.get(one.lower(), one) == SYNONYMS.get(other.lower(), other)


def choose_split(names: Sequence[str], where: str, split: str, notes: Notes) -> list[str]:
    """Return the files of a split, and note which others there are.

    Args:
        names: paths of the data files below a folder.
        where: the folder, for messages.
        split: name of the split; `all` for every file.
        notes: receives the splits that are left out.

    Raises:
        DataError: there are splits, and none of this name.
    """
    splits = {name: split_of(name) for name in names}
    if split == ALL or (not any(splits.values()) and same_split(split, "train")):
        return list(names)
    exact = [] if split.lower() in SYNONYMS else [name for name in names if _stem(name) == split]
    chosen = exact or [name for name in names if same_split(splits[name] or "train", split)]
    left = Counter(splits[name] or "train" for name in names if name not in set(chosen))
    counted = ", ".join(
        f"{cell(name)} ({count} file{'s' if count > 1 else ''})" for name, count in sorted(left.items())
    )
    if not chosen:
        raise DataError(f"{where} has no split '{split}'; it has {counted}. Give --split NAME, or --split all.")
    if left:
        notes.files.append(f"other splits in {where}: {counted}; --split NAME reads another, --split all every file")
    return chosen


def _stem(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]
