"""Vectors by content: what was measured once, under a key that says by what, is never measured again.

A folder of Parquet files, each written whole under a name of its own: it can be added to at any time, by several
processes, and stopped anywhere.
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

Precision = Literal["fp16", "int8", "1bit"]
Matrix = npt.NDArray[np.float32]


class VectorCache:
    """Unit vectors of samples, in few bits.

    Args:
        folder: named after the key.
        width: D.
        precision: `fp16`, `int8` (steps of the largest entry), or `1bit` (signs).
    """

    def __init__(self, folder: Path, width: int, precision: Precision = "fp16") -> None:
        self.folder = folder
        self.width = width
        self.precision = precision
        self._where: dict[str, Path] = {}
        self._seen: set[Path] = set()

    def get(self, ids: Iterable[str]) -> dict[str, Matrix]:
        """The vectors that are there, by sample id: (D,) float32 of unit length; NaN for one that is not finite."""
        self._look_round()
        files: dict[Path, list[str]] = {}
        for sample_id in dict.fromkeys(ids):
            if sample_id in self._where:
                files.setdefault(self._where[sample_id], []).append(sample_id)
        found: dict[str, Matrix] = {}
        for path, own in files.items():
            table = read_parquet(path, filters=[("sample_id", "in", own)])
            rows = self.decode(b"".join(table["code"].to_pylist()), len(table))
            found.update(zip(table["sample_id"].to_pylist(), rows, strict=True))
        return found

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those of which there is no vector yet, by whichever process."""
        self._look_round()
        return [sample_id for sample_id in ids if sample_id not in self._where]

    def _look_round(self) -> None:
        """Take note of what is in files that are new since the last look, others' too; a file never changes."""
        for path in sorted(set(self.folder.glob("*.parquet")) - self._seen):
            ids = read_parquet(path, ["sample_id"])["sample_id"].to_pylist()
            self._where |= dict.fromkeys(ids, path)
            self._seen.add(path)

    def add(self, ids: Sequence[str], vectors: Matrix) -> None:
        """Keep vectors (n, D)."""
        if not ids:
            return
        code = self.encode(vectors)
        size = len(code) // len(ids)
        parts = [code[at : at + size] for at in range(0, len(code), size)]
        table = pa.table({"sample_id": pa.array(list(ids), pa.string()), "code": pa.array(parts, pa.binary())})
        write_parquet(self.folder / f"{uuid.uuid4().hex}.parquet", table)

    def rounded(self, vectors: Matrix) -> Matrix:
        """What `get` would give back for `vectors`: numbers are the same whether kept or fresh."""
        return self.decode(self.encode(vectors), len(vectors))

    def encode(self, vectors: Matrix) -> bytes:
        """(n, D) as bytes, the same number a row; the first says whether the row is finite."""
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
        """The way back, normalised to unit length."""
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
