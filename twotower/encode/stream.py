"""Embedding many pictures: decoded ahead in threads, yielded in order, in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from twotower.arrays import Float32Array
from twotower.errors import PictureError
from twotower.inputs.pictures import Picture

Item = TypeVar("Item")
Result = TypeVar("Result")


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
    batch: list[tuple[Picture, Float32Array | PictureError]] = []
    decoded = 0
    for source, outcome in read_ahead(preprocess, pictures, ahead=2 * batch_size):
        batch.append((source, outcome))
        decoded += not isinstance(outcome, PictureError)
        if decoded == batch_size or len(batch) == 4 * batch_size:
            yield from _encode_batch(batch, encode)
            batch, decoded = [], 0
    yield from _encode_batch(batch, encode)


def _encode_batch(
    batch: list[tuple[Picture, Float32Array | PictureError]],
    encode: Callable[[Float32Array], Float32Array],
) -> Iterator[EncodedPicture]:
    pixel_values = [pixels for _, pixels in batch if not isinstance(pixels, PictureError)]
    embeds = iter(encode(np.stack(pixel_values)) if pixel_values else ())
    for source, outcome in batch:
        if isinstance(outcome, PictureError):
            yield EncodedPicture(source, None, outcome)
        else:
            yield EncodedPicture(source, next(embeds), None)


def read_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[tuple[Item, Result | PictureError]]:
    """Map `function` over `items` in threads, with at most `ahead` results in flight.

    Yields:
        (item, result) in the order of the items; a `PictureError` is a result. Other exceptions
        are raised.
    """
    pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="twotower-decode")
    pending: deque[tuple[Item, Future[Any]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) >= ahead:
                yield _outcome(*pending.popleft())
        while pending:
            yield _outcome(*pending.popleft())
    finally:  # no thread is left running, even if the consumer stops early
        pool.shutdown(wait=True, cancel_futures=True)


def _outcome(item: Item, future: Future[Any]) -> tuple[Item, Any]:
    try:
        return item, future.result()
    except PictureError as error:
        return item, error
