"""What must not be written down: passwords and tokens in URLs, and the tokens that the environment holds.

Configs are stored, copied into cards and printed, and drivers put whole URLs into their messages. What is stored,
logged or printed goes through here; a URL that is to be opened does not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
USER = re.compile(r"^(?P<scheme>[^:]+://)(?P<user>[^/?#]*)@")
SECRET = re.compile(r"([?&#;][^=&#;]*(?:token|key|secret|sig|passw|pwd|auth|cred)[^=&#;]*=)[^&#;]+", re.IGNORECASE)
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
"""A token of the Hub, wherever it stands."""
VARIABLES = re.compile(r"TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY")
"""Environment variables whose values are never said."""
SHORTEST = 8
"""Characters of such a value; what is shorter may be any word."""


def redacted(text: str) -> str:
    """Text without the secrets in its URLs, and without those of the environment."""
    if "://" in text:
        text = URL.sub(lambda found: _url(found[0]), text)
    text = TOKEN.sub(HIDDEN, text)
    for name, value in os.environ.items():
        if VARIABLES.search(name) and len(value) >= SHORTEST and value in text:
            text = text.replace(value, HIDDEN)
    return text


def redact(value: Any) -> Any:
    """The same of a value of JSON, in all of its texts."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {key: redact(item) for key, item in value.items()}
    return [redact(item) for item in value] if isinstance(value, (list, tuple)) else value


def _url(url: str) -> str:
    """A URL without password and tokens. What stands before an @ alone is a container in some schemes (abfss://)."""
    user = USER.match(url)
    if user and (":" in user["user"] or user["scheme"].lower() in ("http://", "https://")):
        url = f"{user['scheme']}{HIDDEN}@{url[user.end() :]}"
    return SECRET.sub(rf"\g<1>{HIDDEN}", url)
