"""Hooks of hatchling: put the documentation site into wheels, and write the description that a package index shows."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

SITE = "site"
"""Folder of the built documentation; mkdocs.yml names it, too."""
HOMES = {"wheel": "curate/_shipped/docs", "sdist": SITE}
"""Target -> where it has the documentation. A wheel is built from a source distribution, so both have it."""
BASE = "CURATE_README_BASE"
"""Environment variable with the address of the released files, which ends with a slash."""
LINK = re.compile(r"(!?)\[([^\]\n]*)\]\((?!https?:|#)([^)\s]+)\)")


class SiteHook(BuildHookInterface[Any]):
    """Adds `site/` where it is built. It is ignored by git, and an installation in place reads it where it is."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files to add: hatchling calls this before each build; `version` is `editable` for one in place."""
        site = Path(self.root, SITE)
        if version != "editable" and (site / "index.html").is_file():
            build_data["force_include"][str(site)] = HOMES[self.target_name]


class DescriptionHook(MetadataHookInterface):
    """Writes the description: README.md with addresses that work outside the repository."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the description to the metadata."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": description(text, os.environ.get(BASE, ""))}


def description(readme: str, base: str) -> str:
    """Return a README for a package index, which knows no files beside it.

    Args:
        readme: the README, with paths in the repository.
        base: address that the paths are relative to; relative links become absolute. If it is empty, lines that are a
            picture are left out, since they would be shown as broken.
    """
    if base:
        return LINK.sub(lambda found: f"{found[1]}[{found[2]}]({base}{found[3]})", readme)
    lines = [line for line in readme.splitlines(keepends=True) if not (LINK.fullmatch(line.strip()) and line[0] == "!")]
    return re.sub(r"\n{3,}", "\n\n", "".join(lines))
