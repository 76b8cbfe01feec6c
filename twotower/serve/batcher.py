"""Dynamic batching: items of many requests pass through a tower together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from twotower.serve.errors import OverloadedError, RequestError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class BatcherStatistics:
    """Counters of a batcher: `seconds` is the time spent in the tower."""

    batches: int = 0
    items: int = 0
    rejected: int = 0
    seconds: float = 0.0


class Batcher(Generic[Item, Result]):
    """Merges the items of concurrent requests into batches for one function.

    One batch runs at a time, in a thread of the batcher's own; items that arrive meanwhile wait.
    An idle batcher waits `max_wait` seconds for more items before it starts.
    """

    def __init__(
        self,
        encode: Callable[[list[Item]], Sequence[Result]],
        *,
        name: str,
        max_batch: int,
        max_wait: float,
        max_queue: int,
    ) -> None:
        """Create a batcher; it starts with the first item.

        Args:
            encode: items -> as many results; runs in a thread.
            name: of the thread and in metrics.
            max_batch: items of one call of `encode`.
            max_wait: seconds.
            max_queue: items that may wait. Further requests are rejected; a request that is
                admitted may exceed it, so that a large one is not rejected forever.
        """
        self.name = name
        self.statistics = BatcherStatistics()
        self._encode = encode
        self._max_batch, self._max_wait, self._max_queue = max_batch, max_wait, max_queue
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._arrived = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"twotower-{name}")
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def waiting(self) -> int:
        """The number of items that wait for the tower."""
        return len(self._waiting)

    async def submit(self, items: Sequence[Item], *, admitted: bool = False) -> list[Result]:
        """Return the results of a request's items, in order.

        A request that is cancelled leaves no items behind that have not started.

        Args:
            admitted: the items belong to a request of which others were accepted before.

        Raises:
            OverloadedError: too many items are waiting, and these are not admitted.
            RequestError: 503, the server is shutting down.
            Exception: the exception of `encode`.
        """
        if self._closing:
            raise RequestError(503, "the server is shutting down")
        if len(self._waiting) >= self._max_queue and not admitted:
            raise self.rejection()
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Result]] = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        self._arrived.set()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name=f"batcher {self.name}")
        try:
            return await asyncio.gather(*futures)
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    def rejection(self) -> OverloadedError:
        """Count a rejected request, and return its error."""
        self.statistics.rejected += 1
        return OverloadedError(self._estimate_wait())

    async def close(self) -> None:
        """Finish the waiting items, then stop."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await self._task
        self._executor.shutdown()

    def _estimate_wait(self) -> int:
        """Return the seconds until the waiting items are done, at the rate so far."""
        statistics = self.statistics
        rate = statistics.items / statistics.seconds if statistics.seconds else 1.0
        return max(1, round(len(self._waiting) / max(rate, 1.0)))

    async def _run(self) -> None:
        while True:
            self._arrived.clear()
            if not self._waiting:
                if self._closing:
                    return
                await self._arrived.wait()
                continue
            if len(self._waiting) < self._max_batch and not self._closing:
                await asyncio.sleep(self._max_wait)
            while batch := self._next_batch():
                await self._run_batch(batch)

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """Take up to `max_batch` items whose requests have not been cancelled."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._max_batch:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch

    async def _run_batch(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        items = [item for item, _ in batch]
        try:
            results = await loop.run_in_executor(self._executor, self._encode, items)
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
        self.statistics.batches += 1
        self.statistics.items += len(batch)
        self.statistics.seconds += loop.time() - started
