"""Count the rows of a pool that have the same text, and the answers that it has to the same prompt.

Texts are equal as in `curate dedup --by exact`: apart from case, white space and Unicode form. About 300 bytes of
memory per row.
"""

from __future__ import annotations

from collections import Counter

from .texts import Row

Key = tuple[bytes, bytes]


class Copies:
    """Counts of the texts of a pool."""

    def __init__(self) -> None:
        self.rows: Counter[Key] = Counter()
        self.first: dict[Key, str] = {}
        self.answers: Counter[bytes] = Counter()

    def add(self, row: Row) -> None:
        """Count a row."""
        key = _key(row)
        self.rows[key] += 1
        if key not in self.first:
            self.first[key] = row.sample_id
            if all(key):
                self.answers[key[0]] += 1

    def copies(self, row: Row) -> int:
        """Return the number of other rows with the same text; 0 for a row without text."""
        key = _key(row)
        return self.rows[key] - 1 if any(key) else 0

    def is_later(self, row: Row) -> bool:
        """Return whether another sample before this one has the same text."""
        return self.copies(row) > 0 and self.first[_key(row)] != row.sample_id

    def other_answers(self, row: Row) -> int:
        """Return the number of other answers to the same prompt; 0 without a prompt or an answer."""
        key = _key(row)
        return self.answers[key[0]] - 1 if all(key) else 0

    @property
    def repeated(self) -> int:
        """Rows whose text a row before them has."""
        return sum(self.rows.values()) - len(self.rows)


def _key(row: Row) -> Key:
    prompt, answer = row.parts
    return prompt.key, answer.key
