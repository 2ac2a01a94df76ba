"""The result of a stage: an artifact that notebooks show."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...runtime.redaction import redacted
from ...runtime.terminal import summary as text_summary
from ...store import Artifact, Store
from . import html
from .shown import Shown
from .views import drawn_if_possible, picture_of, sql_of

if TYPE_CHECKING:
    from ...stages.advise.advice import Advice


@dataclass(frozen=True, eq=False)
class Result(Shown, Artifact):
    """An artifact of a store, as a method of `Store` returns it.

    Attributes:
        store: the store of the artifact.
        fresh: True if the call made the artifact, False if it was in the store before.
    """

    store: Store = field(default=None, repr=False)  # type: ignore[assignment]  # fields of Artifact have defaults
    fresh: bool = False

    @classmethod
    def of(cls, store: Store, artifact: Artifact, *, fresh: bool = False) -> Result:
        """Return an artifact as a result; advice as `AdviceResult`."""
        values = {each.name: getattr(artifact, each.name) for each in fields(Artifact)}
        kind = AdviceResult if artifact.stage == "advise" and artifact.made_at is not None else cls
        return kind(**values, store=store, fresh=fresh)

    def __eq__(self, other: object) -> bool:
        """Compare as artifacts: a result equals the artifact that it is."""
        if not isinstance(other, Artifact):
            return NotImplemented
        return all(getattr(self, each.name) == getattr(other, each.name) for each in fields(Artifact))

    __hash__ = None  # type: ignore[assignment]  # as an artifact, which holds mappings

    @property
    def sql(self) -> str:
        """The SQL whose rows are the records of the artifact, such as the ledger of a run."""
        return sql_of(self.store, self)

    def arrow(self) -> pa.Table:
        """Return the records of the artifact: all rows of `sql`."""
        return self.store.query(self.sql)

    def __str__(self) -> str:
        lines = text_summary(self.summary) if self.summary else []
        return redacted("\n".join([f"{self.name} ({self.stage})", *lines]))

    def _repr_html_(self) -> str:
        state = "made" if self.fresh else "found" if self.made_at is not None else "unfinished"
        picture = drawn_if_possible(lambda: picture_of(self.store, self))
        title = f"<p><b>{html.text_of(self.name)}</b> ({html.text_of(self.stage)}, {state})</p>"
        return f"<div>{title}{picture}{html.summary(self.summary)}{html.folded('SQL', self.sql)}</div>"


@dataclass(frozen=True, eq=False)
class AdviceResult(Result):
    """The result of `Store.advise`."""

    @functools.cached_property
    def advice(self) -> Advice:
        """The advice, with the race that it rests on."""
        from ...stages.advise.advice import Advice

        return Advice.of(self)

    @property
    def advised(self) -> str:
        """The method to use; `random` if nothing is shown to be better."""
        return self.advice.advised

    @property
    def sentence(self) -> str:
        """The verdict as a sentence."""
        return self.advice.sentence

    @property
    def full_run(self) -> Mapping[str, Any]:
        """Options of the full run: `store.train(**advice.full_run, name="tuned")`."""
        return self.advice.full_run

    @property
    def verdicts(self) -> Sequence[Mapping[str, Any]]:
        """The winner of the race against each control."""
        return self.advice.verdicts

    @property
    def notes(self) -> Sequence[Mapping[str, Any]]:
        """Observations in the data."""
        return self.advice.notes

    def __str__(self) -> str:
        return str(self.advice)

    def _repr_html_(self) -> str:
        return f"{drawn_if_possible(self.advice._repr_html_)}{html.folded('SQL', self.sql)}"


@dataclass(frozen=True)
class Page(Shown):
    """A page that `Store.report` wrote.

    Attributes:
        path: the file.
        bytes: its size.
        runs: the runs that it shows.
    """

    path: Path
    bytes: int
    runs: Sequence[Result]

    @property
    def sql(self) -> str:
        """The SQL of the losses of the runs."""
        from ...store.catalog.sql import quote

        labels = self.runs[0].store.display_names()
        names = ", ".join(quote(labels[run.fingerprint]) for run in self.runs)
        return f"SELECT * FROM metrics WHERE run IN ({names}) ORDER BY run, metric, step"

    def arrow(self) -> pa.Table:
        """Return what the runs logged: run, step, metric and value."""
        return self.runs[0].store.query(self.sql)

    def __str__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        link = f'<a href="{escape(self.path.as_posix())}" target="_blank">{html.text_of(self.path)}</a>'
        rows = [
            {"run": run.name, **{key: run.summary.get(key) for key in ("selector", "steps", "kept", "held-out loss")}}
            for run in self.runs
        ]
        picture = drawn_if_possible(self._picture)
        return (
            f"<div><p>Report: {link}</p>{picture}{html.table(rows, list(rows[0]))}{html.folded('SQL', self.sql)}</div>"
        )

    def _picture(self) -> str:
        from . import pictures

        series: dict[str, list[tuple[float, float]]] = {}
        for row in self.arrow().to_pylist():
            if row["metric"] == "loss":
                series.setdefault(row["run"], []).append((float(row["step"]), float(row["value"])))
        return pictures.lines(series, title="loss (nats per token)", x="step")
