"""A small web on loopback: hosts with rules, good pictures, and every fault of the real one.

Hosts are names that `WebInABox.resolve` knows, or addresses 127.0.0.x, which need no resolver.
All have the same paths (`ROUTES`); `WebInABox.documents` adds documents to a host.
"""

import asyncio
import functools
import gzip
import io
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlencode

import numpy as np
import PIL.Image
from aiohttp import web

JPEG = {"Content-Type": "image/jpeg"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Request:
    """A request that the box has answered: host without port, path with query, and headers."""

    host: str
    path: str
    time: float
    headers: dict[str, str]


@dataclass
class Document:
    """A document of a host, sent in chunks without a length if `chunked`."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    chunked: bool = False


class WebInABox:
    """The web, served by a thread while the context manager is open.

    Attributes:
        documents: (host, path) -> document, such as `("a.test", "/robots.txt")`.
        addresses: the addresses of hosts, by default 127.0.0.1.
        requests: in their order.
    """

    def __init__(self) -> None:
        self.documents: dict[tuple[str, str], Document] = {}
        self.addresses: dict[str, list[str]] = {}
        self.requests: list[Request] = []
        self.visits: Counter[str] = Counter()  # of host and path
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def url(self, host: str, path: str, **query: object) -> str:
        return f"http://{host}:{self.port}{path}" + (f"?{urlencode(query)}" if query else "")

    def add(self, host: str, path: str, text: str = "", status: int = 200, **headers: str) -> None:
        """Add a document to a host."""
        self.documents[host, path] = Document(text.encode(), status, headers)

    async def resolve(self, host: str, port: int) -> list[str]:
        if host == "missing.test":
            raise OSError("no such host")
        return self.addresses.get(host, ["127.0.0.1"])

    def paths(self, host: str) -> list[str]:
        """Return the paths requested from a host, but for those of rules."""
        rules = ("/robots.txt", "/.well-known/tdmrep.json")
        return [
            request.path
            for request in self.requests
            if request.host == host and request.path not in rules
        ]

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _start(self) -> None:
        server = web.Server(self._answer, access_log=None)
        runner = web.ServerRunner(server)
        await runner.setup()
        site = web.TCPSite(runner, "0.0.0.0", 0)
        await site.start()
        self.port = runner.addresses[0][1]

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        host = (request.host or "").rpartition(":")[0]
        path = request.path_qs
        self.requests.append(Request(host, path, time.monotonic(), dict(request.headers)))
        self.visits[host + path] += 1
        document = self.documents.get((host, request.path))
        if document is not None:
            response = web.Response(
                body=document.body, status=document.status, headers=document.headers
            )
            if document.chunked:
                response.enable_chunked_encoding()
            return response
        name = request.path.split("/")[1]
        handler: Any = ROUTES.get(name)
        if handler is None:
            return web.Response(status=404, text="no such page")
        return await handler(self, host, request)


def jpeg(seed: int = 0, size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    """Return a JPEG of smooth random colours."""
    return encode(seed, size, "JPEG", **options)


def encode(seed: int, size: tuple[int, int], kind: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BICUBIC).save(
        file, kind, **options
    )
    return file.getvalue()


def exif_jpeg(orientation: int) -> bytes:
    """Return a JPEG with a place, an orientation, XMP and a comment."""
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "SecretCamera"
    exif.get_ifd(0x8825)[1] = "N"
    return jpeg(1, exif=exif, comment=b"SecretComment", xmp=b"<x:xmpmeta>SecretXmp</x:xmpmeta>")


def bomb_png(side: int = 50_000) -> bytes:
    """Return a small PNG that says it has `side` times `side` pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10**6))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


