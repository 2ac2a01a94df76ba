"""Texts of candidates for the page: read by row of the pool, cut, and kept for the next picture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from ..report.samples import CUT, question_and_answer
from ..store import Artifact
from ..store.rows.pool_rows import PoolRows

LONGEST = 600
"""Largest number of characters of a text."""
KEPT = 2000
"""Number of conversations that are kept in memory."""


class PoolTexts:
    """Texts of a pool by row.

    Args:
        pool: the pool.
    """

    def __init__(self, pool: Artifact) -> None:
        self._rows = PoolRows(pool.shards())
        self._known: OrderedDict[int, Sequence[Mapping[str, Any]]] = OrderedDict()

    def of(self, position: int | None, turn: int | None) -> tuple[str, str]:
        """Return prompt and answer of a sample, cut to `LONGEST` characters each; empty texts for a replayed sample.

        Args:
            position: row of the sample in the pool; None for a sample of another pool.
            turn: turn of its answer; None for the last one.
        """
        if position is None or not 0 <= position < len(self._rows):
            return "", ""
        messages = self._messages(position)
        prompt, answer = question_and_answer(messages if turn is None else messages[: turn + 1])
        return _cut(prompt), _cut(answer)

    def _messages(self, position: int) -> Sequence[Mapping[str, Any]]:
        if position in self._known:
            self._known.move_to_end(position)
            return self._known[position]
        (table,) = self._rows.read(position, position + 1, ["messages"])
        found: Sequence[Mapping[str, Any]] = table["messages"][0].as_py()
        self._known[position] = found
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return found


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + CUT
