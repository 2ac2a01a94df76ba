"""Chat templates that are given by name or by file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ...errors import ModelError

TEMPLATES = ("chatml", "plain", "thinking")
"""Chat templates that curate contains, for tokenizers that have none."""


def template_text(name: str) -> str:
    """Return a chat template: `chatml`, `plain`, `thinking`, or the content of a Jinja file.

    Raises:
        ModelError: there is no such file, or it cannot be read as text.
    """
    if name in TEMPLATES:
        return files("curate.lm").joinpath(f"templates/{name}.jinja").read_text(encoding="utf-8")
    path = Path(name).expanduser()
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"The chat template {name} cannot be read: {error}. Give a Jinja file in UTF-8.") from None
    raise ModelError(f"There is no chat template '{name}'. Give {', '.join(TEMPLATES)} or a Jinja file.")
