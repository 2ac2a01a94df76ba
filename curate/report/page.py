"""A report as a file: one page with everything in it, that opens from disk and asks no network.

What pools say is in it as JSON that no `<` can end, and the app sets it as text. Should something become markup all the
same, it cannot run: a policy in the page allows the scripts by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..store.artifacts.files import clear_abandoned, write_text

SLOT = re.compile(r"@@(csp|title|style|library|app|data)@@")
LIBRARY = "d3.min.js"
UNSAFE = re.compile("[<\u2028\u2029\ud800-\udfff]")
"""What would end a script element or a line of it, and what is half a character and no UTF-8."""


def refuse_others(target: Path, *, overwrite: bool) -> None:
    """Raise unless the page may be written there."""
    if target.is_dir():
        raise DataError(f"{target} is a folder. Give --to the name of a file, such as {target / 'report.html'}.")
    if target.exists() and not overwrite:
        raise DataError(f"{target} is there and is left alone. Give another --to, or --overwrite to replace it.")


def write(target: Path, content: Mapping[str, Any]) -> int:
    """Write the page, atomically, and say how many bytes it has."""
    text = page(content)
    clear_abandoned(target)
    write_text(target, text)
    return len(text.encode())


def page(content: Mapping[str, Any]) -> str:
    """The page: the template with title, policy, style, scripts and data put in."""
    assets = files(__package__).joinpath("assets")
    texts = {file.name: file.read_text(encoding="utf-8") for file in assets.iterdir() if file.is_file()}
    style, library = texts["style.css"], texts[LIBRARY]
    app = "\n".join(texts[name] for name in sorted(texts) if name.startswith("app"))
    parts = {
        "csp": policy([library, app], style),
        "title": html.escape(str(content["title"]).encode("utf-8", "replace").decode()),
        "style": style,
        "library": library,
        "app": app,
        "data": as_json(content),
    }
    return SLOT.sub(lambda slot: parts[slot[1]], texts["template.html"])  # in one go: what is put in is not looked at


def as_json(content: Mapping[str, Any]) -> str:
    """JSON that can stand in a script element: nothing in it ends one, or begins a comment."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def policy(scripts: Sequence[str], style: str) -> str:
    """The page's Content-Security-Policy: these scripts, this style, pictures in the page; no network, and no text
    becomes markup.
    """
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(_source(text) for text in scripts),
        "style-src": _source(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{what} {allowed}" for what, allowed in rules.items())


def _source(text: str) -> str:
    """What allows an inline script or style: the hash of its text, as a browser reads it from the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
