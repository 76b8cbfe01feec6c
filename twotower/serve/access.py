"""Who may call the server: API keys, sessions of browsers, hosts and origins."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response

from twotower.serve.errors import RequestError, plain_error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from twotower.serve.settings import ServerSettings

SESSION_COOKIE = "twotower_session"
_MAX_SESSIONS = 1000

# Scripts, styles and pictures come from the server alone; nothing may frame its pages.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; font-src 'self'; manifest-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Access:
    """The API key of a server, and the browsers that have shown it."""

    def __init__(self, api_key: str | None) -> None:
        self._key = api_key.encode() if api_key else None
        self._sessions: dict[str, None] = {}  # in the order of their opening

    @property
    def needs_key(self) -> bool:
        """True if requests without a key are refused."""
        return self._key is not None

    def require(self, connection: HTTPConnection) -> None:
        """Check the key of a request, in constant time.

        Raises:
            RequestError: 401, the key is missing or wrong.
        """
        if self._key is None or connection.cookies.get(SESSION_COOKIE) in self._sessions:
            return
        if not self.is_key(_key_of(connection.headers)):
            raise RequestError(
                401,
                "the API key is missing or wrong; send Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def is_key(self, key: str) -> bool:
        """Return True for the API key."""
        return self._key is not None and hmac.compare_digest(key.encode(), self._key)

    def open_session(self) -> str:
        """Return a new value of the session cookie, for a browser that has shown the key."""
        while len(self._sessions) >= _MAX_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))
        session = secrets.token_urlsafe(32)
        self._sessions[session] = None
        return session


def _key_of(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return headers.get("x-api-key", "")


class HostCheck:
    """Middleware that refuses other hosts (DNS rebinding) and requests of other sites' pages."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._hosts = {"localhost", settings.host.lower(), socket.gethostname().lower()}
        self._hosts |= {name.lower() for name in settings.allowed_hosts}
        self._origins = set(settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 421 or 403."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        refusal = None
        if not self._is_allowed(host):
            refusal = RequestError(
                421, f"the host {host!r} is not served here; allow it with --allow-host"
            )
        elif not self._is_same_site(headers.get("origin"), host):
            refusal = RequestError(
                403, "pages of other origins are refused; allow this one with --cors-origin"
            )
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await plain_error(refusal)(scope, receive, send)

    def _is_allowed(self, host: str) -> bool:
        name = _host_name(host)
        # an attacker's page is reached by a name, so an address cannot be a rebound name
        return bool(name) and (name in self._hosts or _is_address(name))

    def _is_same_site(self, origin: str | None, host: str) -> bool:
        if origin is None or "*" in self._origins or origin in self._origins:
            return True
        return urlsplit(origin).netloc.lower() == host.lower()


def _host_name(host: str) -> str:
    """Return the name or address in a `Host` header, without its port; empty if malformed."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class SecurityHeaders:
    """Middleware that adds `SECURITY_HEADERS` to every response."""

    def __init__(self, app: ASGIApp, headers: Iterable[tuple[str, str]]) -> None:
        self._app, self._headers = app, tuple(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; headers that its response has already stay."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers:
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class RequireKey:
    """Middleware of mounted applications, which have no endpoints: requires the API key."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 401."""
        if scope["type"] == "http":
            try:
                self._access.require(HTTPConnection(scope))
            except RequestError as error:
                response: Response = plain_error(error)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)
