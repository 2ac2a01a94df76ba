"""Completions for the shell: names in the store, saved questions and pipelines.

The shell calls this code at every press of Tab. So it reads only file names and small JSON files, never the catalogue.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import typer

from ..runtime import bundled
from ..runtime.terminal import PLAIN_WORD


def artifacts(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the artifacts in the store. The `--store` that is already typed counts."""
    return _starting_with(incomplete, (file.stem for file in (_root(context) / "names").glob("*.json")))


def unfinished(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the unfinished artifacts in the store."""
    import json

    names = []
    for file in (_root(context) / "artifacts").glob("*/*/draft.json"):
        with suppress(OSError, ValueError, AttributeError, RecursionError):  # a damaged draft is not completed
            names.append(str(json.loads(file.read_text(encoding="utf-8")).get("name")))
    return _starting_with(incomplete, names)


def questions(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the saved questions."""
    own = (file.stem for file in (_root(context) / "queries").glob("*.sql"))
    return _starting_with(incomplete, [*bundled.names("queries"), *own])


def pipelines(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the pipelines that come with curate. The shell itself completes paths of files."""
    return _starting_with(incomplete, bundled.names("pipelines"))


def _root(context: typer.Context) -> Path:
    return Path(context.params.get("store") or os.environ.get("CURATE_STORE") or "store")


def _starting_with(prefix: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(prefix) and PLAIN_WORD.fullmatch(name)})
