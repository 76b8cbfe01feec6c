"""Calls of a server over HTTP."""

import http.client
import json
import socket
import urllib.error
import urllib.request
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def call(
    url: str,
    path: str,
    content: Any = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
    **query: Any,
) -> Answer:
    """Call an endpoint; content that is no bytes is sent as JSON, and makes it a POST."""
    body = content if isinstance(content, bytes | None) else json.dumps(content).encode()
    address = f"{url}{path}" + (f"?{urlencode(query)}" if query else "")
    request = urllib.request.Request(address, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return Answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers, error.read())


def raw_get(url: str, target: str) -> Answer:
    """Send a request target byte for byte, as no well-behaved client would."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        head = f"GET {target} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        return Answer(response.status, response.headers, response.read())


__all__ = ["Answer", "call", "quote", "raw_get"]
