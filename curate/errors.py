"""Every error that a user can meet, each with the way out.

One sentence of what, one of where, one of what to do. Raised once, where it is known; the command line prints the
message alone and exits with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CurateError(Exception):
    """Something the user can mend; its text says what, where and how."""


class ConfigError(CurateError):
    """An option has no such name, or no such value."""


class DataError(CurateError):
    """The data cannot be used as it is."""


class ModelError(CurateError):
    """The model or tokenizer cannot be used as it is."""


class TrainingError(CurateError):
    """A run cannot go on."""


class StoreError(CurateError):
    """The store on disk is not one this version can use."""


class ArtifactNotFound(StoreError):
    """Nothing in the store has that name."""


class CatalogueBusy(StoreError):
    """Another process holds the DuckDB file."""


class QueryError(CurateError):
    """The SQL cannot be run, or would write."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'uds'?"` when something close to `name` is known, else the list of what is."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Known: {', '.join(known)}." if known else ""
