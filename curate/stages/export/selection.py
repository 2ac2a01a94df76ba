"""Select the samples of an export: those that a run kept, of a subset, or that a query returns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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
from ..subsets import records_of
from ..tokens.turns import origins

if TYPE_CHECKING:
    from ...store.vectors.vectors import Positions

CHOSEN_TURNS = "chosen_turns"
"""Column of an export that lists the selected answers of a conversation, as indices of its messages from 0."""

CHUNK_ROWS = 10_000
"""Rows that are converted to JSON at a time."""


class ExportRequest(Protocol):
    """The options of an export that select its samples; exactly one of run, subset and sql is set."""

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
    """The selected samples of a pool.

    Attributes:
        pool: the pool that the samples are from.
        rows: one row per sample, in order: `sample_id`, and columns such as score and weight.
        answers: `sample_id`, `conversation_id` and `turn` of the samples that are answers; they are exported as whole
            conversations.
        conversations: one row per conversation, in the order of its first sample. Without answers these are `rows`.
            With answers the column `chosen_turns` has the turns of the selected answers, ascending, and is null for a
            conversation that is selected as a whole. The other columns of `rows` are lists then, in the same order.
    """

    pool: Artifact
    rows: pa.Table
    answers: pa.Table
    conversations: pa.Table

    @classmethod
    def of(cls, pool: Artifact, rows: pa.Table, store: Store) -> ChosenSamples:
        """Return the selected samples, after looking for the conversations of answers."""
        found = origins(store, rows["sample_id"])
        if not len(found):
            return cls(pool, rows, found, rows)
        return cls(pool, rows, found, _by_conversation(rows, found))

    def positions(self, scratch: Path) -> Positions:
        """Return (k,) the first position of each conversation in the pool.

        Args:
            scratch: folder for temporary files.

        Raises:
            DataError: a sample is not in the pool.
        """
        ids = self.conversations["sample_id"]
        positions = positions_of(self.pool.shards(), ids, scratch)
        missing = np.flatnonzero(positions < 0)
        if len(missing):
            some = ", ".join(ids.take(pa.array(missing[:3])).to_pylist()) + (", ..." if len(missing) > 3 else "")
            raise DataError(
                f"{len(missing)} of {len(ids)} sample_ids are not in the pool '{self.pool.name}': {some}. "
                "Give the --pool that they come from, or restrict the query to this pool."
            )
        return positions


def digest(rows: pa.Table, columns: Iterable[str]) -> str:
    """Return a hash of `sample_id` and of those of the given columns that exist, in the order of the rows."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in _as_json(rows, sorted({"sample_id", *columns} & set(rows.column_names))):
        hasher.update(part.encode())
    return "b2:" + hasher.hexdigest()


def _as_json(rows: pa.Table, columns: list[str]) -> Iterator[str]:
    """Yield one JSON object, column -> values, in parts: the whole text may be large."""
    for number, column in enumerate(columns):
        yield f"{',' if number else '{'}{to_json(column)}:["
        for start in range(0, len(rows), CHUNK_ROWS):
            yield ("," if start else "") + to_json(rows[column].slice(start, CHUNK_ROWS).to_pylist())[1:-1]
        yield "]"
    yield "}"


def choose(config: ExportRequest, inputs: Inputs) -> ChosenSamples:
    """Return the samples that the run kept, the subset holds or the query returns, each once, at its first place.

    Raises:
        DataError: there is no sample, or the query returns no column `sample_id`.
    """
    maker = made_by(inputs)
    pool = pool_of(inputs.store, [maker] if maker else [], inputs.artifacts.get("pool"))
    if config.sql is not None:
        rows, problem = inputs.store.query(config.sql, (), config.limits), "The query returns no sample."
    elif config.subset is not None:
        rows, problem = records_of(inputs.artifacts["subset"]), f"The subset '{config.subset}' is empty."
    else:
        rows = _kept(inputs.store, inputs.artifacts["run"], config.min_times_kept)
        problem = f"The run '{config.run}' kept no sample {config.min_times_kept} times or more."
    rows = each_once(rows)
    if not rows.num_rows:
        raise DataError(f"{problem} There is nothing to export.")
    return ChosenSamples.of(pool, rows, inputs.store)


