"""What a browser must not be talked into: other names, other origins, other content.

A page on localhost is reached by every web site the user opens, through his own browser. A site
may post to it (so requests that change something must come from the page itself), and may point
its own name at 127.0.0.1 (DNS rebinding, so the Host header must be one that we know).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(self)",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
_FORM_BYTES = 1 << 16  # around the file in a form
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def known_names(host: str, more: Iterable[str] = ()) -> set[str]:
    """Names under which the page may be asked for, besides addresses where it listens to more:
    ``host``, what the server is bound to, and those that the user allows.
    """
    return _LOOPBACK | {host.lower()} | {name.lower() for name in more}


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuses requests by their Host, Origin and size, and adds headers to every answer.

    Args:
        any_address: Whether a numeric address is allowed as a host too: a rebinding site comes by
            its name.
    """

    def __init__(self, app: ASGIApp, *, names: set[str], any_address: bool, max_bytes: int) -> None:
        self._app, self._names, self._any_address = app, names, any_address
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if refusal is None:
            await self._app(scope, self._counted(receive), _with_headers(send))
            return
        status, cause, message = refusal
        # What is left of the body is not read.
        answer = JSONResponse(
            {"error": {"cause": cause, "message": message}}, status, {"connection": "close"}
        )
        await answer(scope, receive, _with_headers(send))

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str, str] | None:
        """Status, cause and message of a request that goes no further."""
        host = headers.get("host", "")
        name = (urlsplit(f"//{host}").hostname or "") if _is_host(host) else ""
        if name not in self._names and not (self._any_address and _is_address(name)):
            message = f"host {host!r} is not a name of this page (--allowed_hosts allows it)"
            return 421, "host", message
        if method not in ("GET", "HEAD"):
            origin = headers.get("origin")
            foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
            # Browsers that send no Origin say so here.
            site = headers.get("sec-fetch-site", "same-origin")
            if foreign or site not in ("same-origin", "none"):
                return 403, "origin", "requests from other web sites are refused"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._max_bytes + _FORM_BYTES:
            return 413, "too-large", self._too_large()
        return None

    def _counted(self, receive: Receive) -> Receive:
        """A body that says no length is stopped where it grows too long."""
        so_far = 0

        async def counted() -> Message:
            nonlocal so_far
            message = await receive()
            so_far += len(message.get("body", b""))
            if so_far > self._max_bytes + _FORM_BYTES:
                raise HTTPException(413, {"cause": "too-large", "message": self._too_large()})
            return message

        return counted

    def _too_large(self) -> str:
        return f"the recording is larger than {self._max_bytes / 1e6:g} MB, the limit of this page"


def _with_headers(send: Send) -> Send:
    """Every answer carries the headers above."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return sent


def _is_host(text: str) -> bool:
    """Whether a Host header has the form of one."""
    try:
        parts = urlsplit(f"//{text}")
        return parts.netloc == text and parts.port != 0 and "@" not in text
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    """Whether a host is a numeric address."""
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False
