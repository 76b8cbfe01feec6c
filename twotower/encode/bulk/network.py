"""Pictures on the network: requested ahead of their use, politely where they are on the web."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from twotower.errors import PictureError
from twotower.pairs.remote import read_remote

WINDOW = 128  # pictures that are requested and not used yet
_REQUESTS = 64  # in progress
_THREADS = 32  # that read from buckets
_RETRIES, _TIMEOUT, _MAX_BYTES = 2, 30.0, 50_000_000
_PER_HOST, _HOST_RATE = 4, 10.0  # requests at a time, and in a second


class Network:
    """Requests for pictures at URLs, which start at once and are bounded in number.

    A URL of http, https or data is fetched as `pairs fetch` does: by the rules of its host, at
    public addresses only. fsspec reads all others.

    Args:
        contact: an address for complaints, in the `User-Agent` header.
        allow_private: request private and loopback addresses too.
        processes: that share the rate of requests to a host.
    """

    def __init__(self, contact: str = "", allow_private: bool = False, processes: int = 1) -> None:
        self._web_settings = contact, allow_private, processes
        self._threads: ThreadPoolExecutor | None = None
        self._web: _Web | None = None

    @property
    def is_used(self) -> bool:
        """True after the first request."""
        return bool(self._threads or self._web)

    def request(self, url: str) -> Future[tuple[bytes, str]]:
        """Return the content of a URL, with its SHA-256 or "", as soon as it arrives.

        The result raises `PictureError` or `PairsError`.
        """
        if url.startswith(("http://", "https://", "data:")):
            self._web = self._web or _Web(*self._web_settings)
            return self._web.request(url)
        self._threads = self._threads or ThreadPoolExecutor(_THREADS, "twotower-remote")
        return self._threads.submit(lambda: (read_remote(url), ""))

    def close(self) -> None:
        """Cancel all requests."""
        if self._threads:
            self._threads.shutdown(wait=True, cancel_futures=True)
        if self._web:
            self._web.close()


class _Web:
    """An event loop in a thread, with one client for all hosts."""

    def __init__(self, contact: str, allow_private: bool, processes: int) -> None:
        from twotower.pairs.fetching.download import HostHealth

        self._health: defaultdict[str, HostHealth] = defaultdict(HostHealth)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._pictures = ThreadPoolExecutor(1, "twotower-pictures")
        opening = self._open(contact, allow_private, processes)
        self._client, self._download = self._run(opening).result()

    async def _open(self, contact: str, allow_private: bool, processes: int) -> tuple[Any, Any]:
        from twotower.pairs.fetching.addresses import is_public_address
        from twotower.pairs.fetching.download import Downloader
        from twotower.pairs.fetching.origins import Origins
        from twotower.pairs.fetching.politeness import HostGates
        from twotower.pairs.fetching.robots import user_agent
        from twotower.pairs.fetching.stored_picture import PictureSettings
        from twotower.pairs.fetching.web_client import WebClient

        allowed = (lambda _: True) if allow_private else is_public_address
        client = WebClient(user_agent(contact), _TIMEOUT, allowed)
        gates = HostGates(max(1, _PER_HOST // processes), processes / _HOST_RATE)
        download = Downloader(
            client,
            Origins(client, gates, lambda *_: None),
            gates,
            self._pictures,
            PictureSettings("none", keep_metadata=True),
            requests=_REQUESTS,
            max_bytes=_MAX_BYTES,
            retries=_RETRIES,
            ignored=frozenset(),
            is_removed=lambda _: False,
        )
        return client, download

    def request(self, url: str) -> Future[tuple[bytes, str]]:
        return self._run(self._fetch(url))

    async def _fetch(self, url: str) -> tuple[bytes, str]:
        from twotower.pairs.fetching.ledger import host_of

        outcome = await self._download(url, self._health[host_of(url)])
        if outcome.picture is None:
            failure = outcome.failure
            reason = ": ".join(filter(None, (failure.reason, failure.detail)))
            raise PictureError(url[:200], f"cannot be fetched ({reason})", "check the URL")
        return outcome.picture.content, outcome.picture.sha256

    def _run(self, coroutine: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        async def finish() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._client.__aexit__(None, None, None)

        with contextlib.suppress(Exception):
            self._run(finish()).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._pictures.shutdown(wait=False, cancel_futures=True)
