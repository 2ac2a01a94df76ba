"""The last lines of `curate ingest`: what was taken as what, what stayed metadata, what was refused, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..formats import Notes
from ..runtime.terminal import cell

MOST_LINES = 8
"""Lines of each kind, at most; the table `rejects` has all rejects."""
ADVICE: Mapping[str, str] = {
    "not JSON": "fix these lines",
    "not an object": "write one object per line",
    "not UTF-8": "save the file as UTF-8",
    "a key comes twice": "remove one of the two",
    "wrong number of fields": "put quotes around fields with separators",
    "wrong type in column": "write text (or a list of turns), or name another column with --columns",
    "a turn without a role": "write role and content, or a pair such as input and output",
    "empty prompt": "there is nothing to answer",
    "empty completion": "there is nothing to train on",
    "no assistant turn": "there is nothing to train on; --roles NAME=assistant maps a name",
    "no user turn": "--roles NAME=user maps a name",
    "two system messages": "keep one; --metadata-columns system ignores the column",
    "content that is not text": "curate trains on text alone",
    "two different lists of tools": "keep one; --metadata-columns tools ignores the column",
    "nested too deeply": "flatten the row, or leave the column out",
    "duplicate of an earlier row": "asked for by --deduplicate",
    "weight 0": "such a row is not trained on; leave the column out with --metadata-columns to train on it",
}
"""Beginning of a reason -> what to do about it; other reasons say it themselves."""


class Report:
    """Counts and places of what an ingest read and refused.

    Args:
        notes: what the readers did.
    """

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.first: dict[str, str] = {}

    def reject(self, reason: str, file: str, row: int) -> None:
        """Keep the first place of each reason."""
        if reason not in self.first and len(self.first) < 10 * MOST_LINES:
            self.first[reason] = f"{file}, row {row}"

    def lines(self, formats: Mapping[str, int], rejects: Mapping[str, int]) -> list[str]:
        """Return the lines.

        Args:
            formats: format -> number of samples.
            rejects: reason -> number of rows.
        """
        read, refused = sum(formats.values()), sum(rejects.values())
        lines = [f"{read + refused} rows: {read} samples, {refused} rejected"]
        for name, count in formats.items():
            parts = dict(self.notes.parts.get(name, {}))
            if name == "prompt-completion":
                parts = {**self.notes.parts.get("preference", {}), **parts} if self.notes.preferred else parts
            used = "; ".join(_part(part, columns) for part, columns in parts.items())
            lines.append(f"  read as {name}: {count} ({used})")
        lines += [f"  written as text: {text} ({count})" for text, count in self.notes.changes.most_common(MOST_LINES)]
        lines += _weights(self.notes)
        if self.notes.columns:
            named = list(self.notes.columns)
            more = f" and {len(named) - 20} more" if len(named) > 20 else ""
            lines.append(f"  kept as metadata, not trained on: {', '.join(map(cell, named[:20]))}{more}")
        lines += _counted("left out", self.notes.losses)
        lines += [f"  not read: {text}" for text in self.notes.files[:MOST_LINES]]
        if len(self.notes.files) > MOST_LINES:
            lines.append(f"  not read: {len(self.notes.files) - MOST_LINES} more")
        return [*lines, *self._rejects(rejects)]

    def _rejects(self, rejects: Mapping[str, int]) -> list[str]:
        ordered = sorted(rejects.items(), key=lambda item: -item[1])
        lines = []
        for reason, count in ordered[:MOST_LINES]:
            advice = next((text for start, text in ADVICE.items() if reason.startswith(start)), "")
            place = f" (first: {cell(self.first[reason])})" if reason in self.first else ""
            lines.append(f"  rejected: {cell(reason)}: {count}{place}{': ' + advice if advice else ''}")
        if len(ordered) > MOST_LINES:
            rest = sum(count for _, count in ordered[MOST_LINES:])
            lines.append(f"  rejected: {rest} rows for {len(ordered) - MOST_LINES} other reasons")
        if lines:
            lines.append('  curate query "SELECT file, row, reason FROM rejects" lists the rejected rows')
        return lines


def _weights(notes: Notes) -> list[str]:
    lines = []
    for column, (count, lowest, highest) in list(notes.weights.items())[:MOST_LINES]:
        found = f"{count} rows differ from 1, from {lowest:g} to {highest:g}" if count else "all are 1"
        lines.append(f"  weights of rows in the loss, from {cell(column)}: {found}")
    return lines


def _part(part: str, columns: Iterable[str]) -> str:
    names = ", ".join(map(cell, columns))
    return part if names == part else f"{part} from {names}"


def _counted(word: str, counts: Mapping[str, int]) -> list[str]:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    lines = [f"  {word}: {cell(text)} ({count})" for text, count in ordered[:MOST_LINES]]
    return [*lines, f"  {word}: {len(ordered) - MOST_LINES} more kinds"] if len(ordered) > MOST_LINES else lines
