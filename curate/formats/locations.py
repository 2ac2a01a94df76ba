"""Where data is read from and written to: files of this machine, and URLs (s3://, gs://, hf://, https://, memory://).

Whatever fsspec has a driver for will do. What a URL holds is told by what its file system says of it (checksum, ETag,
or size and time), so that a fingerprint costs no download.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ..errors import DataError
from ..log import LOGGER
from ..runtime.redaction import redacted

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
STAMPS = ("sha256", "ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "checksum", "blob_id")
"""What file systems call a mark that changes with the content."""
DRIVERS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
DRIVERS |= {"az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
"""Scheme -> the package that fsspec reads it with, where that is not installed with curate."""


def _zstd(stream: Any) -> IO[bytes]:
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(stream, "zstd"), 1 << 20)


PACKED: Mapping[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstd}
"""End of a name -> what unpacks the stream."""


@dataclass(frozen=True)
class File:
    """A file that can be read.

    Attributes:
        name: what errors and rejects call it.
        path: where it is, to its file system.
        system: of fsspec; None for the disk.
    """

    name: str
    path: str
    system: Any = None

    def open(self) -> IO[bytes]:
        """The bytes, from the beginning; unpacked where the name ends with one of `PACKED`."""
        if self.system is None:
            stream: Any = Path(self.path).open("rb")  # noqa: SIM115
        else:
            ranges = {"block_size": 0} if _is_web(self.system) else {}  # many servers give none: read in one go
            stream = io.BufferedReader(self.system.open(self.path, "rb", **ranges), 1 << 20)
        unpack = PACKED.get(Path(self.name.lower()).suffix)
        return cast(IO[bytes], unpack(stream) if unpack else stream)


def printable(path: str | Path) -> str:
    """A path that can be written down: what is no UTF-8 in it as escapes."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_url(text: str | Path) -> bool:
    """Whether it is a URL and not a path or a Hub id."""
    return SCHEME.match(str(text)) is not None


def label_and_location(entry: str) -> tuple[str | None, str]:
    """`label=place` in two; None where there is no label. A URL may have = of its own."""
    label, equals, rest = entry.partition("=")
    return (label, rest) if equals and not is_url(label) else (None, entry)


def local(url: str) -> Path | None:
    """The path that a file:// URL stands for, its %-escapes as bytes; None for other URLs."""
    return Path(unquote(urlsplit(url).path, errors="surrogateescape")) if url.startswith("file://") else None


def writable(entry: str) -> str:
    """`[label=]place` as text that can be written down: a path that is no UTF-8 as a file:// URL."""
    label, place = label_and_location(entry)
    try:
        place.encode()
    except UnicodeEncodeError:
        url = "file://" + quote(os.fsencode(Path(place).absolute()))
        return url if label is None else f"{label}={url}"
    return entry


def shown(url: str) -> str:
    """A URL without what is secret in many: user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")) if is_url(url) else url


def system_of(url: str) -> tuple[Any, str]:
    """The file system that a URL belongs to, and the path to give it.

    Raises:
        DataError: there is no such scheme, or its driver is not installed.
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
    """Say plainly what a driver says; drivers raise whatever the libraries below them raise."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"There is nothing at {shown(url)}. Check the URL.") from None
    except Exception as error:
        said = str(error).strip().splitlines()
        what = redacted(f"{type(error).__name__}: {said[0]}" if said else type(error).__name__)
        raise DataError(f"{shown(url)} cannot be reached ({what}). Check the URL and your credentials.") from error


def files_below(url: str) -> dict[str, File]:
    """Name below the URL -> file, by name; hidden ones do not count. Of a URL of one file, that under "".

    Raises:
        DataError: nothing is there.
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
    """What a URL holds, as a hash of names and of what its file system says of the files' contents."""
    digest = hashlib.blake2b(digest_size=16)
    with reached(url):
        for name, file in files_below(url).items():
            digest.update(f"{name}\0{_stamp(file)}\0".encode())
    return "url:" + digest.hexdigest()


def _stamp(file: File) -> str:
    """A mark that changes when the file does; its content's hash where its file system says nothing."""
    info = file.system.info(file.path)
    known = {**info, **(info.get("lfs") or {})}
    for key in STAMPS:
        if known.get(key):
            return f"{key} {known[key]}"
    try:
        return f"{info.get('size')} {file.system.modified(file.path).isoformat()}"
    except (NotImplementedError, AttributeError, KeyError, TypeError):
        LOGGER.info("Nothing says whether %s has changed: it is read to be fingerprinted.", file.name)
    digest = hashlib.blake2b(digest_size=16)
    with File("", file.path, file.system).open() as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
