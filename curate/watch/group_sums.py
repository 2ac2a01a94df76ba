"""Counts of a grouping so far: by step for curves, and over all steps against a random choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..report.groups import NONE, NOTHING, POOL, Grouping, against_chance, shares, shown_labels
from ..report.runs import ReportContext
from .curve_sums import CurveSums

LINES = 8
"""Largest number of labels with a curve of their own, the largest ones of the pool."""


@dataclass
class GroupSums:
    """Counts by label of a grouping, which steps are added to.

    Attributes:
        grouping: the grouping.
        table: the table in the session that holds its members.
        sizes: label -> number of rows of the pool; None is the label of rows without one.
        large: labels that are counted one by one, in their order; the others count as `others`.
        others: label of the others together.
    """

    grouping: Grouping
    table: str
    sizes: Mapping[str | None, int]
    large: Sequence[str]
    others: str
    _totals: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, context: ReportContext, grouping: Grouping, number: int) -> GroupSums:
        """Return empty counts of a grouping, with the sizes of its labels in the pool."""
        rows = context.rows(POOL.format(members=grouping.members), **grouping.params)
        sizes = {row["label"]: row["samples"] for row in rows}
        return cls(grouping, f"members_{number}", sizes, *shown_labels(sizes, grouping))

    @property
    def key(self) -> str:
        """Beginning of the names of its curves."""
        return f"{self.grouping.by}/"

    def add(self, rows: Sequence[Mapping[str, Any]], curves: CurveSums) -> None:
        """Add the counts of whole steps, one row per step and label."""
        by_step: dict[int, dict[str, dict[str, float]]] = {}
        large = frozenset(self.large)
        for row in rows:
            label = NONE if row["label"] is None else row["label"] if row["label"] in large else self.others
            counts = by_step.setdefault(row["step"], {}).setdefault(label, dict.fromkeys(COUNTS, 0.0))
            for name in COUNTS:
                counts[name] += row[name] or 0.0
        for step, labels in by_step.items():
            offered = sum(counts["offered"] for counts in labels.values())
            kept = sum(counts["kept"] for counts in labels.values())
            for label in self._lines():
                counts = labels.get(label, dict.fromkeys(COUNTS, 0.0))
                curves.add(f"{self.key}offered/{label}", [step], [counts["offered"]], [offered])
                curves.add(f"{self.key}kept/{label}", [step], [counts["kept"]], [kept])
                curves.add(f"{self.key}loss/{label}", [step], [counts["loss_sum"]], [counts["loss_tokens"]])
            for label, counts in labels.items():
                self._add_total(label, counts["offered"], counts["kept"], offered, kept)

    def _add_total(self, label: str, n: float, k: float, offered: float, kept: float) -> None:
        """Add a step to the counts of a label; see groups.py for the mean and the variance of a random choice."""
        total = self._totals.setdefault(label, dict(NOTHING))
        total["offered"] += n
        total["kept"] += k
        total["mean"] += kept * n / offered
        if offered > 1:
            total["variance"] += kept * n / offered * (1 - n / offered) * (offered - kept) / (offered - 1)

    def _lines(self) -> list[str]:
        """Return the labels with a curve of their own."""
        largest = sorted(self.large, key=lambda label: -self.sizes[label])[:LINES]
        return [label for label in self.large if label in set(largest)]

    def curves(self, curves: CurveSums) -> list[dict[str, Any]]:
        """Return the curves of its largest labels, as the page draws them."""
        return [
            {"name": label, **{part: curves.curve(f"{self.key}{part}/{label}") for part in ("loss", "offered", "kept")}}
            for label in self._lines()
        ]

    def against_chance(self) -> dict[str, Any]:
        """Return the shares of its labels over all steps, as `report.groups` does for one run."""
        more = len(self.sizes) - (None in self.sizes) > len(self.large)
        labels = [*self.large, *([self.others] if more else []), *([NONE] if None in self.sizes else [])]
        pool = dict.fromkeys(labels, 0)
        for label, size in self.sizes.items():
            pool[NONE if label is None else label if label in pool else self.others] += size
        line = against_chance([self._totals.get(label, NOTHING) for label in labels])
        return {
            "by": self.grouping.by,
            "title": self.grouping.title,
            "labels": labels,
            "pool": shares(list(pool.values())),
            **{part: [line[part]] for part in ("offered", "chance", "kept", "low", "high")},
        }


COUNTS = ("offered", "kept", "loss_sum", "loss_tokens")
