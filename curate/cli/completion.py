"""What the shell may complete: names in the store, saved questions, pipelines. Only file names are read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import typer

from ..runtime import bundled


def artifacts(context: typer.Context, incomplete: str) -> list[str]:
    """Names of what is in the store that the command line means so far."""
    return _beginning(incomplete, (file.stem for file in (_root(context) / "names").glob("*.json")))


def unfinished(context: typer.Context, incomplete: str) -> list[str]:
    """Names of what was begun."""
    import json

    drafts = (_root(context) / "artifacts").glob("*/*/draft.json")
    return _beginning(incomplete, (str(json.loads(file.read_text(encoding="utf-8")).get("name")) for file in drafts))


def questions(context: typer.Context, incomplete: str) -> list[str]:
    """Names of saved questions."""
    own = (file.stem for file in (_root(context) / "queries").glob("*.sql"))
    return _beginning(incomplete, [*bundled.names("queries"), *own])


def pipelines(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the pipelines that come with curate; with a slash in it, files are the shell's to complete."""
    return _beginning(incomplete, bundled.names("pipelines"))


def _root(context: typer.Context) -> Path:
    return Path(context.params.get("store") or os.environ.get("CURATE_STORE") or "store")


def _beginning(text: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(text)})
