"""HTTP requests to untrusted hosts: public addresses only, bounded bodies, reasons of failures."""

from __future__ import annotations

import asyncio
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDictProxy
from yarl import URL

from twotower.pairs.fetching.addresses import WebUrl, is_public_address, parse_url

Headers: TypeAlias = CIMultiDictProxy[str]
Resolve: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""Returns the IP addresses of a host and port. Raises `OSError`."""

REDIRECTS = frozenset((301, 302, 303, 307, 308))
HEALING_STATUSES = frozenset((408, 425, 429, 500, 502, 503, 504))  # worth another attempt
NETWORK_REASONS = frozenset(("connection", "dns", "timeout"))

_DNS_THREADS = 64  # each waits in getaddrinfo for the network
_DNS_SECONDS = 300  # addresses are kept that long; getaddrinfo does not tell their time to live
_KEEP_ALIVE = 5.0  # seconds; bounds the open sockets while hosts come and go
_MEMORY_BODY = 2**20  # bytes of a body before it needs one of the slots for large bodies
_LARGE_BODIES = 8
_BEGINNING = 512  # bytes that show the format of a picture


class FetchError(Exception):
    """A URL that cannot be fetched or must not be used.

    Attributes:
        reason: a code, such as "timeout", "http_404" or "robots".
        detail: more about it, for a person.
        healable: True if another attempt can succeed.
        retry_after: seconds that the host asks to wait, or 0.
    """

    def __init__(
        self, reason: str, detail: str = "", *, healable: bool = False, retry_after: float = 0.0
    ) -> None:
        self.reason, self.detail = reason, detail
        self.healable, self.retry_after = healable, retry_after
        super().__init__(reason, detail)


class BlockedAddressError(OSError):
    """The host has no address that may be contacted."""


@dataclass(frozen=True)
class Response:
    """The response to a request.

    Attributes:
        url: the URL requested.
        status: of HTTP.
        headers: without regard to case.
        body: decoded by Content-Encoding; empty unless the status is 200.
    """

    url: WebUrl
    status: int
    headers: Headers
    body: bytes

    def redirect(self) -> str | None:
        """Return the absolute target of a redirect, or None."""
        location = self.headers.get("Location")
        if self.status not in REDIRECTS or location is None:
            return None
        try:
            return str(URL(self.url.text).join(URL(location.strip())))
        except ValueError:
            return location


class BodySlot:
    """A slot in memory for a large body, of which there are few.

    A context manager that frees the slot at its end.
    """

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._is_taken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_taken:
            self._slots.release()

    async def take(self) -> None:
        """Wait for the slot, the first time."""
        if not self._is_taken:
            await self._slots.acquire()
            self._is_taken = True


class WebClient:
    """A session of requests.

    Args:
        agent: the `User-Agent` header.
        timeout: seconds for a request in all, with its body.
        is_allowed: decides which IP addresses are contacted.
        resolve: looks up a host; by default the system does.
    """

    def __init__(
        self,
        agent: str,
        timeout: float,
        is_allowed: Callable[[str], bool] = is_public_address,
        resolve: Resolve | None = None,
    ) -> None:
        self.is_allowed = is_allowed
        self._large_bodies = asyncio.Semaphore(_LARGE_BODIES)
        connector = aiohttp.TCPConnector(
            limit=0,  # the callers bound their requests
            resolver=_CheckedResolver(is_allowed, resolve),
            ttl_dns_cache=_DNS_SECONDS,
            keepalive_timeout=_KEEP_ALIVE,
            socket_factory=self._open_socket,
        )
        connect = min(10.0, timeout)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(timeout, sock_connect=connect, sock_read=connect),
            headers={"User-Agent": agent, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # without a limit on the decompressed size
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    def body_slot(self) -> BodySlot:
        """Return a slot for one large body, to be held while the body is in memory."""
        return BodySlot(self._large_bodies)

    async def get(
        self,
        url: WebUrl,
        max_bytes: int,
        *,
        accept: str = "*/*",
        inspect: Callable[[Headers], None] | None = None,
        is_wanted: Callable[[bytes], bool] | None = None,
        slot: BodySlot | None = None,
        cut: bool = False,
    ) -> Response:
        """Request a URL once, without following redirects.

        Args:
            max_bytes: of the body, decompressed.
            inspect: called with the headers before the body is read; may raise `FetchError`.
            is_wanted: called with the first bytes of the body; if False, no more are read.
            slot: waits with a large body; needed if `max_bytes` is more than a mebibyte.
            cut: cut a larger body instead of failing.

        Raises:
            FetchError: for every fault of the network or the host.
        """
        try:
            async with self._session.get(
                URL(url.text), allow_redirects=False, headers={"Accept": accept}
            ) as response:
                if inspect is not None:
                    inspect(response.headers)
                body = b""
                if response.status == 200:
                    body = await _read(response, max_bytes, is_wanted, slot, cut)
                return Response(url, response.status, response.headers, body)
        except FetchError:
            raise
        except Exception as error:
            raise _failure(error) from error

    async def get_document(self, url: WebUrl, max_bytes: int, max_redirects: int = 5) -> Response:
        """Request a small text, such as robots.txt, and follow its redirects.

        The body is cut at `max_bytes`. Raises `FetchError`.
        """
        for _ in range(max_redirects + 1):
            response = await self.get(url, max_bytes, cut=True)
            target = response.redirect()
            if target is None:
                return response
            following = parse_url(target)
            if following is None:
                raise FetchError("bad_redirect", target[:200])
            url = following
        raise FetchError("too_many_redirects")

    def _open_socket(self, address: tuple[Any, ...]) -> socket.socket:
        """Open a socket to connect to an address.

        This is the last check before a connection: it sees the address itself, after all lookups.
        """
        family, kind, protocol, _, destination = address
        if not self.is_allowed(destination[0]):
            raise BlockedAddressError(f"{destination[0]} is no public address")
        return socket.socket(family, kind, protocol)


async def _read(
    response: aiohttp.ClientResponse,
    max_bytes: int,
    is_wanted: Callable[[bytes], bool] | None,
    slot: BodySlot | None,
    cut: bool,
) -> bytes:
    if not cut and (response.content_length or 0) > max_bytes:
        raise FetchError("too_large", f"{response.content_length} bytes")
    decode = _Decoder(response.headers.get("Content-Encoding", ""))
    body = bytearray()
    async for chunk in response.content.iter_any():
        is_beginning = len(body) < _BEGINNING
        body += decode(chunk, max_bytes - len(body) + 1)
        if is_wanted is not None and is_beginning and not is_wanted(bytes(body[:_BEGINNING])):
            raise FetchError("not_a_picture", response.headers.get("Content-Type", "")[:100])
        if len(body) > max_bytes:
            if cut:
                return bytes(body[:max_bytes])
            raise FetchError("too_large", f"more than {max_bytes} bytes")
        if len(body) > _MEMORY_BODY and slot is not None:
            await slot.take()
    decode.finish()
    return bytes(body)


class _Decoder:
    """Content-Encoding, decoded in pieces of a bounded size."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding.strip().lower()
        self._inflate = None
        if self.encoding in ("gzip", "x-gzip", "deflate"):
            self._inflate = zlib.decompressobj(wbits=32 + 15)  # gzip or zlib, by its header
        elif self.encoding not in ("", "identity"):
            raise FetchError("content_encoding", self.encoding[:50])

    def __call__(self, chunk: bytes, max_bytes: int) -> bytes:
        """Return the decoded chunk, or its first bytes."""
        if self._inflate is None:
            return chunk[:max_bytes]
        return self._inflate.decompress(chunk, max_bytes)

    def finish(self) -> None:
        """Raise `FetchError` if compressed bytes are missing."""
        if self._inflate is not None and not self._inflate.eof:
            raise FetchError("truncated", self.encoding, healable=True)


