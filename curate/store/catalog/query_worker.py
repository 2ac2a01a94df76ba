"""Run the SQL of a user in this process, which was started for it and whose limits its parent holds.

See query_process.py for the parent's side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from ...runtime.channel import Channel
from ...runtime.spool import Spool
from ..artifacts.index import ArtifactIndex
from .execution import BATCH_ROWS, batches
from .limits import Limits
from .query import run
from .query_process import decoded

FULL_SHARE = 100_000_000
"""Bytes of a memory limit that DuckDB gets whole; of more it gets `PART`, because its own count is too low."""
PART = 0.9


@dataclass(frozen=True)
class Answer:
    """The answer of a query, in the process of the query.

    Attributes:
        stream: its rows as an Arrow stream, or the first of them.
        rows: number of all rows.
    """

    stream: Spool
    rows: int

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the stream."""
        yield from pa.ipc.open_stream(self.stream.file())

    def schema(self) -> pa.Schema:
        """Return the schema of the rows."""
        return pa.ipc.open_stream(self.stream.file()).schema

    def columns(self) -> list[str]:
        """Return the names of the columns; several may have the same name."""
        return list(self.schema().names)


def send_table(request: Mapping[str, Any], channel: Channel) -> None:
    """Run a query and send its rows as an Arrow stream; in the child."""
    index = ArtifactIndex(Path(request["root"]))
    answer = run_request(index, request, channel)
    channel.answer()
    for part in answer.stream.parts():
        channel.data(part)


def run_request(
    index: ArtifactIndex, request: Mapping[str, Any], channel: Channel, *, keep: int | None = None
) -> Answer:
    """Run a query; in the child. From its begin on its limits count.

    Args:
        index: the store.
        request: what `request_of` made.
        channel: receives the begin.
        keep: the number of rows to keep; None for all.
    """
    limits, kept = Limits(**request["limits"]), Spool(index.root)

    def take(relation: duckdb.DuckDBPyRelation) -> Answer:
        reader, rows = relation.to_arrow_reader(BATCH_ROWS), 0
        with pa.ipc.new_stream(kept, reader.schema) as stream:
            for batch in batches(reader, limits.memory):
                if keep is None or rows < keep:
                    stream.write_batch(batch if keep is None else batch.slice(0, keep - rows))
                rows += len(batch)
        return Answer(kept, rows)

    memory = limits.memory
    if memory is not None and memory > FULL_SHARE:
        memory = FULL_SHARE + int((memory - FULL_SHARE) * PART)
    return run(
        index,
        request["sql"],
        decoded(request["params"]),
        replace(limits, memory=memory),
        begin=lambda: channel.begin(limits.memory),
        take=take,
    )
