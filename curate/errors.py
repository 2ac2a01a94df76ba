"""Errors that a user can meet. Every message says what is wrong, where, and what to do.

An error is raised once, where its cause is known. The command line prints only the message and exits with 1.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable

TRACEBACK = "CURATE_TRACEBACK"
"""Environment variable that asks for tracebacks; `--traceback` sets it, so the processes of a comparison obey, too."""


class CurateError(Exception):
    """An error that the user can fix; its message says what is wrong, where, and how to fix it."""


class ConfigError(CurateError):
    """An option with an unknown name, or with a value that is not allowed."""


class DataError(CurateError):
    """Data that cannot be used as it is."""


class ModelError(CurateError):
    """A model or tokenizer that cannot be used as it is."""


class TrainingError(CurateError):
    """A run that cannot continue."""


class RunStopped(TrainingError):
    """A run that a function of the user stopped; it is unfinished and can be resumed."""


class StoreError(CurateError):
    """A store on disk that this version cannot use."""


class ArtifactNotFound(StoreError):
    """A name that no artifact in the store has."""


class CatalogueBusy(StoreError):
    """A DuckDB file that another process has locked."""


class CatalogueRefused(StoreError):
    """A DuckDB file that holds other objects than the tables that curate creates."""


class PluginError(CurateError):
    """Code of another package that raised an error, or returned something that its interface does not allow."""


class QueryError(CurateError):
    """SQL that cannot be run, or that would write."""


SYSTEM_ERRORS = {
    errno.ENOSPC: "there is no space left on the device",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file is larger than the system allows (ulimit -f)",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "the operation is not permitted",
    errno.EIO: "the device reports an input/output error",
}
"""Error numbers of the operating system, in words. None of these errors is a fault of curate."""

WRITE_FAILURES = ("iostream error", "PytorchStreamWriter failed", "file write failed")
"""Messages of torch when it cannot finish writing a file; they do not give the cause."""


def of_system(error: BaseException) -> str | None:
    """Return a message for the user if the operating system caused `error`, for example by a full disk; else None.

    The causes of the error are searched too. Libraries that write from C++ or Rust report the system's message and not
    its error number, so the text of each error is searched for the system's messages.
    """
    chain = causes(error)
    for each in chain:
        in_text = [code for code in SYSTEM_ERRORS if os.strerror(code).lower() in str(each).lower()]
        for code in (getattr(each, "errno", None), *in_text):
            if code in SYSTEM_ERRORS:
                return _system_message(each, SYSTEM_ERRORS[code])
    for each in chain:
        if any(words in str(each) for words in WRITE_FAILURES):
            return _system_message(each, "a file cannot be written completely: the disk is full or broken")
    return None


def causes(error: BaseException) -> list[BaseException]:
    """Return an error, its cause, the cause of that, and so on."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def is_interrupt(error: BaseException) -> bool:
    """Return whether this is the error that DuckDB raises for Ctrl-C while it works in the main thread."""
    return isinstance(error, RuntimeError) and str(error) == "Query interrupted"


def _system_message(error: BaseException, what: str) -> str:
    path = getattr(error, "filename", None)
    where = f"{path}: " if path else ""
    return (
        f"{where}{what}. Fix this and run the same command again: results that were written completely are kept. "
        f"({' '.join(str(error).split())})"
    )


LISTED = 30
"""Names that an error message lists."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'uds'?"` if a known name is close to `name`, else a list of the known names.

    A long list is cut: of more than `LISTED` names the first are listed, and the others counted.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f" Did you mean '{close[0]}'?"
    listed = ", ".join(known[:LISTED]) + (f" and {len(known) - LISTED} others" if len(known) > LISTED else "")
    return f" Known: {listed}." if known else ""
