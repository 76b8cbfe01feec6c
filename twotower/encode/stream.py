"""Embedding many pictures: decoded ahead in threads, yielded in order, in bounded memory."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from twotower.arrays import Float32Array
from twotower.encode.machine import available_threads
from twotower.errors import PictureError
from twotower.inputs.pictures import Picture

Item = TypeVar("Item")
Result = TypeVar("Result")
NICENESS = 10  # of decoders, added to that of the process
_FADE_SECONDS = 30.0  # after which waits count half


class StageTimes:
    """The time that the stages of a pipeline wait for each other, most of all lately.

    Attributes:
        threads: that decode.
        encoder_waits: seconds that the encoder waited for pixels.
        decoders_wait: seconds that all decoders waited for room in the queue.
        reading, decoding: seconds of the decoders, where a caller measures them.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or available_threads()
        self.encoder_waits = self.decoders_wait = 0.0
        self.reading = self.decoding = 0.0
        self._lock = threading.Lock()
        self._decoding = 0  # items in the hands of decoders
        self._idle_since: float | None = None
        self._faded_at = time.monotonic()

    @property
    def limit(self) -> str:
        """The stage that limits the rate, such as "decode-bound, 2 cores"; "" without waits.

        "read-bound" if the decoders spend most of their time on reading files.
        """
        if self.encoder_waits == self.decoders_wait:
            return ""
        if self.encoder_waits < self.decoders_wait:
            return "encode-bound"
        if self.reading > self.decoding:
            return "read-bound"
        cores = "core" if self.threads == 1 else "cores"
        return f"decode-bound, {self.threads} {cores}"

    def begin_decoding(self) -> None:
        """Count an item that is waiting for a decoder, which ends the wait of the decoders."""
        with self._lock:
            now = time.monotonic()
            if self._decoding == 0 and self._idle_since is not None:
                self.decoders_wait += now - self._idle_since
            self._decoding += 1
            if now - self._faded_at > _FADE_SECONDS:
                self.encoder_waits /= 2
                self.decoders_wait /= 2
                self.reading /= 2
                self.decoding /= 2
                self._faded_at = now

    def add_work(self, reading: float, decoding: float) -> None:
        """Count the seconds that a decoder spent on an item."""
        with self._lock:
            self.reading += reading
            self.decoding += decoding

    def end_decoding(self) -> None:
        """Count an item that is decoded."""
        with self._lock:
            self._decoding -= 1
            self._idle_since = time.monotonic()


@dataclass(frozen=True)
class EncodedPicture:
    """The result of a picture: `image_embeds` [embed_dim] of unit length, or an error."""

    source: Picture
    image_embeds: Float32Array | None
    error: PictureError | None


def encode_stream(
    pictures: Iterable[Picture],
    preprocess: Callable[[Picture], Float32Array],
    encode: Callable[[Float32Array], Float32Array],
    batch_size: int,
) -> Iterator[EncodedPicture]:
    """Yield one `EncodedPicture` for each picture, in order.

    A picture that cannot be read yields its error and does not affect the others.

    Args:
        preprocess: picture -> pixel_values [3, S, S]; runs in threads.
        encode: pixel_values [n, 3, S, S] -> image_embeds [n, embed_dim]; runs in the caller's
            thread.
    """
    for source, outcome in encode_ahead(pictures, preprocess, encode, batch_size):
        if isinstance(outcome, PictureError):
            yield EncodedPicture(source, None, outcome)
        else:
            yield EncodedPicture(source, outcome, None)


def encode_ahead(
    items: Iterable[Item],
    preprocess: Callable[[Item], Float32Array],
    encode: Callable[[Float32Array], Float32Array],
    batch_size: int,
    times: StageTimes | None = None,
) -> Iterator[tuple[Item, Float32Array | PictureError]]:
    """Yield each item with its image_embeds [embed_dim] or its error, in order.

    Args:
        preprocess, encode: as in `encode_stream`.
        times: measures the stages.
    """
    batch: list[tuple[Item, Float32Array | PictureError]] = []
    decoded = 0
    for item, outcome in read_ahead(preprocess, items, ahead=2 * batch_size, times=times):
        batch.append((item, outcome))
        decoded += not isinstance(outcome, PictureError)
        if decoded == batch_size or len(batch) == 4 * batch_size:
            yield from _encode_batch(batch, encode)
            batch, decoded = [], 0
    yield from _encode_batch(batch, encode)


def _encode_batch(
    batch: list[tuple[Item, Float32Array | PictureError]],
    encode: Callable[[Float32Array], Float32Array],
) -> Iterator[tuple[Item, Float32Array | PictureError]]:
    pixel_values = [pixels for _, pixels in batch if not isinstance(pixels, PictureError)]
    embeds = iter(encode(np.stack(pixel_values)) if pixel_values else ())
    for item, outcome in batch:
        yield item, outcome if isinstance(outcome, PictureError) else next(embeds)


def read_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
    times: StageTimes | None = None,
) -> Iterator[tuple[Item, Result | PictureError]]:
    """Map `function` over `items` in threads, with at most `ahead` results in flight.

    Args:
        times: has the number of threads, by default one for each core, and measures them.

    Yields:
        (item, result) in the order of the items; a `PictureError` is a result. Other exceptions
        are raised.
    """
    times = times or StageTimes()
    pool = ThreadPoolExecutor(times.threads, "twotower-decode", initializer=_lower_priority)
    pending: deque[tuple[Item, Future[Any]]] = deque()
    try:
        for item in items:
            times.begin_decoding()
            future = pool.submit(function, item)
            future.add_done_callback(lambda _: times.end_decoding())
            pending.append((item, future))
            if len(pending) >= ahead:
                yield _outcome(*pending.popleft(), times)
        while pending:
            yield _outcome(*pending.popleft(), times)
    finally:  # no thread is left running, even if the consumer stops early
        pool.shutdown(wait=True, cancel_futures=True)


def _lower_priority() -> None:
    """Let the threads of the encoder go first, each of which waits for the slowest of them.

    Decoders then take the cores that it leaves, and all of them while it waits for pixels.
    """
    if sys.platform == "linux":  # elsewhere threads have no priority of their own
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + NICENESS
        os.setpriority(os.PRIO_PROCESS, thread, min(niceness, 19))


def _outcome(item: Item, future: Future[Any], times: StageTimes) -> tuple[Item, Any]:
    start = time.monotonic()
    try:
        return item, future.result()
    except PictureError as error:
        return item, error
    finally:
        times.encoder_waits += time.monotonic() - start
