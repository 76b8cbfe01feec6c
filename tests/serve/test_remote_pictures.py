"""URLs in requests: nothing but public addresses is reached."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from twotower.pairs.fetching.addresses import is_public_address
from twotower.serve import remote_pictures
from twotower.serve.errors import RequestError
from twotower.serve.remote_pictures import download
from twotower.serve.settings import ServerSettings

SETTINGS = ServerSettings(fetch_urls=True, max_body_mb=1)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert is_public_address(address)


@pytest.mark.parametrize(
    "address",
    "127.0.0.1 127.9.9.9 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 0.0.0.0 100.64.0.1 "
    "224.0.0.1 255.255.255.255 ::1 :: fe80::1 fe80::1%eth0 fc00::1 ::ffff:127.0.0.1 "
    "::ffff:169.254.169.254 64:ff9b::7f00:1 2002:7f00:1:: ff02::1 192.0.2.1".split(),
)
def test_other_addresses(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.jpg",
        "http://localhost/a.jpg",
        "http://[::1]/a.jpg",
        "http://2130706433/a.jpg",
        "http://0x7f.1/a.jpg",
        "http://user:secret@example.org/a.jpg",
        "http://example.org:22/a.jpg",
        "ftp://example.org/a.jpg",
        "file:///etc/passwd",
        "http:///a.jpg",
        "http://[::1/a.jpg",
    ],
)
def test_a_url_that_may_not_be_fetched(url: str) -> None:
    with pytest.raises(RequestError) as caught:
        download(url, SETTINGS)
    assert caught.value.status in (400, 422)
    assert "secret" not in caught.value.message


class Answers(BaseHTTPRequestHandler):
    """Pictures, redirects and floods."""

    def do_GET(self) -> None:
        if self.path == "/redirect-inside":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/secret")
            self.end_headers()
        elif self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
        elif self.path == "/flood":
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(64):
                    self.wfile.write(bytes(2**16))
            except OSError:
                pass
        else:
            exists = self.path == "/picture"
            self.send_response(200 if exists else 404)
            self.end_headers()
            self.wfile.write(b"picture" if exists else b"")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A name that leads to a server here, as if its address were public."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connect = socket.create_connection

    def redirect(address: tuple[str, int], *arguments: Any, **options: Any) -> socket.socket:
        assert address[0] == "8.8.8.8"  # the address that was checked, not a second lookup
        return connect(server.server_address[:2], *arguments, **options)  # type: ignore[arg-type]

    def resolve(name: str, port: int, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        address = "8.8.8.8" if name == "pictures.example" else name
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(remote_pictures.socket, "create_connection", redirect)
    monkeypatch.setattr(remote_pictures.socket, "getaddrinfo", resolve)
    yield "http://pictures.example"
    server.shutdown()
    server.server_close()


def test_a_picture_is_downloaded(host: str) -> None:
    assert download(f"{host}/picture", SETTINGS) == b"picture"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "status 404"),
        ("redirect-inside", "a port that is not the web's"),
        ("loop", "redirects more than"),
        ("flood", "more than 1 MB"),
    ],
)
def test_an_answer_that_is_refused(host: str, path: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        download(f"{host}/{path}", SETTINGS)


def test_a_redirect_to_a_private_address_is_refused(host: str) -> None:
    with pytest.raises(RequestError, match="not public"):
        remote_pictures._open_socket("10.1.2.3", 80)
