"""Cache vectors of samples on disk, so that they are not computed twice.

A cache is a folder, named after a key that describes the computation. Its Parquet files are written atomically under
unique names, so several processes may add to it at the same time, and any of them may be stopped at any point.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..artifacts.parquet import read_parquet, write_parquet
from ..artifacts.path_checks import require_no_links

Precision = Literal["fp16", "int8", "1bit"]
Matrix = npt.NDArray[np.float32]


class VectorCache:
    """A cache of unit vectors, stored with few bits per entry.

    Args:
        folder: folder of the cache, named after its key.
        width: D, the number of entries of a vector.
        precision: `fp16`, `int8` (in steps of 1/127 of the largest entry) or `1bit` (signs).
    """

    def __init__(self, folder: Path, width: int, precision: Precision = "fp16") -> None:
        self.folder = folder
        self.width = width
        self.precision = precision
        self._files: dict[str, Path] = {}
        self._listed: set[Path] = set()

    def get(self, ids: Iterable[str]) -> dict[str, Matrix]:
        """Return cached vectors by sample id: (D,) float32 of unit length, or NaN for a vector that was not finite."""
        self._list_new_files()
        files: dict[Path, list[str]] = {}
        for sample_id in dict.fromkeys(ids):
            if sample_id in self._files:
                files.setdefault(self._files[sample_id], []).append(sample_id)
        found: dict[str, Matrix] = {}
        for path, own in files.items():
            table = read_parquet(path, filters=[("sample_id", "in", own)])
            rows = self.decode(b"".join(table["code"].to_pylist()), len(table))
            found.update(zip(table["sample_id"].to_pylist(), rows, strict=True))
        return found

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Return the ids without a vector in the cache, after a check for vectors that other processes have added."""
        self._list_new_files()
        return [sample_id for sample_id in ids if sample_id not in self._files]

    def _list_new_files(self) -> None:
        """Read the ids in files that were added since the last call, by any process. A file never changes."""
        require_no_links(self.folder)
        for path in sorted(set(self.folder.glob("*.parquet")) - self._listed):
            ids = read_parquet(path, ["sample_id"])["sample_id"].to_pylist()
            self._files |= dict.fromkeys(ids, path)
            self._listed.add(path)

    def add(self, ids: Sequence[str], vectors: Matrix) -> None:
        """Add vectors, (n, D), to the cache."""
        if not ids:
            return
        code = self.encode(vectors)
        size = len(code) // len(ids)
        parts = [code[at : at + size] for at in range(0, len(code), size)]
        table = pa.table({"sample_id": pa.array(list(ids), pa.string()), "code": pa.array(parts, pa.binary())})
        write_parquet(self.folder / f"{uuid.uuid4().hex}.parquet", table)

    def rounded(self, vectors: Matrix) -> Matrix:
        """Return `vectors` as `get` would return them, so that new and cached vectors have the same values."""
        return self.decode(self.encode(vectors), len(vectors))

    def encode(self, vectors: Matrix) -> bytes:
        """Return (n, D) vectors as bytes, the same number per row. The first byte of a row is 1 if it is finite."""
        finite = np.asarray(np.isfinite(vectors).all(1), bool)
        clean = np.where(finite[:, None], vectors, 0)
        if self.precision == "fp16":
            body: npt.NDArray[Any] = clean.astype("<f2").view(np.uint8)
        elif self.precision == "int8":
            peak = np.abs(clean).max(1, keepdims=True)
            body = np.rint(clean / np.where(peak > 0, peak, 1) * 127).astype(np.int8).view(np.uint8)
        else:
            body = np.packbits(clean > 0, axis=1)
        return np.concatenate([finite[:, None].astype(np.uint8), body], axis=1).tobytes()

    def decode(self, code: bytes, count: int) -> Matrix:
        """Return the vectors of encoded bytes, normalised to unit length; the inverse of `encode` up to rounding."""
        if not count:
            return np.zeros((0, self.width), np.float32)
        rows = np.frombuffer(code, np.uint8).reshape(count, -1)
        body = np.ascontiguousarray(rows[:, 1:])
        if self.precision == "fp16":
            values = body.view("<f2").astype(np.float32)
        elif self.precision == "int8":
            values = body.view(np.int8).astype(np.float32)
        else:
            values = np.unpackbits(body, axis=1, count=self.width).astype(np.float32) * 2 - 1
        norms = np.linalg.norm(values, axis=1, keepdims=True)
        values = (values / np.where(norms > 0, norms, 1)).astype(np.float32)
        values[rows[:, 0] == 0] = np.nan
        return values
