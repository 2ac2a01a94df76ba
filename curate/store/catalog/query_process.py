"""Run SQL of users in a process of its own, which is killed if it exceeds its limits of time or memory.

DuckDB reacts to an interrupt late within one expression, and does not count all the memory that it uses. So the limits
hold for a process (runtime/child.py), and an error inside DuckDB that ends the process is an error of the query. The
answer is complete before any of it is sent: as an Arrow stream to callers in Python, as text to the command line.
This module is the side that waits, and imports neither duckdb nor pyarrow; query_worker.py runs the query.
"""

from __future__ import annotations

import datetime
import decimal
import io
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import QueryError
from ...runtime.child import Bounds, Child, Stopped
from ...runtime.terminal import size
from ..artifacts.files import clear_abandoned
from .limits import Limits

if TYPE_CHECKING:
    import pyarrow as pa

SEND_TABLE = "curate.store.catalog.query_worker:send_table"
OPENING = 300.0
"""Seconds in which the store must be open, if the query itself may not take longer."""
KINDS: Mapping[str, tuple[type, Any, Any]] = {
    "decimal": (decimal.Decimal, str, decimal.Decimal),
    "datetime": (datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    "date": (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "time": (datetime.time, datetime.time.isoformat, datetime.time.fromisoformat),
    "duration": (
        datetime.timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: datetime.timedelta(*parts),
    ),
    "uuid": (uuid.UUID, str, uuid.UUID),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
}
"""Name of a kind of parameter that JSON lacks -> its type, how it becomes JSON, and how it is read. A date is not a
datetime, but a datetime is a date, so it comes first."""


def table(root: Path, sql: str, params: Mapping[str, Any] | Sequence[Any], limits: Limits) -> pa.Table:
    """Return the rows of a read-only statement, which runs in another process; raises as `Store.query` does."""
    import pyarrow as pa

    with answering(SEND_TABLE, request_of(root, sql, params, limits), limits) as parts:
        return pa.ipc.open_stream(_Stream(parts)).read_all()


def request_of(
    root: Path, sql: str, params: Mapping[str, Any] | Sequence[Any], limits: Limits, **options: Any
) -> dict[str, Any]:
    """Return a query as JSON values, for query_worker.py."""
    given = dict(params) if isinstance(params, Mapping) else list(params)
    return {"root": str(root), "sql": sql, "params": encoded(given), "limits": asdict(limits)} | options


@contextmanager
def answering(target: str, request: Mapping[str, Any], limits: Limits) -> Iterator[Iterator[bytes]]:
    """Call `target` with the request in a child; enter the block when its answer is complete, with the parts of it.

    Raises:
        QueryError: the query exceeded a limit, or DuckDB crashed.
        CurateError, OSError: the query raised it.
    """
    bounds, ended = Bounds(limits.timeout, limits.memory, max(OPENING, limits.timeout or 0.0)), False
    try:
        with Child(target, request, bounds) as child:
            child.wait()
            yield child.parts()
            ended = True
    except Stopped as stopped:
        raise QueryError(_sentence(stopped, limits)) from None
    except MemoryError:
        if limits.memory is None:
            raise
        raise QueryError(_sentence(Stopped("memory", child.peak), limits)) from None
    finally:
        if not ended:
            with suppress(OSError):  # nothing is spilled into a store that may only be read
                clear_abandoned(Path(request["root"]) / "spill")


def _sentence(stopped: Stopped, limits: Limits) -> str:
    """Return what a user reads about a query that was stopped."""
    if stopped.why == "time":
        return f"The query took longer than {limits.timeout:g} s and was stopped. Narrow it, or give it more --timeout."
    if stopped.why == "opening":
        return "The store was not open after several minutes, so the query did not run. Check it: curate verify."
    if stopped.why == "memory" and limits.memory is not None:
        held = f"its process held {size(int(stopped.detail))}, and --memory is {size(limits.memory)}"
        return f"The query needs more memory than it may use ({held}). Narrow it, or give it more --memory."
    return (
        f"The process of the query ended before its answer ({stopped.detail}): DuckDB failed, or the system stopped "
        "it. The store is unchanged. Write the query in another way; if other queries fail, too: curate verify."
    )


def encoded(value: Any) -> Any:
    """Return the value of a parameter as JSON values.

    Raises:
        QueryError: its type is none that a parameter may have.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {"map": [[encoded(key), encoded(each)] for key, each in value.items()]}
    if isinstance(value, (list, tuple)):
        return [encoded(each) for each in value]
    for name, (kind, write, _) in KINDS.items():
        if isinstance(value, kind):
            return {name: write(value)}
    if type(value).__module__.partition(".")[0] == "numpy":
        return encoded(value.tolist())
    raise QueryError(f"A parameter of the type {type(value).__name__} cannot be given to a query with limits.")


def decoded(value: Any) -> Any:
    """Return the value that `encoded` wrote."""
    if isinstance(value, list):
        return [decoded(each) for each in value]
    if not isinstance(value, dict):
        return value
    ((name, content),) = value.items()
    if name == "map":
        return {decoded(key): decoded(each) for key, each in content}
    return KINDS[name][2](content)


class _Stream(io.RawIOBase):
    """A file of the parts of an answer."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._rest = parts, memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, and fewer only at the end."""
        found, missing = [], size
        while missing and (self._rest or self._next()):
            found.append(self._rest[:missing] if size >= 0 else self._rest)
            self._rest = self._rest[len(found[-1]) :]
            missing -= len(found[-1])
        return b"".join(found)

    def _next(self) -> bool:
        self._rest = memoryview(next(self._parts, b""))
        return bool(self._rest)
