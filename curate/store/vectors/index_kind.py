"""Choose the kind of a nearest-neighbour index by the size of the vectors: exact up to a limit, then approximate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

KindName = Literal["flat", "ivf", "ivfpq"]

FLAT_ROWS, FLAT_BYTES, IVF_BYTES = 1 << 18, 1 << 30, 1 << 31
"""Limits for `auto`: vectors and bytes up to which search is exact, and bytes up to which vectors stay uncompressed."""
TRAIN_NUMBERS, TRAIN_PER_LIST, PROBES = 1 << 28, 40, 16
"""Maximum of numbers for training (1 GiB as float32), training vectors per list, lists that a search looks into."""
SUBVECTORS = (64, 56, 48, 40, 32, 28, 24, 20, 16, 12, 8, 4, 3, 2, 1)
"""Numbers of bytes that FAISS can compress a vector to, also on GPUs."""


@dataclass(frozen=True)
class IndexKind:
    """The kind of an index and its parameters.

    Attributes:
        name: `flat` compares a query with every vector; `ivf` only with the vectors in the lists closest to the query;
            `ivfpq` does the same with compressed vectors, then ranks the best of them again with the full vectors.
        lists: number of lists that the vectors are divided into; 0 for `flat`.
        probes: number of lists that a search looks into; 0 for `flat`.
        code: bytes per compressed vector; 0 for vectors that are not compressed.
    """

    name: KindName
    lists: int = 0
    probes: int = 0
    code: int = 0

    @property
    def exact(self) -> bool:
        """True if a search always finds the nearest vectors."""
        return self.name == "flat"

    def __str__(self) -> str:
        if self.exact:
            return "flat (exact)"
        code = f", {self.code} bytes per vector" if self.code else ""
        return f"{self.name} (approximate: {self.probes} of {self.lists} lists{code})"


def choose_kind(rows: int, width: int, name: KindName | Literal["auto"] = "auto") -> IndexKind:
    """Return the kind of index for n vectors of d numbers.

    `auto` is flat up to 2¹⁸ vectors that take up to 1 GiB as float32 (all neighbours cost n² d multiplications), then
    ivf up to 2 GiB, then ivfpq. There are 4 √n lists, and a search looks into 16 of them. Lists are trained on 40
    vectors each; there are fewer lists if training would need more than 1 GiB of vectors. Codes have up to 64 bytes,
    with at least 4 numbers of the vector per byte.

    Args:
        rows: n, the number of vectors.
        width: d, the numbers in a vector.
        name: the kind, or `auto`.
    """
    size = 4 * rows * width
    if name == "auto":
        exact = rows <= FLAT_ROWS and size <= FLAT_BYTES
        name = "flat" if exact else "ivf" if size <= IVF_BYTES else "ivfpq"
    if name == "flat":
        return IndexKind("flat")
    training_rows = min(rows, TRAIN_NUMBERS // width)
    lists = max(1, min(int(4 * math.sqrt(rows)), training_rows // TRAIN_PER_LIST))
    codes = (code for code in SUBVECTORS if width % code == 0 and (4 * code <= width or code == 1))
    return IndexKind(name, lists, min(PROBES, lists), next(codes) if name == "ivfpq" else 0)
