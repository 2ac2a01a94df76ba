"""Columns that a user's file of scores adds to the table `features`: each is a key of the map `scores`.

The tables of the catalogue have the columns of this version only, so a name of a user's is no column there. The view of
the table shows each name as a column. An artifact lists its names in its summary under `SCORES`. A store may come from
another person, so a name that could not have been given is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .objects import schema_columns
from .sql import quote

if TYPE_CHECKING:
    from ..artifacts.artifact import Artifact

SCORES = "scores"
"""Key of the summary with the names."""
SCORE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,59}")
"""Names that a column of scores may have."""
MOST = 100
"""Maximum number of names that one artifact may add."""


def taken_names() -> frozenset[str]:
    """Return the names, in small letters, that no column of scores may have: those of the table `features`."""
    return frozenset(column for table, column, _ in schema_columns() if table == "features") | {"features"}


def score_names(artifacts: Iterable[Artifact]) -> list[str]:
    """Return the names that artifacts add, in order; of names that differ in case only the first."""
    found: dict[str, str] = {}
    for artifact in artifacts:
        names = artifact.summary.get(SCORES)
        for name in names[:MOST] if isinstance(names, list) else ():
            if isinstance(name, str) and SCORE_NAME.fullmatch(name) and name.lower() not in taken_names():
                found.setdefault(name.lower(), name)
    return list(found.values())


def score_columns(names: Sequence[str]) -> str:
    """Return the columns of the view of `features` for these names, each with a comma before it."""
    return "".join(f', r.scores[{quote(name)}] AS "{name}"' for name in names)
