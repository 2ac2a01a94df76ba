"""Every error that a user can meet, each with the way out.

One sentence of what, one of where, one of what to do. Raised once, where it is known; the command line prints the
message alone and exits with 1.
"""

from __future__ import annotations

import difflib
import errno
import os
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


TROUBLE = {
    errno.ENOSPC: "there is no space left on the device",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file is larger than is allowed (ulimit -f)",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "that is not permitted",
    errno.EIO: "the device fails",
}
"""What the system may refuse, and what that means: nothing that curate has done wrong."""


CUT_SHORT = ("iostream error", "PytorchStreamWriter failed", "file write failed")
"""What torch says where it cannot write on; it does not say why."""


def of_system(error: BaseException) -> str | None:
    """What the system has refused, as a sentence, where that is why `error` was raised; None for any other error.

    Libraries that write from C++ or Rust say the system's words, not its number.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for each in chain:
        said = [code for code in TROUBLE if os.strerror(code).lower() in str(each).lower()]
        for code in (getattr(each, "errno", None), *said):
            if code in TROUBLE:
                return _refusal(each, TROUBLE[code])
    for each in chain:
        if any(words in str(each) for words in CUT_SHORT):
            return _refusal(each, "a file cannot be written to its end: the disk is full, or fails")
    return None


def is_interrupt(error: BaseException) -> bool:
    """Whether it is what DuckDB makes of Ctrl-C where it is at work in the main thread."""
    return isinstance(error, RuntimeError) and str(error) == "Query interrupted"


def _refusal(error: BaseException, what: str) -> str:
    where = getattr(error, "filename", None)
    place = f"{where}: " if where else ""
    return (
        f"{place}{what}. Mend that, and run the same command again: what was written whole is kept. "
        f"({' '.join(str(error).split())})"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'uds'?"` when something close to `name` is known, else the list of what is."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Known: {', '.join(known)}." if known else ""
