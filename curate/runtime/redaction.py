"""Remove secrets from text: passwords and tokens in URLs, and secret values of environment variables.

Configs are stored, copied into dataset cards and printed, and drivers put whole URLs into their messages. Redact all
text that is stored, logged or printed. Do not redact a URL that is to be opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+[^\s'\"<>]+")
"""A URL. `Path` turns its `//` into `/`, so one slash is enough."""
USER = re.compile(r"^(?P<scheme>[^:]+:/+)(?P<user>[^/?#]*)@")
SECRET = re.compile(
    r"([?&#;](?:code|[^=&#;]*(?:token|key|secret|sig|passw|pwd|auth|cred|session|jwt)[^=&#;]*)=)[^&#;\s'\"<>]+",
    re.IGNORECASE,
)
"""Parameter of a URL whose name says that its value is secret."""
LOGIN = re.compile(r"(?<![\w/@:.-])[^\s:/@'\"=,(\[{]+:[^\s/'\"]+@(?=[A-Za-z0-9.-])")
"""`user:password@` in front of a host, without a scheme."""
SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{8,}"  # Hugging Face
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # Amazon
    r"|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|sk-(?=[\w-]{0,250}?\d)(?=[\w-]{0,250}?[A-Za-z])[\w-]{16,}"  # OpenAI, Anthropic
    r"|xox[abeprs]-[\w-]{10,}|AIza[\w-]{30,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{40,}"
    r"|eyJ[\w-]{8,2000}+\.[\w-]{8,}+\.[\w-]+"  # JSON web token
    r"|(?<=Bearer )[\w.~+/=-]{12,})"
)
"""Secrets that are known by their shape, anywhere in a text. Bounds keep the time linear in the length of any text."""
RANDOM_PART = re.compile(
    r"(?<=/)[\w-]*(?=[A-Za-z0-9]{20})(?=[A-Za-z0-9]{0,40}[0-9])(?=[A-Za-z0-9]{0,40}[a-z])(?=[A-Za-z0-9]{0,40}[A-Z])"
    r"[A-Za-z0-9]{20,}[\w-]*"
)
"""Part of a URL's path that looks drawn at random: 20 or more small and large letters and digits (webhooks, shares)."""
VARIABLES = re.compile(r"TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY")
"""Names of environment variables whose values are never shown."""
SHORTEST = 8
"""Minimum characters of such a value; a shorter value may be an ordinary word."""


def redacted(text: str) -> str:
    """Return text without the secrets in its URLs, those of known shapes and those of the environment."""
    if ":/" in text:
        text = URL.sub(lambda found: _url(found[0]), text)
    if "@" in text:
        text = LOGIN.sub(f"{HIDDEN}@", text)
    text = SHAPES.sub(HIDDEN, text)
    for name, value in os.environ.items():
        if VARIABLES.search(name) and len(value) >= SHORTEST and value in text:
            text = text.replace(value, HIDDEN)
    return text


def redact(value: Any) -> Any:
    """Return a JSON value with all its texts redacted."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {redact(key): redact(item) for key, item in value.items()}
    return [redact(item) for item in value] if isinstance(value, (list, tuple)) else value


def _url(url: str) -> str:
    """Return a URL without password and tokens. In some schemes (abfss://) the text before @ names a container."""
    user = USER.match(url)
    if user and (":" in user["user"] or user["scheme"].lower().rstrip("/") in ("http:", "https:")):
        url = f"{user['scheme']}{HIDDEN}@{url[user.end() :]}"
    path, mark, parameters = re.split(r"([?#]|$)", url, maxsplit=1)
    if not path.lower().startswith("file:"):
        path = RANDOM_PART.sub(HIDDEN, path)
    return SECRET.sub(rf"\g<1>{HIDDEN}", path + mark + parameters)
