"""Requests of any bytes, as clients of other languages send them."""

import json
import urllib.error
import urllib.request
from typing import Any, NamedTuple


class Reply(NamedTuple):
    status: int
    headers: Any
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
        with urllib.request.urlopen(message, timeout=60) as response:
            return Reply(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.headers, error.read())


def post_json(url: str, content: Any) -> Reply:
    return request(url, json.dumps(content).encode())


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
