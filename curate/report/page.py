"""The report as a file: one HTML page with all data in it, which opens from disk and uses no network.

The page holds the text of the pool as JSON with every `<` escaped, and the app inserts it as text. If some text became
markup anyway, it could not run: the Content-Security-Policy of the page allows only its own scripts, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

SLOT = re.compile(r"@@(csp|title|style|library|app|data)@@")
LIBRARY = "d3.min.js"
UNSAFE = re.compile("[<\u2028\u2029\ud800-\udfff]")
"""Characters that could end a script element or a line of it, and lone surrogates, which UTF-8 cannot encode."""


def page(content: Mapping[str, Any], *, live: bool = False) -> str:
    """Return the page: the template with its title, policy, style, scripts and data.

    Args:
        content: the data.
        live: allow the page to read further data from its own server, for `curate watch`.
    """
    assets = files(__package__).joinpath("assets")
    texts = {file.name: file.read_text(encoding="utf-8") for file in assets.iterdir() if file.is_file()}
    style, library = texts["style.css"], texts[LIBRARY]
    app = "\n".join(texts[name] for name in sorted(texts) if name.startswith("app"))
    parts = {
        "csp": policy([library, app], style, live=live),
        "title": html.escape(str(content["title"]).encode("utf-8", "replace").decode()),
        "style": style,
        "library": library,
        "app": app,
        "data": as_json(content),
    }
    return SLOT.sub(
        lambda slot: parts[slot[1]], texts["template.html"]
    )  # in one pass, so that inserted text is not searched


def as_json(content: Mapping[str, Any]) -> str:
    """Return JSON that is safe in a script element: nothing in it ends the element or starts a comment."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def policy(scripts: Sequence[str], style: str, *, live: bool = False) -> str:
    """Return the Content-Security-Policy of the page.

    It allows these scripts, this style and embedded images. It forbids any network access, and any text as markup. A
    live page may also read from its own origin.
    """
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(_source(text) for text in scripts),
        "style-src": _source(style),
        "img-src": "data:",
        **({"connect-src": "'self'"} if live else {}),
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{directive} {allowed}" for directive, allowed in rules.items())


def _source(text: str) -> str:
    """Return the policy source of an inline script or style: the hash of its text, as a browser reads it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