class _CheckedResolver(AbstractResolver):
    """A resolver that returns only addresses that may be contacted."""

    def __init__(self, is_allowed: Callable[[str], bool], resolve: Resolve | None) -> None:
        self.is_allowed = is_allowed
        self._threads = ThreadPoolExecutor(_DNS_THREADS, "dns")
        self._resolve = resolve or self._system_lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._resolve(host, port)
        allowed = [address for address in addresses if self.is_allowed(address)]
        if not allowed:
            raise BlockedAddressError(f"{host} has no public address")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in allowed
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _system_lookup(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        addresses = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [str(destination[0]) for *_, destination in addresses]


def status_failure(response: Response) -> FetchError:
    """Return the failure of a response that is neither a success nor a redirect."""
    return FetchError(
        f"http_{response.status}",
        healable=response.status in HEALING_STATUSES,
        retry_after=parse_retry_after(response.headers),
    )


def parse_retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of a `Retry-After` header, a number or a date; 0 without a valid one."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _failure(error: Exception) -> FetchError:
    """Return the failure for an exception of a request."""
    cause = getattr(error, "os_error", error)
    detail = " ".join(str(cause).split())[:200]
    if isinstance(cause, BlockedAddressError):
        return FetchError("blocked_address", detail)
    if isinstance(error, TimeoutError):
        return FetchError("timeout", healable=True)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        missing = getattr(cause, "errno", None) in (socket.EAI_NONAME, socket.EAI_NODATA)
        return FetchError("dns", detail, healable=not missing)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError | ssl.CertificateError):
        return FetchError("tls", detail)
    if isinstance(error, aiohttp.ClientPayloadError):
        return FetchError("truncated", detail, healable=True)
    if isinstance(
        error, aiohttp.InvalidURL | aiohttp.ClientResponseError | zlib.error | ValueError
    ):
        reason = "bad_url" if isinstance(error, aiohttp.InvalidURL) else "bad_response"
        return FetchError(reason, detail)
    if isinstance(error, aiohttp.ClientError | OSError):
        if "no public address" in detail:  # several addresses, whose errors asyncio has joined
            return FetchError("blocked_address", detail)
        return FetchError("connection", detail, healable=True)
    return FetchError("bad_response", f"{type(error).__name__}: {detail}")  # by hostile input