def _by_conversation(rows: pa.Table, found: pa.Table) -> pa.Table:
    """Return the rows grouped by conversation; see `ChosenSamples.conversations`.

    Args:
        rows: the selected samples.
        found: `sample_id`, `conversation_id` and `turn` of those that are answers.
    """
    index = pc.index_in(rows["sample_id"], value_set=found["sample_id"])
    conversations = pc.coalesce(found["conversation_id"].take(index), rows["sample_id"]).to_pylist()
    turns = found["turn"].take(index).to_pylist()
    members: dict[str, list[int]] = {}
    for row, conversation in enumerate(conversations):
        members.setdefault(conversation, []).append(row)
    groups = [sorted(group, key=lambda row: -1 if turns[row] is None else turns[row]) for group in members.values()]
    groups = [group[:1] if turns[group[0]] is None else group for group in groups]  # the whole includes its answers
    columns: dict[str, Any] = {"sample_id": pa.array(list(members), pa.string())}
    chosen = [None if turns[group[0]] is None else [turns[row] for row in group] for group in groups]
    columns[CHOSEN_TURNS] = pa.array(chosen, pa.list_(pa.int64()))
    ends = np.cumsum([0, *map(len, groups)])
    order = pa.array([row for group in groups for row in group], pa.int64())
    for name in rows.column_names:
        if name != "sample_id":
            values = rows[name].combine_chunks().take(order)
            columns[name] = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), values)
    return pa.table(columns)


def made_by(inputs: Inputs) -> Artifact | None:
    """Return the run or subset that is exported; None if SQL selects the samples."""
    return inputs.artifacts.get("run") or inputs.artifacts.get("subset")


def _kept(store: Store, run: Artifact, min_times: int) -> pa.Table:
    """Return one row per sample that a run kept: how often, at which steps, and means over the steps that kept it."""
    label = store.display_names()[run.fingerprint]
    names = store.query(
        "SELECT DISTINCT unnest(map_keys(parts)) AS part FROM ledger WHERE run = $run AND kept ORDER BY part",
        {"run": label},
    )
    fixed = ("sample_id", "times_kept", "first_step", "last_step", "score", "weight", "loss", "tokens", "target_tokens")
    parts = [part for part in names["part"].to_pylist() if part not in fixed]
    means = "".join(f", avg(parts[{_quoted(part, chr(39))}]) AS {_quoted(part, chr(34))}" for part in parts)
    return store.query(
        "SELECT sample_id, count(*) AS times_kept, min(step) AS first_step, max(step) AS last_step, "
        "avg(score) AS score, avg(weight) AS weight, avg(loss) AS loss, any_value(tokens) AS tokens, "
        f"any_value(target_tokens) AS target_tokens{means} FROM ledger "
        "WHERE run = $run AND kept AND stage IS DISTINCT FROM 'replay' "
        'GROUP BY sample_id HAVING count(*) >= $least ORDER BY min((step, "rank", slot)), sample_id',
        {"run": label, "least": min_times},
    )


def _quoted(text: str, quote: str) -> str:
    """Return text in quotes, as SQL writes it: a quote inside is doubled."""
    return quote + text.replace(quote, quote + quote) + quote


def each_once(rows: pa.Table) -> pa.Table:
    """Return the first row of each sample id, with ids as text and without rows that have no id.

    Raises:
        DataError: there is no column `sample_id`.
    """
    if "sample_id" not in rows.column_names:
        raise DataError(
            f"The query must return a column sample_id, but it returns {', '.join(rows.column_names)}: add sample_id "
            "to its SELECT."
        )
    index = rows.column_names.index("sample_id")
    rows = rows.set_column(index, "sample_id", rows["sample_id"].cast(pa.string()))
    rows = rows.filter(pc.is_valid(rows["sample_id"]))
    first = first_of_each(rows["sample_id"])
    return rows if len(first) == len(rows) else rows.take(pa.array(first))
