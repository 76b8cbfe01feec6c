"""One URL: its redirects, the rules of each host, and the picture that is stored."""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from twotower.errors import PictureError
from twotower.pairs.directives import parse_reservation
from twotower.pairs.fetching.addresses import WebUrl, parse_url
from twotower.pairs.fetching.consent import Consent
from twotower.pairs.fetching.origins import Origins
from twotower.pairs.fetching.politeness import MAX_WAIT, HostGates
from twotower.pairs.fetching.stored_picture import (
    PictureSettings,
    StoredPicture,
    is_picture,
    keep_encoding,
    make_stored_picture,
)
from twotower.pairs.fetching.web_client import (
    NETWORK_REASONS,
    FetchError,
    Headers,
    Response,
    WebClient,
    status_failure,
)

MAX_REDIRECTS = 5
UNREACHABLE_AFTER = 5  # URLs in a row that failed by the network, retries included

# Up to that size, headers are read without the way to a thread; more could hold up the event loop.
_SMALL_BYTES = 2**18
_ACCEPT = "image/avif,image/webp,image/png,image/jpeg,image/*;q=0.8"


@dataclass
class Outcome:
    """The outcome of a URL.

    Attributes:
        picture: None if it failed.
        failure: None if it succeeded.
        final_url: the URL of the last request.
        content_type: the header of the last response, or "".
        consent: the statements of the host of each request, in order: `Consent.to_json` and "url".
    """

    picture: StoredPicture | None = None
    failure: FetchError | None = None
    final_url: str = ""
    content_type: str = ""
    consent: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_redirected(self) -> bool:
        """True if more than one URL was visited."""
        return len(self.consent) > 1


@dataclass
class HostHealth:
    """The health of a host during a run.

    Attributes:
        network_failures: URLs in a row that failed by the network.
        closed: the reason why no more of its URLs are tried, or "".
    """

    network_failures: int = 0
    closed: str = ""

    def update(self, failure: FetchError | None) -> None:
        """Take the outcome of a URL into account."""
        if failure is None or failure.reason not in NETWORK_REASONS:
            self.network_failures = 0
        else:
            self.network_failures += 1
            if self.network_failures >= UNREACHABLE_AFTER:
                self.closed = "host_unreachable"
        if failure is not None and failure.retry_after > MAX_WAIT:
            self.closed = "host_asks_to_wait"


