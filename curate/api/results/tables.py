"""Results of methods that make no artifact: the list of a store, a pipeline, the findings of the doctor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...doctor.finding import Sections, as_data, failures, lines
from ...stages import STAGES
from ...store import Artifact, Store
from . import html, pictures
from .shown import Rows

if TYPE_CHECKING:
    from ..commands.pipelines import Entry
    from .answer import Answer
    from .result import Result

STATUS = ("name", "stage", "state", "rows", "bytes", "made_at", "stale", "resume")


def status_rows(store: Store) -> Rows:
    """Return the artifacts of a store as a table; the picture has their sizes by stage."""
    from ..commands.status import listed

    rows: list[dict[str, Any]] = []
    for each in listed(store):
        artifact = each.artifact
        state = "unfinished" if artifact.made_at is None else "stale" if each.stale else "made"
        values = (each.label, artifact.stage, state, artifact.rows, each.size, artifact.made_at)
        rows.append(dict(zip(STATUS, (*values, "; ".join(each.stale), each.resume), strict=True)))
    waiting = store.waiting()
    notes = [f"{waiting} file(s) of records wait to be merged; queries see them."] if waiting else []

    def draw() -> str:
        sizes = {stage: sum(row["bytes"] for row in rows if row["stage"] == stage) for stage in STAGES}
        values = [(stage, size / 1e6) for stage, size in sizes.items() if size]
        return pictures.bars(values, title="megabytes by stage")

    return Rows(f"Store {store.root}", STATUS, rows, notes=notes, draw=draw)


@dataclass(frozen=True)
class Findings(Rows):
    """The findings of the doctor.

    Attributes:
        sections: the findings by section.
    """

    sections: Sections = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True if no finding would stop a run."""
        return not failures(self.sections)

    @property
    def data(self) -> dict[str, Any]:
        """The findings as `curate doctor --json` prints them."""
        return as_data(self.sections)

    def __str__(self) -> str:
        return "\n".join(lines(self.sections))


def findings(sections: Sections) -> Findings:
    """Return the findings of the doctor as a table; the picture counts them by verdict."""
    columns = ("section", "what", "message", "verdict", "advice")
    rows = [
        dict(zip(columns, (title, each.what, each.message, each.verdict, each.advice), strict=True))
        for title, found in sections.items()
        for each in found
    ]

    def draw() -> str:
        counts = [
            (verdict, float(sum(row["verdict"] == verdict for row in rows))) for verdict in ("fine", "note", "wrong")
        ]
        return pictures.bars(counts, title="findings")

    return Findings("Findings", columns, rows, draw=draw, sections=sections)


@dataclass(frozen=True)
class PipelineResult(Rows):
    """The results of a pipeline.

    Attributes:
        results: name of an artifact or label of a query -> its result, in the order of the entries.
    """

    results: Mapping[str, Result | Answer] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, name: str) -> Result | Answer:
        return self.results[name]

    def _repr_html_(self) -> str:
        parts = [f"<details><summary>{html.text_of(name)}</summary>{result._repr_html_()}</details>"
                 for name, result in self.results.items()]  # fmt: skip
        return f"{super()._repr_html_()}{''.join(parts)}"


def pipeline_rows(entries: Sequence[Entry], results: Mapping[str, Result | Answer]) -> list[dict[str, Any]]:
    """Return a row for each entry of a pipeline: its stage, its name, and whether it was made, found or answered."""
    rows = []
    for entry in entries:
        result = results[entry.label]
        is_artifact = isinstance(result, Artifact)
        state = "answered" if not is_artifact else "made" if result.fresh else "found"
        rows.append({"stage": entry.stage, "name": entry.label, "state": state, "rows": _count(result)})
    return rows


def _count(result: Result | Answer) -> int | None:
    return result.rows if isinstance(result, Artifact) else len(result)
