"""How vectors are searched, by how many they are: exactly for as long as that is affordable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

KindName = Literal["flat", "ivf", "ivfpq"]

FLAT_ROWS, FLAT_BYTES, IVF_BYTES = 1 << 18, 1 << 30, 1 << 31
"""The most vectors, and bytes of them, that are searched exactly; and the most bytes that are kept uncompressed."""
TRAIN_NUMBERS, TRAIN_PER_LIST, PROBES = 1 << 28, 40, 16
SUBVECTORS = (64, 56, 48, 40, 32, 28, 24, 20, 16, 12, 8, 4, 3, 2, 1)
"""Bytes that a vector can be compressed to, on GPUs as well."""


@dataclass(frozen=True)
class IndexKind:
    """How an index searches.

    Attributes:
        name: flat looks at every vector; ivf at those in the `probes` of `lists` that are closest to a query; ivfpq
            looks there, too, at `code` bytes for each vector, and then at the vectors of the most promising.
    """

    name: KindName
    lists: int = 0
    probes: int = 0
    code: int = 0

    @property
    def exact(self) -> bool:
        """Whether it finds the nearest for certain."""
        return self.name == "flat"

    def __str__(self) -> str:
        if self.exact:
            return "flat (exact)"
        code = f", {self.code} bytes a vector" if self.code else ""
        return f"{self.name} (approximate: {self.probes} of {self.lists} lists{code})"


def choose_kind(rows: int, width: int, name: KindName | Literal["auto"] = "auto") -> IndexKind:
    """The kind of index for n vectors of d numbers.

    With `auto`: flat up to 2¹⁸ vectors that take up to 1 GiB as float32 (all neighbours cost n² d multiplications);
    then ivf up to 2 GiB; then ivfpq. 4 √n lists, 16 of which are looked into; fewer lists where these would be learnt
    from more than 1 GiB of vectors, 40 a list. Codes are of up to 64 bytes, for at least 4 numbers each.
    """
    size = 4 * rows * width
    if name == "auto":
        exact = rows <= FLAT_ROWS and size <= FLAT_BYTES
        name = "flat" if exact else "ivf" if size <= IVF_BYTES else "ivfpq"
    if name == "flat":
        return IndexKind("flat")
    learnt = min(rows, TRAIN_NUMBERS // width)
    lists = max(1, min(int(4 * math.sqrt(rows)), learnt // TRAIN_PER_LIST))
    fits = (code for code in SUBVECTORS if width % code == 0 and (4 * code <= width or code == 1))
    return IndexKind(name, lists, min(PROBES, lists), next(fits) if name == "ivfpq" else 0)