async def picture(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/picture/SEED.jpg`; the query gives headers, such as `?X-Robots-Tag=noai`."""
    seed = zlib.crc32(request.path.encode())
    return web.Response(body=jpeg(seed), headers={**JPEG, **dict(request.query)})


async def large(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/large/x.jpg`: 800 x 600 pixels."""
    return web.Response(body=jpeg(2, (800, 600)), headers=JPEG)


async def exif(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/exif/ORIENTATION`."""
    return web.Response(body=exif_jpeg(int(request.path.split("/")[2])), headers=JPEG)


async def kind(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/kind/WEBP`: a picture of that format."""
    return web.Response(body=encode(3, (64, 48), request.path.split("/")[2]))


async def redirect(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/redirect?to=URL`."""
    return web.Response(status=302, headers={"Location": request.query["to"]})


async def loop(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/loop/a` leads to `/loop/b` and back."""
    target = "/loop/b" if request.path.endswith("a") else "/loop/a"
    return web.Response(status=301, headers={"Location": target})


async def endless(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/endless/N` leads to `/endless/N+1`."""
    number = int(request.path.split("/")[2])
    return web.Response(status=302, headers={"Location": f"/endless/{number + 1}"})


async def status(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/status/CODE?times=N`: an error N times, then a picture; the query gives headers too."""
    query = dict(request.query)
    times = int(query.pop("times", 10**9))
    if box.visits[host + request.path_qs] > times:
        return web.Response(body=jpeg(4), headers=JPEG)
    return web.Response(status=int(request.path.split("/")[2]), headers=query)


async def slow(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/slow`: no answer for a minute."""
    await asyncio.sleep(60)
    return web.Response(body=jpeg(), headers=JPEG)


async def drip(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/drip`: a tar pit, a byte at a time."""
    response = web.StreamResponse(headers=JPEG)
    await response.prepare(request)
    for byte in jpeg():
        await response.write(bytes([byte]))
        await asyncio.sleep(0.1)
    return response


async def huge(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/huge/declared` names its size; `/huge/endless` does not, and begins like a picture."""
    response = web.StreamResponse(headers=JPEG)
    if request.path.endswith("declared"):
        response.content_length = 10**12
    await response.prepare(request)
    await response.write(jpeg())
    while True:
        await response.write(bytes(2**16))


async def text(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/text`: an error page that claims to be a picture."""
    return web.Response(body=b"<!DOCTYPE html><title>Sorry</title>" * 10, headers=JPEG)


async def svg(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/svg`: a drawing with a script."""
    body = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    return web.Response(body=body, headers={"Content-Type": "image/svg+xml"})


async def unnamed(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/unnamed`: a picture that claims to be a text."""
    return web.Response(body=jpeg(5), headers={"Content-Type": "text/plain"})


@functools.cache
def gzip_bomb() -> bytes:
    """Return a picture and 64 megabytes of zeros, in 64 kilobytes."""
    return gzip.compress(jpeg(6) + bytes(2**26), compresslevel=1)


async def gzipped(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/gzip/whole`, `/gzip/cut`, `/gzip/bomb`."""
    headers = {**JPEG, "Content-Encoding": "gzip"}
    variant = request.path.split("/")[2]
    body = gzip.compress(jpeg(6))
    if variant == "cut":
        body = body[: len(body) // 2]
    if variant == "bomb":
        body = gzip_bomb()
    return web.Response(body=body, headers=headers)


async def encoding(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/encoding/br`: a Content-Encoding that was not asked for."""
    headers = {**JPEG, "Content-Encoding": request.path.split("/")[2]}
    return web.Response(body=jpeg(), headers=headers)


async def chunked(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/chunked`: a picture in chunks, without a length."""
    response = web.StreamResponse(headers=JPEG)
    response.enable_chunked_encoding()
    await response.prepare(request)
    content = jpeg(7)
    for start in range(0, len(content), 100):
        await response.write(content[start : start + 100])
    return response


async def truncated(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/truncated/declared` sends half of its length; `/truncated/whole` half of a picture."""
    content = jpeg(8, (400, 300))
    half = content[: len(content) // 2]
    if request.path.endswith("whole"):
        return web.Response(body=half, headers=JPEG)
    response = web.StreamResponse(headers=JPEG)
    response.content_length = len(content)
    await response.prepare(request)
    await response.write(half)
    assert request.transport is not None
    request.transport.close()
    return response


async def garbage(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/garbage`: bytes that are no HTTP."""
    assert request.transport is not None
    request.transport.write(b"\x00\xff garbage \r\n\r\n")  # type: ignore[attr-defined]
    request.transport.close()
    return web.Response()


async def bomb(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/bomb`: a PNG of 2.5 gigapixels."""
    return web.Response(body=bomb_png(), headers={"Content-Type": "image/png"})


async def empty(box: WebInABox, host: str, request: web.BaseRequest) -> web.StreamResponse:
    """`/empty`: no bytes."""
    return web.Response(body=b"", headers=JPEG)


ROUTES: dict[str, Any] = {
    "picture": picture,
    "large": large,
    "exif": exif,
    "kind": kind,
    "redirect": redirect,
    "loop": loop,
    "endless": endless,
    "status": status,
    "slow": slow,
    "drip": drip,
    "huge": huge,
    "text": text,
    "svg": svg,
    "unnamed": unnamed,
    "gzip": gzipped,
    "encoding": encoding,
    "chunked": chunked,
    "truncated": truncated,
    "garbage": garbage,
    "bomb": bomb,
    "empty": empty,
}
