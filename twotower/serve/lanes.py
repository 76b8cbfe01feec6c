"""Lanes: the library of a server, opened once for each family of requests, in a thread of its own.

SQLite connections and vectors are not shared among threads, and a search must not wait for
duplicates to be compared. All lanes share the model: its towers run in the batchers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from twotower.encode.encoder import Encoder
from twotower.errors import LibraryError
from twotower.index.index import Index
from twotower.library import Library
from twotower.serve.errors import RequestError

if TYPE_CHECKING:
    from twotower.arrays import Float32Array
    from twotower.index.schema import ModelRecord
    from twotower.progress import Progress
    from twotower.serve.batcher import Batcher
    from twotower.serve.models import ServedModel

Result = TypeVar("Result")
NOT_INDEXED = 409  # the HTTP status before the first picture is indexed
_CHUNK = 32  # items that a lane submits at once, so that other requests get their turn


class SharedEncoder(Encoder):
    """A model for one lane, whose towers run in the batchers of a served model."""

    def __init__(self, served: ServedModel, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(served.encoder.directory, served.encoder.engine)
        self._served, self._loop = served, loop

    def encode_text(self, texts: str | Sequence[str], batch_size: int = 256) -> Float32Array:
        """Embed texts; see `Encoder.encode_text`. Texts of similar length share a batch."""
        items = [texts] if isinstance(texts, str) else list(texts)
        order = sorted(range(len(items)), key=lambda row: len(items[row]))
        embeds = np.zeros((len(items), self.config.embed_dim), np.float32)
        embeds[order] = self._embed(self._served.texts, [items[row] for row in order])
        return embeds

    def encode_pixels(self, pixel_values: Float32Array) -> Float32Array:
        """Embed pixels; see `Encoder.encode_pixels`."""
        return self._embed(self._served.pictures, list(pixel_values))

    def _embed(self, batcher: Batcher[Any, Float32Array], items: list[Any]) -> Float32Array:
        rows: list[Float32Array] = []
        for start in range(0, len(items), _CHUNK):
            submission = batcher.submit(items[start : start + _CHUNK])
            rows += asyncio.run_coroutine_threadsafe(submission, self._loop).result()
        return np.stack(rows) if rows else np.zeros((0, self.config.embed_dim), np.float32)


class Lane:
    """A library in a thread of its own; it is opened, and after a change of model again, on use."""

    def __init__(
        self,
        name: str,
        open_library: Callable[[], Library],
        open_model: Callable[[ModelRecord], ServedModel],
    ) -> None:
        self._open_library, self._open_model = open_library, open_model
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"twotower-{name}")
        self._library: Library | None = None
        self._model_id: int | None = None
        self._closing = False

    def report(self, progress: Progress) -> None:
        """Stop a long function at its next report of progress once the lane closes.

        Raises:
            RequestError: 503, the lane closes.
        """
        if self._closing:
            raise RequestError(503, "the server is shutting down")

    async def run(self, function: Callable[[Index], Result]) -> Result:
        """Return the result of a function of the index, after those that wait already.

        Raises:
            RequestError: 409, nothing is indexed yet.
            Exception: the exception of the function.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: function(self._refreshed(loop)))

    async def close(self) -> None:
        """Finish what runs, drop what waits, and close the library."""

        self._closing = True
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)
        if self._library is not None:
            self._library.close()

    def _refreshed(self, loop: asyncio.AbstractEventLoop) -> Index:
        """Return the index with the model in use, which indexing can have changed."""
        if self._library is None:
            self._library = self._open_library()
        index = self._library.opened
        if not index.exists:
            raise RequestError(NOT_INDEXED, "nothing is indexed yet")
        try:
            record = index.catalog.model
        except LibraryError:
            index.close()
            raise
        if record is None:
            raise RequestError(NOT_INDEXED, "nothing is indexed yet")
        if record.id != self._model_id:
            index.close()
            index.use_encoder(SharedEncoder(self._open_model(record), loop))
            self._model_id = record.id
        return index
