"""Many pictures through an encoder: decoded ahead in threads, answered in order, memory bounded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from twotower.errors import PictureError
from twotower.inputs.pictures import Picture

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class EncodedPicture:
    """One picture's answer: `image_embeds` [embed_dim] of unit length, or the error."""

    source: Picture
    image_embeds: NDArray[np.float32] | None
    error: PictureError | None


def encode_stream(
    pictures: Iterable[Picture],
    preprocess: Callable[[Picture], NDArray[np.float32]],
    encode: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    batch_size: int,
) -> Iterator[EncodedPicture]:
    """Yield one `EncodedPicture` for each picture, in the order given.

    A picture that cannot be read takes its own place with its error; the others are not affected.

    Args:
        preprocess: picture -> pixel_values [3, S, S]; runs in threads.
        encode: pixel_values [n, 3, S, S] -> image_embeds [n, embed_dim]; runs in the caller's.
    """
    waiting: list[tuple[Picture, NDArray[np.float32] | PictureError]] = []
    decoded = 0
    for source, outcome in read_ahead(preprocess, pictures, ahead=2 * batch_size):
        waiting.append((source, outcome))
        decoded += not isinstance(outcome, PictureError)
        if decoded == batch_size or len(waiting) == 4 * batch_size:
            yield from _answer(waiting, encode)
            waiting, decoded = [], 0
    yield from _answer(waiting, encode)


def _answer(
    waiting: list[tuple[Picture, NDArray[np.float32] | PictureError]],
    encode: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> Iterator[EncodedPicture]:
    pixel_values = [out for _, out in waiting if not isinstance(out, PictureError)]
    embeds = iter(encode(np.stack(pixel_values)) if pixel_values else ())
    for source, outcome in waiting:
        if isinstance(outcome, PictureError):
            yield EncodedPicture(source, None, outcome)
        else:
            yield EncodedPicture(source, next(embeds), None)


def read_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[tuple[Item, Result | PictureError]]:
    """Map `function` over `items` in threads, in order, at most `ahead` results in flight.

    A `PictureError` is a result like any other; every other exception is raised here.
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
    finally:  # also when the consumer stops early: nothing is left running
        pool.shutdown(wait=True, cancel_futures=True)


def _outcome(item: Item, future: Future[Any]) -> tuple[Item, Any]:
    try:
        return item, future.result()
    except PictureError as error:
        return item, error
