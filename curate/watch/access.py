"""Access to the page: for the user who knows its address, from this machine, and no page of another site.

The address holds a random token. A page of another site cannot read it, and cannot reach the server under a name of its
own (DNS rebinding), because the name in `Host` must be that of this machine. Only GET is answered. No response allows
another origin to read it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

HOST = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?")
"""Names under which the server answers. The port may be another one: ssh forwards ports."""

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every response."""


def new_token() -> str:
    """Return a random token of 256 bits for an address."""
    return secrets.token_urlsafe(32)


def is_token(given: str, token: str) -> bool:
    """Compare two tokens in a time that does not depend on where they differ."""
    return secrets.compare_digest(given.encode("utf-8", "replace"), token.encode())


def refusal(headers: Mapping[str, str]) -> tuple[int, str] | None:
    """Return status and text for a request that is refused because of its headers; None if it may be answered."""
    host = headers.get("host", "")
    if not HOST.fullmatch(host):
        return 421, "This server answers to 127.0.0.1 and localhost only."
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return 403, "This server answers no page of another site."
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return 403, "This server answers no page of another site. Open the address itself."
    return None


class Guard:
    """An ASGI application that refuses what `refusal` refuses, and gives every response the same headers.

    Args:
        app: the application behind it.
        headers: further headers of every response.
    """

    def __init__(self, app: Any, headers: Mapping[str, str]) -> None:
        self.app = app
        self.headers = [(name.lower().encode(), value.encode()) for name, value in {**HEADERS, **headers}.items()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        given = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = refusal(given)
        if refused is None and scope["method"] != "GET":
            refused = 405, "This server answers GET only."

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in self.headers}
                kept = [(name, value) for name, value in message.get("headers", []) if name.lower() not in own]
                message = {**message, "headers": [*kept, *self.headers]}
            await send(message)

        if refused is None:
            await self.app(scope, receive, send_guarded)
            return
        status, text = refused
        body = text.encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send_guarded({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
