"""Fetching of candidates into shards: politely, with consent, and never the same URL twice."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twotower.errors import PairsError
from twotower.pairs.fetching.addresses import is_public_address
from twotower.pairs.fetching.download import Downloader, HostHealth, Outcome
from twotower.pairs.fetching.fetch_input import SLICES_FILE, find_candidates, read_into_ledger
from twotower.pairs.fetching.ledger import WAITING, Ledger, Text, WaitingUrl
from twotower.pairs.fetching.origins import Origins
from twotower.pairs.fetching.politeness import HostGates
from twotower.pairs.fetching.removal import rewrite_condemned
from twotower.pairs.fetching.robots import user_agent
from twotower.pairs.fetching.spool import Batch, Spool, writing
from twotower.pairs.fetching.stored_picture import PictureSettings
from twotower.pairs.fetching.web_client import Resolve, WebClient
from twotower.pairs.shards import SHARD_PAIRS
from twotower.progress import Progress, ReportProgress, ignore_progress

_RECORD_SECONDS = 0.5  # a crash loses the downloads of that time
_HOSTS_PER_REQUEST = 2  # visited at a time; most wait for their turn, with open connections
_MAX_OPEN_FILES = 65_536


@dataclass(frozen=True)
class FetchSettings:
    """Settings of a run.

    Attributes:
        picture: of the stored pictures.
        contact: an address for complaints, in the `User-Agent` header.
        requests: in progress at a time, of at most twice as many hosts.
        per_host: requests to a host at a time.
        host_rate: requests to a host in a second.
        retries: further attempts after a failure that can heal.
        timeout: seconds for a request.
        max_bytes: of a download.
        per_shard: URLs in a shard.
        first_shard, shard_step: the number of the first shard, and from a shard to the next.
        deadline: seconds for the run, or None.
        ignored: conventions (`consent.CONVENTIONS`) that are recorded, but not obeyed.
        allow_private: contact private and loopback addresses, for tests.
    """

    picture: PictureSettings = field(default_factory=PictureSettings)
    contact: str = ""
    requests: int = 256
    per_host: int = 2
    host_rate: float = 5.0
    retries: int = 2
    timeout: float = 30.0
    max_bytes: int = 20_000_000
    per_shard: int = SHARD_PAIRS
    first_shard: int = 0
    shard_step: int = 1
    deadline: float | None = None
    ignored: frozenset[str] = frozenset()
    allow_private: bool = False


@dataclass(frozen=True)
class FetchSummary:
    """The state after a run.

    Attributes:
        pictures: in the shards.
        waiting: URLs that the run did not reach before its deadline.
        reasons: the number of failed URLs by reason.
    """

    pictures: int
    waiting: int
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """The number of URLs without a picture."""
        return sum(self.reasons.values())


def fetch(
    candidates: Path,
    destination: Path,
    settings: FetchSettings,
    report: ReportProgress = ignore_progress,
    *,
    resolve: Resolve | None = None,
    is_allowed: Callable[[str], bool] = is_public_address,
) -> FetchSummary:
    """Fetch the pictures of candidates into shards, or continue a run that was stopped.

    Args:
        candidates: a folder of Parquet files, or a file.
        destination: the folder of the shards and the ledger.
        resolve: looks up hosts; by default the system does.
        is_allowed: decides which IP addresses are contacted, unless `settings.allow_private`.

    Raises:
        PairsError: the candidates cannot be read, or the shards cannot be written, or the folder
            has slices of a fetch on a cluster.
    """
    if (destination / SLICES_FILE).exists():
        raise PairsError(destination, "was fetched on a cluster", "continue with --ray")
    files = find_candidates(candidates)
    with writing(destination), closing(Ledger(destination)) as ledger:
        rewrite_condemned(destination, ledger)
        read_into_ledger(files, ledger, report)
        run = ledger.start_run(_now(), _settings_json(settings))
        _raise_file_limit()
        with closing(Ledger(destination)) as reader:
            numbers = settings.first_shard, settings.shard_step
            spool = Spool(destination, ledger, run, settings.per_shard, *numbers)
            fetcher = _Fetcher(settings, reader, spool, report)
            allowed = (lambda _: True) if settings.allow_private else is_allowed
            asyncio.run(fetcher.run(resolve, allowed))
        ledger.end_run(run, _now())
        reasons = ledger.count_reasons()
        return FetchSummary(reasons.pop("", 0), ledger.count(WAITING), reasons)


class _Fetcher:
    """A run over the waiting URLs.

    Args:
        reader: a ledger of the event loop's thread; `spool.ledger` belongs to the writing thread.
    """

    def __init__(
        self, settings: FetchSettings, reader: Ledger, spool: Spool, report: ReportProgress
    ) -> None:
        self._settings, self._reader, self._spool, self._report = settings, reader, spool, report
        self._documents: list[tuple[str, str, str]] = []
        self._writing_thread = ThreadPoolExecutor(1, "ledger")
        self._write_error: BaseException | None = None
        self._total, self._done, self._failed = reader.count(WAITING), 0, 0

    async def run(self, resolve: Resolve | None, is_allowed: Callable[[str], bool]) -> None:
        """Visit all hosts until the deadline, then complete the last shard."""
        settings = self._settings
        threads = ThreadPoolExecutor(os.cpu_count() or 1, "pictures")
        try:
            async with WebClient(
                user_agent(settings.contact), settings.timeout, is_allowed, resolve
            ) as client:
                await self._visit_hosts(self._make_downloader(client, threads))
        except BaseExceptionGroup as group:
            self._spool.abandon()
            raise _root_cause(group) from None
        except asyncio.CancelledError:  # Ctrl-C
            await self._finish()
            raise
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
        await self._finish()

    def _make_downloader(self, client: WebClient, threads: ThreadPoolExecutor) -> Downloader:
        settings = self._settings
        gates = HostGates(settings.per_host, 1 / settings.host_rate)
        origins = Origins(client, gates, lambda *document: self._documents.append(document))
        return Downloader(
            client,
            origins,
            gates,
            threads,
            settings.picture,
            requests=settings.requests,
            max_bytes=settings.max_bytes,
            retries=settings.retries,
            ignored=settings.ignored,
            is_removed=self._reader.is_removed,
        )

    async def _visit_hosts(self, download: Downloader) -> None:
        """Visit the hosts, a bounded number at a time, and record results meanwhile."""
        slots = asyncio.Semaphore(_HOSTS_PER_REQUEST * self._settings.requests)
        try:
            async with asyncio.timeout(self._settings.deadline), asyncio.TaskGroup() as recording:
                recorder = recording.create_task(self._record_regularly())
                async with asyncio.TaskGroup() as visits:
                    for host in self._reader.waiting_hosts():
                        await slots.acquire()
                        visit = visits.create_task(self._visit_host(host, download))
                        visit.add_done_callback(lambda _: slots.release())
                recorder.cancel()
        except TimeoutError:
            return  # the deadline

    async def _visit_host(self, host: str, download: Downloader) -> None:
        urls, health = self._reader.waiting_urls(host), HostHealth()
        async with asyncio.TaskGroup() as lanes:
            for _ in range(self._settings.per_host):
                lanes.create_task(self._visit_urls(urls, download, health))

    async def _visit_urls(
        self, urls: Iterator[WaitingUrl], download: Downloader, health: HostHealth
    ) -> None:
        """Fetch URLs one after the other; several calls share the iterator."""
        for url in urls:
            outcome = await download(url.url, health)
            await self._append(url, outcome)

    async def _append(self, url: WaitingUrl, outcome: Outcome) -> None:
        if self._spool.is_full:
            await self._record(self._spool.roll_over())
        picture = outcome.picture
        self._spool.append(
            url.hash,
            make_record(url.url, self._reader.texts(url.hash), outcome),
            picture.content if picture else b"",
            picture.suffix if picture else "",
            outcome.final_url if outcome.is_redirected else "",
        )
        self._done += 1
        self._failed += picture is None
        self._report(Progress(self._done, self._total, self._failed, "Fetching"))

    async def _record_regularly(self) -> None:
        while True:
            await asyncio.sleep(_RECORD_SECONDS)
            await self._record(self._spool.take_batch())

    async def _record(self, batch: Batch) -> None:
        """Record a batch in the writing thread; batches keep the order of the calls."""
        documents, self._documents = self._documents, []
        await self._run_writing(lambda: self._write(batch, documents))

    async def _run_writing(self, write: Callable[[], None]) -> None:
        """Run a function in the writing thread, also if this task is cancelled meanwhile.

        After an error nothing more is written: a later batch covers the bytes of those before it.
        """

        def write_unless_failed() -> None:
            if self._write_error is not None:
                raise self._write_error
            try:
                write()
            except BaseException as error:
                self._write_error = error
                raise

        future = self._writing_thread.submit(write_unless_failed)
        await asyncio.shield(asyncio.wrap_future(future))

    def _write(self, batch: Batch, documents: list[tuple[str, str, str]]) -> None:
        if documents:
            self._spool.ledger.add_documents(documents)
        batch.write()

    async def _finish(self) -> None:
        """Record all results, and complete the shard."""
        await self._record(self._spool.take_batch())
        await self._run_writing(self._spool.finish)
        self._writing_thread.shutdown()


def make_record(url: str, texts: list[Text], outcome: Outcome) -> dict[str, Any]:
    """Return the row of the table of a shard for a URL."""
    picture, failure = outcome.picture, outcome.failure
    text = texts[0] if texts else Text("", "", "", "")
    status = "success"
    if failure is not None:
        is_broken = failure.reason == "broken_picture"
        status = "failed_to_resize" if is_broken else "failed_to_download"
    message = ": ".join(filter(None, (failure.reason, failure.detail))) if failure else None
    return {
        "url": url,
        "status": status,
        "reason": failure.reason if failure else "",
        "error_message": message,
        "caption": text.caption,
        "captions": [text.caption for text in texts],
        "caption_sources": [text.source for text in texts],
        "page_url": text.page_url,
        "language": text.language,
        "width": picture.width if picture else None,
        "height": picture.height if picture else None,
        "original_width": picture.original_width if picture else None,
        "original_height": picture.original_height if picture else None,
        "sha256": picture.sha256 if picture else None,
        "final_url": outcome.final_url,
        "content_type": outcome.content_type,
        "fetched_at": _now(),
        "consent": outcome.consent,
    }


def _root_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first exception in nested groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _settings_json(settings: FetchSettings) -> dict[str, Any]:
    tree = asdict(settings)
    tree["ignored"] = sorted(settings.ignored)
    tree["user_agent"] = user_agent(settings.contact)
    return tree


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _raise_file_limit() -> None:
    """Allow this process as many open sockets as the system lets it, where that can be set."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted_limit = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    if soft < wanted_limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted_limit, hard))
