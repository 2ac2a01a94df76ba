"""Read rows from JSON: one object per line, an array, an object with a list of them, or objects over several lines.

A line that cannot be read is rejected alone. A file that is one array, or objects that are each printed over several
lines, is read whole.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import IO, Any

from ..errors import DataError
from .detect import detect
from .locations import UTF_16_MARKS, File, same_split, utf_16_error
from .reading import Row
from .strict_json import RepeatedKey, decode, decode_tolerant, has_repeated_key, raw_decode

LONGEST = 1 << 28
"""Maximum bytes of a line of JSON. A longer line is rejected: a small compressed file could fill the memory with it."""
LARGEST = 1 << 32
"""Maximum bytes of a JSON file that is read whole."""
TOO_LONG = f"longer than {LONGEST >> 20} MiB"
TOO_DEEP, REPEATED_KEY = "nested too deeply", "a key comes twice"

HEAD = 1 << 16
"""Bytes of a file that show whether it has one object per line."""


def jsonl_rows(file: File) -> Iterator[Row]:
    """Yield the rows of a file with one object per line; also of a file of this name that is an array or printed."""
    with file.open() as stream:
        head = stream.read(HEAD)
        if head[:2] in UTF_16_MARKS or head[1:2] == b"\0" or head[:1] == b"\0":
            raise utf_16_error(file.name)
        if not _is_printed(head):
            yield from _json_lines(file.name, _Joined(head, stream))
            return
        content = head + stream.read(LARGEST + 1 - len(head))
        if len(content) <= LARGEST:
            rows = _whole(file, content)
            yield from _json_lines(file.name, io.BytesIO(content)) if rows is None else rows
            return
    with file.open() as stream:  # too large for one array
        yield from _json_lines(file.name, stream)


class _Joined:
    """A stream that begins with bytes that were read from it already; it has `readline` alone."""

    def __init__(self, head: bytes, stream: IO[bytes]) -> None:
        self._head, self._stream = io.BytesIO(head), stream

    def readline(self, most: int) -> bytes:
        """Return the next line, of at most `most` bytes."""
        line = self._head.readline(most)
        if len(line) == most or line.endswith(b"\n"):
            return line
        return line + self._stream.readline(most - len(line))


def _is_printed(head: bytes) -> bool:
    """Return whether a file is an array, or objects over several lines: no line of JSONL begins or ends like theirs."""
    lines = [line.strip() for line in head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 20)[:20]]
    lines = [line for line in lines if line]
    if not lines or lines[0][:1] not in (b"[", b"{"):
        return False
    if lines[0][:1] == b"[":
        return len(lines[0]) == 1 or lines[0][1:].lstrip()[:1] in (b"{", b"]")
    return lines[0] == b"{" or (len(lines) > 1 and not lines[0].endswith(b"}") and lines[1][:1] == b'"')


def _whole(file: File, content: bytes) -> list[Row] | None:
    """Return the rows of content that is an array, or several objects after each other; None if it is neither."""
    try:
        text = content.decode("utf-8-sig")
        values, at = [], 0
        while (at := _next(text, at)) < len(text):
            value, at = raw_decode(text, at)
            values.append(value)
    except (ValueError, RecursionError):
        return None
    if len(values) == 1:
        values = _items(file, values[0])
    return [
        Row(file.name, number, None, REPEATED_KEY) if has_repeated_key(value) else _object(file.name, number, value)
        for number, value in enumerate(values, start=1)
    ]


def _next(text: str, at: int) -> int:
    """Return the position of the next character that is no space; a comma between objects is skipped, too."""
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at


def _json_lines(file: str, stream: Any) -> Iterator[Row]:
    for number, line in enumerate(bounded_lines(stream), start=1):
        if line is None:
            yield Row(file, number, None, TOO_LONG)
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            yield Row(file, number, None, "not UTF-8")
            continue
        if not text.strip():
            continue
        try:
            value = decode(text)
        except RepeatedKey:
            yield Row(file, number, None, REPEATED_KEY)
        except RecursionError:
            yield Row(file, number, None, TOO_DEEP)
        except ValueError:
            yield Row(file, number, None, "not JSON")
        else:
            yield _object(file, number, value)


def bounded_lines(stream: Any, most: int = LONGEST) -> Iterator[bytes | None]:
    """Yield lines with their line ends; None for a line longer than `most` bytes, which is skipped."""
    while line := stream.readline(most):
        if len(line) < most or line.endswith(b"\n"):
            yield line
            continue
        while (rest := stream.readline(1 << 20)) and not rest.endswith(b"\n"):
            pass
        yield None


def _object(file: str, number: int, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(file, number, value)
    return Row(file, number, None, "not an object")


def json_rows(file: File) -> Iterator[Row]:
    """Yield the rows of an array of objects, of an object with lists, or (also common) of one object per line."""
    with file.open() as stream:
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise DataError(
            f"{file.name} must be read whole and is larger than {LARGEST >> 30} GiB. Save it with one object per line "
            "(JSONL)."
        )
    if content[:2] in UTF_16_MARKS:
        raise utf_16_error(file.name)
    repeats = False
    try:
        text = content.decode("utf-8-sig")
        try:
            value = decode(text)
        except RepeatedKey:
            value, repeats = decode_tolerant(text), True
    except UnicodeDecodeError:
        raise DataError(f"{file.name} is not UTF-8: save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            raise DataError(
                f"{file.name} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}. Fix it, or save "
                "it with one object per line (JSONL): curate then skips only the broken lines."
            ) from None
        rows = _whole(file, content) if _is_printed(content[:HEAD]) else None
        yield from _json_lines(file.name, io.BytesIO(content)) if rows is None else rows
        return
    except (ValueError, RecursionError) as error:  # a number without end; nested too deeply
        raise DataError(f"{file.name} is not JSON that can be read: {error}.") from None
    for number, item in enumerate(_items(file, value), start=1):
        repeated = repeats and has_repeated_key(item)
        yield Row(file.name, number, None, REPEATED_KEY) if repeated else _object(file.name, number, item)


def _from_columns(value: dict[str, Any]) -> list[Any] | None:
    """Return the rows of a table that is written by columns, as pandas does; None if an object is something else."""
    columns = list(value.values())
    if all(isinstance(column, dict) and column and all(key.isdigit() for key in column) for column in columns):
        numbers = list(dict.fromkeys(key for column in columns for key in column))
        return [{name: column[n] for name, column in value.items() if n in column} for n in numbers]
    if len(columns) < 2 or {"messages", "conversations", "conversation"} & value.keys():
        return None
    if not all(isinstance(column, list) and column for column in columns) or len(set(map(len, columns))) > 1:
        return None
    if any(isinstance(item, dict) for column in columns for item in column):
        return None
    return [dict(zip(value, items, strict=True)) for items in zip(*columns, strict=True)]


def _items(file: File, value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        if (rows := _from_columns(value)) is not None:
            return rows
        try:
            detect([value], {}, file.name)
            return [value]
        except DataError:
            lists = {key: inner for key, inner in value.items() if isinstance(inner, list)}
            if len(lists) == 1:
                return next(iter(lists.values()))
            chosen = [inner for key, inner in lists.items() if file.split and same_split(key, file.split)]
            if chosen or (lists and file.split == "all"):
                return [item for inner in (lists.values() if file.split == "all" else chosen) for item in inner]
            if lists:
                raise DataError(
                    f"{file.name} has the lists {', '.join(lists)}, and none is called '{file.split}': give --split."
                ) from None
    raise DataError(
        f"{file.name} must contain an array of objects, an object with one list of them, or one object per line."
    )
