"""Turn every error of a library that reads a model folder into one sentence.

transformers, tokenizers, safetensors and PEFT raise errors of any type for a folder that is damaged or made to harm, so
all of them are caught here. Small JSON files of a model folder are also read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import CurateError, ModelError

MAX_JSON = 64 << 20
"""Maximum size of a JSON file of a model folder in bytes; a vocabulary is never read as one of these files."""

COMPLETE = "Check that it is complete, or download it again."


@contextmanager
def loading(what: str, location: str, remedy: str = COMPLETE) -> Iterator[None]:
    """Convert any error to a `ModelError` with the location, the reason and the remedy.

    Errors that are no `Exception` are converted too: the Rust part of tokenizers panics with one, and code that comes
    with a model may call `sys.exit`.

    Args:
        what: word for what is loaded, such as "model".
        location: folder or Hub id.
        remedy: sentence that says what to do.

    Raises:
        ModelError: the body of the `with` statement raised an error.
    """
    try:
        yield
    except (CurateError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise ModelError(f"Cannot load {article(what)} {what} from {location}: {reason_of(error)}. {remedy}") from error


CLASS = re.compile(r"\b(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Warning)\b(?:: *|(?=[('\"]))")
"""The class of an exception, as libraries write it into the message of another one."""


def reason_of(error: BaseException) -> str:
    """Return the reason of an error in one line of at most 300 characters, without control characters.

    The class of the error is not named: `curate --traceback COMMAND` shows it.
    """
    text = CLASS.sub("", " ".join(str(error).split()))
    if isinstance(error, KeyError):
        text = f"there is no {text}"
    elif isinstance(error, RecursionError):
        text = "it is nested too deeply"
    elif isinstance(error, SystemExit):
        text = f"its code tried to end the process with exit code {error.code!r}"
    elif not text:
        text = "there is not enough memory" if isinstance(error, MemoryError) else "the library gives no reason"
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:300])
    return text.rstrip(". ")


def article(what: str) -> str:
    """Return `a` or `an`."""
    return "an" if what[0] in "aeiou" else "a"


def require_regular_files(location: str) -> None:
    """Check that a model folder holds files and folders only: reading a pipe would wait for ever.

    Raises:
        ModelError: the folder holds a pipe, a socket or a device.
    """
    folder = Path(location)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ModelError(f"{path} is a pipe, a socket or a device, and not a file. {COMPLETE}")


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a model folder.

    Raises:
        ModelError: the file is missing, no regular file, too large, or does not hold a JSON object.
    """
    content = _read_json(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object. {COMPLETE}")
    return content


def read_list(path: Path) -> list[Any]:
    """Return the list in a JSON file of a model folder; errors as in `read_object`."""
    content = _read_json(path)
    if not isinstance(content, list):
        raise ModelError(f"{path} does not hold a JSON list. {COMPLETE}")
    return content


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"{path.parent} has no file {path.name}. {COMPLETE}")
    if path.stat().st_size > MAX_JSON:
        raise ModelError(f"{path} has more than {MAX_JSON >> 20} MiB, so it is not what it should be. {COMPLETE}")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{path} is not valid JSON: {reason_of(error)}. {COMPLETE}") from None
