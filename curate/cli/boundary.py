"""The boundary of the command line: every error that is raised inside a command becomes a sentence and an exit code.

A sentence says what is wrong, where, and what to do. `curate --traceback COMMAND` and CURATE_TRACEBACK=1 also print the
traceback, on stderr. The last flush of stdout is inside the boundary, because a full disk or a closed pipe often shows
only there.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from typer import _click as click

from ..errors import TRACEBACK, CurateError, causes, is_interrupt, of_system
from ..runtime.distributed import size
from ..runtime.ending import say_last
from ..runtime.terminal import say


def exit_code(work: Callable[[], Any]) -> int:
    """Call `work`, flush stdout, and return the exit code. An error is explained on stderr; none leaves this function.

    Args:
        work: runs the command. It may return an exit code.
    """
    try:
        code = work()
        sys.stdout.flush()
    except BaseException as error:
        code = _explain(error)
        _flush_or_give_up()
    if code == 130:
        say_last("\nInterrupted: run the same command again to resume.")
    return code if isinstance(code, int) else 0


def _explain(error: BaseException) -> int:
    """Print what went wrong and return the exit code."""
    if isinstance(error, click.exceptions.ClickException):
        return _usage_error(error)
    if isinstance(error, SystemExit) and _is_of_typer(error):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if type(error).__name__ == "Abort" and error.__cause__ is not None:  # what Typer makes of an EOFError
        error = error.__cause__
    if isinstance(error, KeyboardInterrupt) or is_interrupt(error):
        return 130
    if os.environ.get(TRACEBACK):
        say("".join(traceback.format_exception(error)).rstrip(), to=sys.stderr)
    say_last(f"Error: {message_of(error)}")
    return 1


def _usage_error(error: click.exceptions.ClickException) -> int:
    text = io.StringIO()
    error.show(file=text)
    say(text.getvalue().rstrip("\n"), to=sys.stderr)
    return error.exit_code


def message_of(error: BaseException) -> str:
    """Return a sentence for the user about any error."""
    if isinstance(error, CurateError):
        return str(error)
    if isinstance(error, (SystemExit, BrokenPipeError)) and _is_closed_pipe(error):
        return "The program that reads stdout has closed it, so the output is not complete. What was made is kept."
    if isinstance(error, UnicodeEncodeError):
        return (
            f"The output has characters that {error.encoding} cannot write. Set PYTHONIOENCODING=utf-8 (or a locale "
            "with UTF-8) and run the same command again."
        )
    if isinstance(error, OSError) and (message := of_system(error)) is not None:
        return message
    if any(isinstance(each, MemoryError) for each in causes(error)):
        return "There is not enough memory. Give smaller sizes or more memory, and run the same command again."
    return _of_launch(error) or of_system(error) or _unknown(error)


CONNECTIONS = ("gloo", "NCCL", "TCPStore")
"""Words in the messages of torch when processes that work together cannot reach each other."""


def _of_launch(error: BaseException) -> str | None:
    """Return a message for the user if the connection to another process of a launch by torchrun broke; else None."""
    if size() == 1:
        return None
    for each in causes(error):
        if isinstance(each, RuntimeError) and any(word in str(each) for word in CONNECTIONS):
            return (
                "The connection to another process of the launch broke or timed out, so this process cannot continue. "
                "The message of that process, or torchrun's report, says why. Run the same command again to resume. "
                f"({' '.join(str(each).split())[:300]})"
            )
    return None


def _is_of_typer(error: SystemExit) -> bool:
    """Return whether Typer ended the process, as it does after it has shown or installed completions."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and frames[-1][0].f_globals["__name__"].startswith("typer.") and not _is_closed_pipe(error)


def _is_closed_pipe(error: BaseException) -> bool:
    """Return whether the reader of stdout has gone; Typer turns this error into a `SystemExit`."""
    return any(isinstance(each, BrokenPipeError) for each in causes(error))


def _unknown(error: BaseException) -> str:
    """Return a sentence about an error that curate did not foresee."""
    here = _place_of(error)
    if isinstance(error, SystemExit):
        return f"Code of another package tried to end the command with exit code {error.code!r} ({here}). {_ADVICE}"
    if isinstance(error, RecursionError):
        return f"Something is nested too deeply to be read ({here}). Check the files of the command. {_ADVICE}"
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
    return f"An error that curate did not expect: {reason} ({here}). {_ADVICE}"


_ADVICE = (
    "Results that were written completely are kept. curate --traceback COMMAND shows where it happened: please report "
    "it with that text."
)


def _place_of(error: BaseException) -> str:
    """Return the file and the line that raised an error, and the last place in curate before it."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "no place is known"
    inside = f"{os.sep}curate{os.sep}"
    own = [frame for frame in frames if inside in frame.filename]
    shown = [frames[-1]] if not own or own[-1] is frames[-1] else [own[-1], frames[-1]]
    return ", then ".join(f"{os.sep.join(frame.filename.split(os.sep)[-3:])} line {frame.lineno}" for frame in shown)


def _flush_or_give_up() -> None:
    """Write the rest of stdout; if that is not possible, discard it, or Python would fail again at its exit."""
    stdout = getattr(sys.stdout, "wrapped", sys.stdout)  # Typer wraps it when the reader has gone
    try:
        stdout.flush()
    except (OSError, ValueError):
        try:
            target = os.open(os.devnull, os.O_WRONLY)
            os.dup2(target, stdout.fileno())
            os.close(target)
        except (OSError, ValueError):  # stdout has no file descriptor: nothing else can fail
            return
