"""Load on an HTTP server: clients that send one request after another, on connections kept open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np


@dataclass
class Load:
    """The answers of a run: seconds of each request in the order of their ends, by status."""

    wall_seconds: float = 0.0
    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Answers of status 200 a second."""
        return self.statuses.get(200, 0) / self.wall_seconds

    def percentile(self, share: float) -> float:
        """Return a percentile of the requests' times, in milliseconds."""
        return float(np.percentile(self.seconds, share)) * 1000


def post(path: str, body: bytes, content_type: str = "application/json") -> bytes:
    """Return the bytes of a request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def run_load(
    url: str,
    request: Callable[[int], bytes],
    *,
    clients: int,
    seconds: float,
    interval: float = 0.0,
) -> Load:
    """Send requests for some seconds.

    Args:
        request: the number of a request -> its bytes.
        interval: seconds between the starts of a client's requests; 0 for no pause.
    """
    return asyncio.run(_run(url, request, clients, seconds, interval))


async def _run(
    url: str, request: Callable[[int], bytes], clients: int, seconds: float, interval: float
) -> Load:
    load, started = Load(), time.perf_counter()
    address = urlsplit(url)
    numbers = iter(range(10**9))

    async def client(position: int) -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        due = started + interval * position / clients
        while time.perf_counter() - started < seconds:
            if interval:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                due += interval
            sent = time.perf_counter()
            writer.write(request(next(numbers)))
            status = await _read_answer(reader)
            load.seconds.append(time.perf_counter() - sent)
            load.statuses[status] = load.statuses.get(status, 0) + 1
        writer.close()

    await asyncio.gather(*map(client, range(clients)))
    load.wall_seconds = time.perf_counter() - started
    return load


async def _read_answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    await reader.readexactly(length)
    return int(head.split()[1])