class Downloader:
    """Downloads of single URLs.

    Args:
        threads: where pictures are decoded and encoded.
        requests: bounds the requests in progress, their bodies and their pictures in memory.
        max_bytes: of a download.
        retries: further attempts after a failure that can heal.
        ignored: conventions of `consent.CONVENTIONS` that are recorded, but not obeyed.
        is_removed: True for a URL that was removed from the shards.
    """

    def __init__(
        self,
        client: WebClient,
        origins: Origins,
        gates: HostGates,
        threads: Executor,
        settings: PictureSettings,
        *,
        requests: int,
        max_bytes: int,
        retries: int,
        ignored: frozenset[str],
        is_removed: Callable[[str], bool],
    ) -> None:
        self._client, self._origins, self._gates = client, origins, gates
        self._threads, self._settings = threads, settings
        self._requests = asyncio.Semaphore(requests)
        self._max_bytes, self._retries = max_bytes, retries
        self._ignored, self._is_removed = ignored, is_removed

    async def __call__(self, text: str, health: HostHealth) -> Outcome:
        """Fetch a URL, with retries. Failures are in the outcome."""
        if health.closed:
            return Outcome(failure=FetchError(health.closed))
        attempt = 0
        while True:
            outcome = Outcome()
            try:
                outcome.picture = await self._attempt(text, outcome)
            except FetchError as failure:
                outcome.failure = failure
            failed = outcome.failure
            can_retry = failed is not None and failed.healable and attempt < self._retries
            if failed is None or not can_retry or failed.retry_after > MAX_WAIT:
                health.update(failed)
                return outcome
            attempt += 1
            if not failed.retry_after:  # otherwise the gate of the host waits
                await asyncio.sleep(2 ** (attempt - 1) * random.uniform(0.5, 1.5))

    async def _attempt(self, text: str, outcome: Outcome) -> StoredPicture:
        if text[:5].lower() == "data:":
            return await self._store(decode_data_url(text, self._max_bytes))
        visited: set[str] = set()
        url = _require_url(text, "bad_url")
        while True:
            if url.text in visited:
                raise FetchError("redirect_loop")
            if len(visited) > MAX_REDIRECTS:
                raise FetchError("too_many_redirects")
            visited.add(url.text)
            following = await self._visit(url, outcome, is_first=len(visited) == 1)
            if isinstance(following, StoredPicture):
                return following
            url = following

    async def _visit(self, url: WebUrl, outcome: Outcome, is_first: bool) -> WebUrl | StoredPicture:
        """Request a URL if its host allows it; return the picture, or the target of a redirect."""
        outcome.final_url = url.text
        if not is_first and self._is_removed(url.text):
            raise FetchError("removed")
        policy = await self._origins.policy(url)
        consent = policy.consent(url)
        statements = {"url": url.text, **consent.to_json()}
        outcome.consent.append(statements)
        if policy.failure is not None and "robots" not in self._ignored:
            raise FetchError(policy.failure.reason, f"robots.txt: {policy.failure.detail}")
        self._require_consent(consent, before_request=True)
        if policy.robots is not None and policy.robots.crawl_delay > MAX_WAIT:
            raise FetchError("host_asks_to_wait", f"Crawl-delay: {policy.robots.crawl_delay}")

        def inspect(headers: Headers) -> None:
            read_headers(headers, consent)
            statements.update(consent.to_json())
            outcome.content_type = headers.get("Content-Type", "")[:100]
            self._require_consent(consent, before_request=False)

        gate = self._gates[url.authority]
        with self._client.body_slot() as slot:
            async with gate, self._requests:
                response = await self._client.get(
                    url,
                    self._max_bytes,
                    accept=_ACCEPT,
                    inspect=inspect,
                    is_wanted=is_picture,
                    slot=slot,
                )
                target = response.redirect()
                if target is not None:
                    return _require_url(target, "bad_redirect")
                return await self._store(self._content(response))

    def _content(self, response: Response) -> bytes:
        """Return the body of a success. Raises `FetchError` for another status."""
        if response.status != 200:
            failure = status_failure(response)
            if 0 < failure.retry_after <= MAX_WAIT:
                self._gates[response.url.authority].pause(failure.retry_after)
            raise failure
        if not response.body:
            raise FetchError("empty")
        return response.body

    def _require_consent(self, consent: Consent, before_request: bool) -> None:
        """Raise `FetchError` if a convention denies the use.

        A header can overrule tdmrep.json, so that convention is not judged before the request.
        """
        for convention in consent.denials():
            if convention in self._ignored or (before_request and convention == "tdmrep"):
                continue
            detail = consent.robots if convention == "robots" else ""
            raise FetchError(convention, detail)

    async def _store(self, content: bytes) -> StoredPicture:
        loop = asyncio.get_running_loop()
        try:
            if self._settings.resize == "none" and len(content) <= _SMALL_BYTES:
                kept = keep_encoding(content, self._settings)
                if kept is not None:
                    return kept
            return await loop.run_in_executor(
                self._threads, make_stored_picture, content, self._settings
            )
        except PictureError as error:
            raise FetchError("broken_picture", error.reason[:200]) from None
        except Exception as error:  # Pillow raises nearly anything; no picture may stop the run
            raise FetchError("broken_picture", type(error).__name__) from error


def read_headers(headers: Headers, consent: Consent) -> None:
    """Add the statements in the headers of a response."""
    consent.x_robots_tag = [value[:1000] for value in headers.getall("X-Robots-Tag", [])]
    usage = headers.getall("Content-Usage", [])
    if usage:
        consent.content_usage["header"] = ", ".join(usage)[:1000]
    reservation = parse_reservation(headers.get("tdm-reservation", ""))
    if reservation is not None:
        consent.tdm_reservation = reservation
        consent.tdm_policy = headers.get("tdm-policy", "")[:1000]


def decode_data_url(text: str, max_bytes: int) -> bytes:
    """Return the content of a `data:` URI (RFC 2397). Raises `FetchError`."""
    header, comma, payload = text.partition(",")
    if not comma or len(payload) > 4 * max_bytes:
        raise FetchError("bad_url" if not comma else "too_large")
    content = unquote_to_bytes(payload)
    if header.lower().endswith(";base64"):
        try:
            content = base64.b64decode(content + b"=" * (-len(content) % 4))
        except binascii.Error:
            raise FetchError("bad_url", "base64") from None
    if len(content) > max_bytes:
        raise FetchError("too_large")
    if not is_picture(content[:512]):
        raise FetchError("not_a_picture", header[:100])
    return content


def _require_url(text: str, reason: str) -> WebUrl:
    url = parse_url(text)
    if url is None:
        raise FetchError(reason, text[:200])
    return url
