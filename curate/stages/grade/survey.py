"""Count what is in a pool and what is wrong with it, and keep the worst examples of each flag."""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from .grading import FLAGS, Grader, snippet
from .texts import Row

EXAMPLES = 10
"""Examples that the screen shows, of all flags together."""
SHARES = (5, 50, 95)
"""Percentiles of lengths."""
NAMES = 8
"""Sources, and languages, that are listed; the others are counted together."""


class Survey:
    """Counts over the rows and the samples of a pool.

    Attributes:
        rows: number of rows.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.samples = self.flagged = 0
        self.sources: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.flags: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self._words = {"prompt": array("i"), "answer": array("i")}
        self._worst: dict[str, list[tuple[float, int, str, str]]] = {}

    def count(self, row: Row) -> None:
        """Count a row, also one that holds a sample again."""
        self.sources[row.sample.source] += 1

    def add(self, row: Row, grades: Mapping[str, Any], flags: Mapping[str, float]) -> None:
        """Count a graded sample."""
        self.samples += 1
        self.flagged += bool(flags)
        self.flags.update(list(flags))
        if "answer_language_score" in grades:
            self.languages[grades["answer_language"] or "none"] += 1
        if "answer_words" in grades:
            self._words["prompt"].append(grades["prompt_words"])
            self._words["answer"].append(grades["answer_words"])
        self.kinds.update(kind for kind in (grades.get("pii_kinds") or "").split(",") if kind)
        for name, severity in flags.items():
            worst = self._worst.setdefault(name, [])
            if len(worst) < EXAMPLES or (severity, -row.position) > worst[0][:2]:
                push = heapq.heappush if len(worst) < EXAMPLES else heapq.heapreplace
                push(worst, (severity, -row.position, row.sample_id, snippet(row, name)))

    def result(self, grader: Grader) -> dict[str, Any]:
        """Return what the screen shows, as values of JSON."""
        return {
            "rows": self.rows,
            "samples": self.samples,
            "flagged": self.flagged,
            "groups": list(grader.groups),
            "sources": dict(self.sources.most_common(NAMES)),
            "more_sources": max(0, len(self.sources) - NAMES),
            "languages": dict(self.languages.most_common(NAMES)),
            "more_languages": max(0, len(self.languages) - NAMES),
            "words": {
                part: [int(each) for each in np.percentile(values, SHARES)]
                for part, values in self._words.items()
                if len(values)
            },
            "repeated_rows": grader.copies.repeated,
            "flags": {name: self.flags[name] for name in FLAGS if self.flags[name]},
            "pii_kinds": dict(self.kinds.most_common()),
            "examples": self._examples(),
        }

    def _examples(self) -> list[dict[str, Any]]:
        """Return the worst example of each flag, then the second of each, up to ten, by flag."""
        ranked = {name: sorted(self._worst.get(name, []), reverse=True) for name in FLAGS}
        turns = [(place, name) for place in range(EXAMPLES) for name in FLAGS if place < len(ranked[name])]
        chosen = sorted(turns[:EXAMPLES], key=lambda each: (list(FLAGS).index(each[1]), each[0]))
        found = [(name, ranked[name][place]) for place, name in chosen]
        return [
            {"flag": name, "position": -minus, "sample_id": sample_id, "text": text}
            for name, (_, minus, sample_id, text) in found
        ]
