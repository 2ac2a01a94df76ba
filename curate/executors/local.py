"""Run tasks in this process, or in the processes that torchrun started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Generic

from ..log import bar
from ..runtime.distributed import rank, size
from .work import Maker, Piece, Work, opened, wait_for


class Share(Generic[Piece]):
    """This process, which makes its share of the pieces: all of them where it is alone."""

    def __init__(self, work: Work[Piece]) -> None:
        self.work = work
        self._maker: Maker[Piece] | None = None

    def make(self, pieces: Sequence[Piece], *, label: str) -> Mapping[str, float]:
        """Make every `size()`-th piece, unless it is there, then wait for the others'."""
        work, share = self.work, pieces[rank() :: size()]
        pending = work.missing(share)
        total, left = sum(map(work.size, share)), sum(map(work.size, pending))
        seconds: Counter[str] = Counter()
        with bar(total=total, label=label, unit=work.unit, initial=total - left) as progress:
            for piece in pending:
                if self._maker is None:
                    self._maker = opened(work)
                seconds.update(self._maker(piece, progress.update))
        wait_for(work, pieces)
        return seconds

    def close(self) -> None:
        """Let go of what making takes."""
        self._maker = None
