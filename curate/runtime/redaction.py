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
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
USER = re.compile(r"^(?P<scheme>[^:]+://)(?P<user>[^/?#]*)@")
SECRET = re.compile(r"([?&#;][^=&#;]*(?:token|key|secret|sig|passw|pwd|auth|cred)[^=&#;]*=)[^&#;]+", re.IGNORECASE)
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
"""Token of the Hugging Face Hub, anywhere in a text."""
VARIABLES = re.compile(r"TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY")
"""Names of environment variables whose values are never shown."""
SHORTEST = 8
"""Minimum characters of such a value; a shorter value may be an ordinary word."""


def redacted(text: str) -> str:
    """Return text without the secrets in its URLs and without those of the environment."""
    if "://" in text:
        text = URL.sub(lambda found: _url(found[0]), text)
    text = TOKEN.sub(HIDDEN, text)
    for name, value in os.environ.items():
        if VARIABLES.search(name) and len(value) >= SHORTEST and value in text:
            text = text.replace(value, HIDDEN)
    return text


def redact(value: Any) -> Any:
    """Return a JSON value with all its texts redacted."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {key: redact(item) for key, item in value.items()}
    return [redact(item) for item in value] if isinstance(value, (list, tuple)) else value


def _url(url: str) -> str:
    """Return a URL without password and tokens. In some schemes (abfss://) the text before @ names a container."""
    user = USER.match(url)
    if user and (":" in user["user"] or user["scheme"].lower() in ("http://", "https://")):
        url = f"{user['scheme']}{HIDDEN}@{url[user.end() :]}"
    return SECRET.sub(rf"\g<1>{HIDDEN}", url)
