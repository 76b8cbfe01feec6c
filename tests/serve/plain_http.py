"""Requests of any bytes, as clients of other languages send them."""

import http.client
import json
import socket
import urllib.error
import urllib.request
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit


class Reply(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


def request(
    url: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    method: str | None = None,
) -> Reply:
    """Send a request; without a content type, urllib claims that a body is a form."""
    message = urllib.request.Request(url, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(message, timeout=120) as response:
            return Reply(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.headers, error.read())


def post_json(url: str, content: Any) -> Reply:
    return request(url, json.dumps(content).encode())


def call(
    url: str,
    path: str,
    content: Any = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
    **query: Any,
) -> Reply:
    """Call an endpoint; content that is no bytes is sent as JSON, and makes it a POST."""
    body = content if isinstance(content, bytes | None) else json.dumps(content).encode()
    address = f"{url}{path}" + (f"?{urlencode(query)}" if query else "")
    return request(address, body, headers, method)


def raw_get(url: str, target: str) -> Reply:
    """Send a request target byte for byte, as no well-behaved client would."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        head = f"GET {target} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        return Reply(response.status, response.headers, response.read())


def multipart(
    fields: dict[str, str], files: dict[str, bytes] | None = None
) -> tuple[bytes, dict[str, str]]:
    """Return the body and headers of a form as Node's `FormData` with `Blob`s writes it."""
    boundary = "----formdata-undici-032145987012"
    sections = []
    for name, value in fields.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        sections.append(head.encode() + value.encode() + b"\r\n")
    for name, content in (files or {}).items():
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="blob"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        sections.append(head.encode() + content + b"\r\n")
    sections.append(f"--{boundary}--\r\n".encode())
    return b"".join(sections), {"Content-Type": f"multipart/form-data; boundary={boundary}"}
