"""Which samples `curate export` writes: what a run kept, a subset holds or a query answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import DataError
from ...samples import to_json
from ...store import Artifact, Store
from ...store.catalog.limits import Limits
from ...store.rows.out_of_core import first_of_each, positions_of
from ..inputs import Inputs
from ..pools import pool_of

if TYPE_CHECKING:
    from ...store.vectors.vectors import Positions

PIECE = 10_000


class ExportRequest(Protocol):
    """What an export says of its choice."""

    @property
    def run(self) -> str | None: ...
    @property
    def subset(self) -> str | None: ...
    @property
    def sql(self) -> str | None: ...
    @property
    def min_times_kept(self) -> int: ...
    @property
    def limits(self) -> Limits: ...


@dataclass(frozen=True)
class ChosenSamples:
    """Which samples, from which pool: one row a sample, `sample_id` and whatever else is known of it."""

    pool: Artifact
    rows: pa.Table

    def digest(self, columns: Iterable[str]) -> str:
        """A hash of some columns, those of them that there are, in order."""
        found = hashlib.blake2b(digest_size=16)
        for piece in self._as_json(sorted({"sample_id", *columns} & set(self.rows.column_names))):
            found.update(piece.encode())
        return "b2:" + found.hexdigest()

    def _as_json(self, columns: list[str]) -> Iterator[str]:
        """Column -> values as one JSON object, in pieces: a choice may be large."""
        for number, column in enumerate(columns):
            yield f"{',' if number else '{'}{to_json(column)}:["
            for start in range(0, len(self.rows), PIECE):
                yield ("," if start else "") + to_json(self.rows[column].slice(start, PIECE).to_pylist())[1:-1]
            yield "]"
        yield "}"

    def positions(self, scratch: Path) -> Positions:
        """(k,) where each sample first comes in the pool; one that it has not got is a `DataError`."""
        ids = self.rows["sample_id"]
        found = positions_of(self.pool.shards(), ids, scratch)
        lost = np.flatnonzero(found < 0)
        if len(lost):
            some = ", ".join(ids.take(pa.array(lost[:3])).to_pylist()) + (", ..." if len(lost) > 3 else "")
            raise DataError(
                f"{len(lost)} of {len(ids)} sample_ids are not in the pool '{self.pool.name}': {some}. "
                "Give the --pool that they come from, or narrow the query to it."
            )
        return found


def choose(config: ExportRequest, inputs: Inputs) -> ChosenSamples:
    """What the run kept, the subset holds or the query answers; an id that comes twice counts where it comes first."""
    maker = made_by(inputs)
    pool = pool_of(inputs.store, [maker] if maker else [], inputs.artifacts.get("pool"))
    if config.sql is not None:
        rows, what = inputs.store.query(config.sql, (), config.limits), "The query chooses no sample."
    elif config.subset is not None:
        rows, what = inputs.artifacts["subset"].table(), f"The subset '{config.subset}' is empty."
    else:
        rows = _kept(inputs.store, inputs.artifacts["run"], config.min_times_kept)
        what = f"The run '{config.run}' kept no sample {config.min_times_kept} times or more."
    rows = each_once(rows)
    if not rows.num_rows:
        raise DataError(f"{what} Nothing is exported.")
    return ChosenSamples(pool, rows)


def made_by(inputs: Inputs) -> Artifact | None:
    """The run or subset that is exported; None for what SQL chose."""
    return inputs.artifacts.get("run") or inputs.artifacts.get("subset")


def _kept(store: Store, run: Artifact, min_times: int) -> pa.Table:
    """One row a sample that a run kept: how often, when, and means of what the ledger says of it when it was kept."""
    label = store.display_names()[run.fingerprint]
    found = store.query(
        "SELECT DISTINCT unnest(map_keys(parts)) AS part FROM ledger WHERE run = $run AND kept ORDER BY part",
        {"run": label},
    )
    fixed = ("sample_id", "times_kept", "first_step", "last_step", "score", "weight", "loss", "tokens", "target_tokens")
    parts = [part for part in found["part"].to_pylist() if part not in fixed]
    means = "".join(f", avg(parts[{_quoted(part, chr(39))}]) AS {_quoted(part, chr(34))}" for part in parts)
    return store.query(
        "SELECT sample_id, count(*) AS times_kept, min(step) AS first_step, max(step) AS last_step, "
        "avg(score) AS score, avg(weight) AS weight, avg(loss) AS loss, any_value(tokens) AS tokens, "
        f"any_value(target_tokens) AS target_tokens{means} FROM ledger WHERE run = $run AND kept "
        'GROUP BY sample_id HAVING count(*) >= $least ORDER BY min((step, "rank", slot)), sample_id',
        {"run": label, "least": min_times},
    )


def _quoted(text: str, mark: str) -> str:
    return mark + text.replace(mark, mark + mark) + mark


def each_once(rows: pa.Table) -> pa.Table:
    """The first row of each sample id, ids as text; rows without one go. Without such a column it is a `DataError`."""
    if "sample_id" not in rows.column_names:
        raise DataError(f"The query must give a column sample_id; it gives {', '.join(rows.column_names)}.")
    at = rows.column_names.index("sample_id")
    rows = rows.set_column(at, "sample_id", rows["sample_id"].cast(pa.string()))
    rows = rows.filter(pc.is_valid(rows["sample_id"]))
    first = first_of_each(rows["sample_id"])
    return rows if len(first) == len(rows) else rows.take(pa.array(first))
