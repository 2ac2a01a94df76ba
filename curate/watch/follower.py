"""Follow the records of one run: each call reads the steps that are new and adds them to sums and curves.

The work of a call grows with the new rows, not with the length of the run. The newest rows stay in a small database in
memory, for distributions and for the rows behind a picture.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from ..report.curves import SECONDS, TAIL, histogram, histogram_statement
from ..report.found_runs import State, read_again, state_of
from ..report.groups import NONE, by_cluster, by_source
from ..report.runs import ReportContext, ReportRequest, report_context
from ..store import Artifact, Store
from ..store.catalog.sql import quote
from ..store.ledger.reader import LedgerReader, signatures
from ..store.ledger.records_session import RecordsSession
from .curve_sums import CurveSums
from .group_sums import GroupSums
from .run_metrics import RunMetrics
from .spikes import Spike, SpikeFinder
from .statements import BY_LOSS, GROUPS, PART_NAMES, SCORES, STEPS, rows_statement

WINDOW_ROWS = 20_000
"""Number of newest rows that distributions are of, rounded up to whole steps."""
BINS = 40
"""Largest number of bins of a distribution."""
MOST_SPIKES = 12
"""Number of newest spikes whose rows are kept."""
MOST_ROWS = 6
"""Number of rows behind a picture."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One optimizer step, as the ledger has it.

    Attributes:
        step: the step, from 1.
        offered, kept: number of candidates, and of kept ones.
        tokens: tokens of the kept samples.
        loss: mean loss of the kept samples before the step, in nats per target token; None if it was not measured.
        by_source: source -> number of kept samples.
    """

    step: int
    offered: int
    kept: int
    tokens: int
    loss: float | None
    by_source: Mapping[str, int]


class RunFollower:
    """The records of a run so far.

    Args:
        store: the store of the run.
        run: the run, finished or not.
        pictures: also keep what only the page needs: scores, clusters, distributions, rows behind spikes.

    Attributes:
        run: the run, as its folder described it last.
        label: name of the run in the tables.
        metrics: the logged metrics.
        curves: curves by name.
        groups: counts by source, and by cluster if there are clusters.
        spikes: the newest spikes of the loss with the rows behind them.
        all_spikes: number of all spikes.
        totals: counts over all steps: offered, kept, and tokens and target_tokens of the kept.
        window_begin: the distributions are of the steps after this one.
    """

    def __init__(self, store: Store, run: Artifact, *, pictures: bool = True) -> None:
        self.store = store
        self.run = run
        self.pictures = pictures
        self.label = store.display_names().get(run.fingerprint, run.name)
        self.metrics = RunMetrics(run.path)
        self.groups: list[GroupSums] = []
        self._reader = LedgerReader(run.path)
        self._context: ReportContext | None = None
        self._session: RecordsSession | None = None
        self._start_again()

    @property
    def step(self) -> int:
        """The last complete step."""
        return self._reader.step

    @property
    def context(self) -> ReportContext:
        """The run and its pool; opened at the first use, because a run writes what is needed before its first step."""
        if self._context is None:
            self._open()
        assert self._context is not None
        return self._context

    @property
    def session(self) -> RecordsSession:
        """The database with the newest rows."""
        if self._session is None:
            self._open()
        assert self._session is not None
        return self._session

    def state(self) -> State:
        """Return the state of the run now."""
        found = state_of(self.store, self.run)
        if found == "ended":
            self.run = read_again(self.store, self.run)
        return found

    def age(self) -> float:
        """Return the seconds since the run wrote its newest record; since it began if there is none. At least 0."""
        files = [path for table in ("ledger", "metrics") for path, _ in signatures(self.run.path, table).values()]
        times = [path.stat().st_mtime for path in [*files, self.run.path] if path.exists()]
        return max(0.0, time.time() - max(times, default=0.0))

    def public_label(self) -> str:
        """Return the name of the run in `curate query`. A run that ends may take over the name of an older one."""
        return self.label if self.run.made_at is None else self.store.display_names()[self.run.fingerprint]

    def poll(self, *, ended: bool = False) -> Iterator[Sequence[Step]]:
        """Read what is new; yield the steps of each part that was read. Nothing is yielded if there are none.

        Args:
            ended: the run has ended, so all of its records are complete.

        Raises:
            StoreError: a record of the run is damaged.
        """
        if (table := self.metrics.read()) is not None:
            self.session.clear("metrics")
            self.session.append("metrics", self.label, table)
        more = True
        while more:
            before = self._reader.step
            new = self._reader.read(ended=ended)
            if new.restarted:
                self._start_again()
                before = 0
            if new.rows is not None:
                yield self._add(new.rows, before)
            more = new.more

    def distributions(self) -> list[Row]:
        """Return the distributions of the scores of the newest rows, as the report has them for all rows."""
        found = []
        for name, column in self.score_columns().items() if self.step else ():
            sql = histogram_statement(column, f"AND step > {self.window_begin}")
            rows = self.session.ask(sql, {"runs": [self.label], "tail": TAIL, "most": BINS}).to_pylist()
            if rows:
                found.append({"name": name, **histogram(rows)})
        return found

    def seconds(self) -> list[Row]:
        """Return the seconds by part so far."""
        rows = self.session.ask(SECONDS, {"runs": [self.label]}).to_pylist() if self.metrics.rows else []
        return [
            {"part": row["metric"].removeprefix("seconds_").replace("_", " "), "seconds": row["seconds"]}
            for row in rows
        ]

    def rows(self, step: int, order: str, *, kept: bool) -> list[Row]:
        """Return the first rows of one of the newest steps in an order, with a column `label_N` for each grouping."""
        sql = rows_statement([each.table for each in self.groups], order)
        given = {"run": self.label, "step": step, "kept": kept, "most": MOST_ROWS}
        found: list[Row] = self.session.ask(sql, given).to_pylist()
        return found

    def score_columns(self) -> dict[str, str]:
        """Return name -> SQL of the score, its parts, and the loss unless a part has that name."""
        parts = {name: f"parts[{quote(name)}]" for name in sorted(self._parts)}
        return {"score": "score", **parts, **({} if "loss" in parts else {"loss": "loss"})}

    def close(self) -> None:
        """Close the database."""
        if self._session is not None:
            self._session.__exit__()

    def _start_again(self) -> None:
        """Forget all steps, because the run began again or went back to a checkpoint."""
        self.curves = CurveSums()
        self.totals = dict.fromkeys(("offered", "kept", "tokens", "target_tokens"), 0)
        self.spikes: deque[tuple[Spike, list[Row]]] = deque(maxlen=MOST_SPIKES)
        self.all_spikes = 0
        self.window_begin = 0
        self._finder = SpikeFinder()
        self._parts: set[str] = set()
        self._window: deque[tuple[int, int]] = deque()
        self._in_window = 0
        if self._session is not None:
            self._session.clear("ledger")
            self.groups = [GroupSums.of(self.context, each.grouping, n) for n, each in enumerate(self.groups)]

    def _open(self) -> None:
        nothing: Any = None  # a context is made of artifacts alone, and the session needs to know them
        context = report_context(self.store, nothing, ReportRequest((self.label,)), [self.run])
        own = [each for each in (context.pool, context.features, context.clusters, self.run) if each is not None]
        self._session = RecordsSession(self.store, own, filled=("ledger", "metrics"))
        self._context = replace(context, reader=self._session)
        groupings = [by_source(self._context), *(by_cluster(self._context) if self.pictures else [])]
        self.groups = [GroupSums.of(self._context, each, number) for number, each in enumerate(groupings)]
        for each in self.groups:
            self._session.keep(each.table, each.grouping.members, each.grouping.params)

    def _add(self, rows: pa.Table, before: int) -> Sequence[Step]:
        """Add the rows of complete steps after `before`, and return these steps."""
        self.session.append("ledger", self.label, rows)
        given = {"run": self.label, "after": before}
        found = self.session.ask(STEPS, given).to_pylist()
        self._add_steps(found)
        by_label = [self._add_groups(each, given) for each in self.groups]
        if self.pictures:
            self._parts |= {row["name"] for row in self.session.ask(PART_NAMES, given).to_pylist()}
            for name, column in self.score_columns().items():
                self._add_scores(name, self.session.ask(SCORES.format(column=column), given).to_pylist())
        self._move_window(found)
        return [_step_of(row, by_label[0].get(row["step"], {})) for row in found]

    def _add_steps(self, rows: Sequence[Row]) -> None:
        steps = [row["step"] for row in rows]
        for name, top, bottom in CURVES:
            self.curves.add(name, steps, [row[top] for row in rows], [row[bottom] for row in rows])
        spikes = []
        for row in rows:
            for name, column in TOTALS.items():
                self.totals[name] += row[column] or 0
            loss = _kept_loss(row)
            if loss is not None and (spike := self._finder.add(row["step"], loss)) is not None:
                spikes.append(spike)
        self.all_spikes += len(spikes)
        if self.pictures:
            self.spikes.extend((each, self.rows(each.step, BY_LOSS, kept=True)) for each in spikes[-MOST_SPIKES:])

    def _add_groups(self, sums: GroupSums, given: Mapping[str, Any]) -> dict[int, dict[str, int]]:
        """Add the counts by label; return step -> label -> number of kept samples."""
        rows = self.session.ask(GROUPS.format(members=sums.table), given).to_pylist()
        sums.add(rows, self.curves)
        found: dict[int, dict[str, int]] = {}
        for row in rows:
            found.setdefault(row["step"], {})[NONE if row["label"] is None else row["label"]] = row["kept"]
        return found

    def _add_scores(self, name: str, rows: Sequence[Row]) -> None:
        for side in ("kept", "passed"):
            sums, counts = ([row[f"{side}_{part}"] for row in rows] for part in ("sum", "count"))
            self.curves.add(f"{name}/{side}", [row["step"] for row in rows], sums, counts)
        measured = [row for row in rows if row["quantiles"] is not None]
        steps = [row["step"] for row in measured]
        for number, quantile in enumerate(("low", "middle", "high")):
            values = [row["quantiles"][number] for row in measured]
            self.curves.add(f"{name}/{quantile}", steps, values, [1] * len(measured))

    def _move_window(self, rows: Sequence[Row]) -> None:
        """Delete the oldest steps from the database, so that about `WINDOW_ROWS` rows are left."""
        self._window.extend((row["step"], row["offered"]) for row in rows)
        self._in_window += sum(row["offered"] for row in rows)
        begin = self.window_begin
        while len(self._window) > 1 and self._in_window - self._window[0][1] >= WINDOW_ROWS:
            begin, offered = self._window.popleft()
            self._in_window -= offered
        if begin > self.window_begin:
            self.window_begin = begin
            self.session.clear("ledger", until=begin)


CURVES = (
    ("kept", "kept", "offered"),
    ("kept_tokens", "kept_tokens", "tokens"),
    ("candidate_loss", "loss_sum", "loss_tokens"),
    ("kept_loss", "kept_loss_sum", "kept_loss_tokens"),
)
"""Name of a curve, and the columns of `STEPS` that it divides."""
TOTALS = {"offered": "offered", "kept": "kept", "tokens": "kept_tokens", "target_tokens": "kept_targets"}
"""Count over all steps -> column of `STEPS`."""


def _kept_loss(row: Mapping[str, Any]) -> float | None:
    top, bottom = row["kept_loss_sum"], row["kept_loss_tokens"]
    return top / bottom if top is not None and bottom else None


def _step_of(row: Mapping[str, Any], by_source: Mapping[str, int]) -> Step:
    return Step(row["step"], row["offered"], row["kept"], row["kept_tokens"] or 0, _kept_loss(row), by_source)
