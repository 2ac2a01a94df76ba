"""Find the SQL of a query: a statement, a file, or a saved question of a store or of curate."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...errors import QueryError, did_you_mean
from ...runtime import bundled

MOST_SQL = 1_000_000
"""Largest size of a SQL text, in bytes."""
LONGEST_PATH = 4096
"""Length in characters from which an argument is not looked up as a file."""


@dataclass(frozen=True)
class Question:
    """A saved question.

    Attributes:
        name: the name that a query takes.
        asks: the question in words: the comment in its first line.
        sql: its SQL.
    """

    name: str
    asks: str
    sql: str


def questions(root: Path) -> list[Question]:
    """Return the saved questions that the store in this folder can ask, by name."""
    texts = {name: _content(path).decode("utf-8", "replace") for name, path in saved(root).items()}
    return [Question(name, about(sql), sql) for name, sql in texts.items()]


def find(text: str, root: Path) -> str:
    """Return the SQL for an argument: the content of stdin (`-`), a file or a saved question, else the text itself.

    Raises:
        QueryError: the text is a single name, but there is no such file and no such saved question.
    """
    if text == "-":
        return _decoded(sys.stdin.buffer, "The SQL on stdin")
    if not re.fullmatch(r"[\w./\\~-]+", text):
        return text
    path = Path(text).expanduser()
    known = saved(root)
    if len(text) >= LONGEST_PATH or not path.is_file():
        if path.name.removesuffix(".sql") not in known:
            raise QueryError(f"There is no file and no saved question '{text}'.{did_you_mean(text, known)}")
        path = known[path.name.removesuffix(".sql")]
    return _decoded(io.BytesIO(_content(path)), str(path))


def _content(file: Path) -> bytes:
    """Return the first bytes of a saved question, which may lie in a received store."""
    from ...store.artifacts.safe_files import open_to_read

    with open_to_read(file) as opened:
        return opened.read(MOST_SQL + 1)


def _decoded(file: BinaryIO, name: str) -> str:
    content = file.read(MOST_SQL + 1)
    if len(content) > MOST_SQL:
        raise QueryError(
            f"{name} is longer than {MOST_SQL // 10**6} MB, which is the limit for SQL. Give a shorter query."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise QueryError(f"{name} is not UTF-8. Save it as UTF-8.") from None


def saved(root: Path) -> dict[str, Path]:
    """Return the files of the saved questions by name. The store comes before ./store, and that before curate's own.

    Raises:
        StoreError: the folder of a store's questions is a link.
    """
    from ...store.artifacts.path_checks import require_folder

    folders = [folder for folder in (bundled.folder("queries"), Path("store/queries"), root / "queries") if folder]
    paths = [path for folder in folders for path in require_folder(folder).glob("*.sql")]
    return {path.stem: path for path in sorted(paths, key=lambda path: path.stem)}


def about(sql: str) -> str:
    """Return the comment in the first line of a SQL text, or an empty text."""
    first = sql.lstrip().split("\n", 1)[0]
    return first.lstrip("- ").strip() if first.startswith("--") else ""
