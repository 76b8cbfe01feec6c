"""Pictures by URL, from public addresses alone."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urljoin, urlsplit

from twotower.pairs.fetching.addresses import is_public_address
from twotower.serve.errors import RequestError
from twotower.version import __version__

if TYPE_CHECKING:
    from twotower.serve.settings import ServerSettings

SECONDS = 15.0  # for a picture, with redirects
_REDIRECTS = 5
_CHUNK = 2**16


def download(url: str, settings: ServerSettings) -> bytes:
    """Return the content of a URL.

    The address of each connection is checked, also after redirects, so that no name leads to this
    machine or its network.

    Raises:
        RequestError: 400 for a URL that may not be fetched; 422 if it gives no picture.
    """
    deadline = time.monotonic() + SECONDS
    limit = settings.max_body_mb * 2**20
    for _ in range(_REDIRECTS + 1):
        target = _check_url(url)
        try:
            connection = _connect(target)
            try:
                answer = _request(connection, target)
                if location := _location(answer):
                    url = urljoin(url, location)
                    continue
                return _read(answer, deadline, limit)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise RequestError(422, f"the picture's URL cannot be fetched ({reason})") from error
    raise RequestError(422, f"the picture's URL redirects more than {_REDIRECTS} times")


def _check_url(url: str) -> SplitResult:
    try:
        target = urlsplit(url)
        port = target.port
    except ValueError as error:
        raise RequestError(400, f"the picture's URL is malformed ({error})") from error
    if target.scheme not in ("http", "https") or not target.hostname:
        raise RequestError(400, "the picture's URL is neither http nor https")
    if target.username or target.password or port not in (None, 80, 443):
        raise RequestError(400, "the picture's URL has a password or a port that is not the web's")
    return target


def _connect(target: SplitResult) -> http.client.HTTPConnection:
    host = target.hostname or ""
    if target.scheme == "https":
        return _SecureConnection(host, timeout=SECONDS, context=ssl.create_default_context())
    return _Connection(host, timeout=SECONDS)


def _open_socket(host: str, port: int) -> socket.socket:
    """Connect to a public address of a host. Raises `RequestError` 400 if it has none."""
    for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if is_public_address(str(address[0])):
            return socket.create_connection((str(address[0]), port), timeout=SECONDS)
    raise RequestError(400, "the picture's URL leads to an address that is not public")


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = _open_socket(self.host, self.port)


class _SecureConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]
        plain = _open_socket(self.host, self.port)
        self.sock = context.wrap_socket(plain, server_hostname=self.host)


def _request(
    connection: http.client.HTTPConnection, target: SplitResult
) -> http.client.HTTPResponse:
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    agent = f"twotower/{__version__}"
    connection.request("GET", path, headers={"User-Agent": agent, "Accept": "image/*"})
    return connection.getresponse()


def _location(answer: http.client.HTTPResponse) -> str | None:
    if answer.status in (301, 302, 303, 307, 308):
        return answer.getheader("Location")
    if answer.status != 200:
        raise RequestError(422, f"the picture's URL answers with status {answer.status}")
    return None


def _read(answer: http.client.HTTPResponse, deadline: float, limit: int) -> bytes:
    content = bytearray()
    while chunk := answer.read1(_CHUNK):
        content += chunk
        if len(content) > limit:
            raise RequestError(422, f"the picture's URL gives more than {limit // 2**20} MB")
        if time.monotonic() > deadline:
            raise RequestError(422, f"the picture's URL did not answer within {SECONDS:g} s")
    return bytes(content)
