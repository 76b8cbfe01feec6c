"""The server: its settings, models, decoders and metrics, opened together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from twotower.encode.load import load
from twotower.encode.registry import DEFAULT_MODEL
from twotower.index.index import Index
from twotower.serve.access import Access
from twotower.serve.decoding import DecoderPool
from twotower.serve.errors import RequestError
from twotower.serve.metrics import Metrics
from twotower.serve.models import ServedModel, ServedModels, model_name
from twotower.serve.picture_index import LocalPictureIndex, PictureIndex

if TYPE_CHECKING:
    from twotower.serve.settings import ServerSettings


class Server:
    """The models, decoders and metrics that endpoints work with.

    Attributes:
        picture_index: the pictures of the library; None without one.
        ready: set once the models are loaded.
        closing: set when the server shuts down, so that open streams end.
    """

    def __init__(self, settings: ServerSettings) -> None:
        """Open the models; their towers start in `start`.

        Raises:
            ModelError: a model does not exist or cannot be read.
            LibraryError: the library cannot be opened.
        """
        self.settings = settings
        self.access = Access(settings.api_key)
        self.metrics = Metrics()
        self.decoders = DecoderPool(
            settings.decoders,
            seconds=settings.decode_seconds,
            memory_mb=settings.decode_memory_mb,
            max_pixels=settings.max_pixels,
        )
        self.picture_index = _open_picture_index(settings)
        self.models = ServedModels([self._open_model(source) for source in self._sources()])
        self.ready, self.closing = asyncio.Event(), asyncio.Event()
        self._warm_up: asyncio.Task[None] | None = None
        batchers = [
            batcher
            for model in self.models.models.values()
            for batcher in (model.texts, model.pictures, model.questions)
        ]
        self.metrics.add_batchers(batchers)  # type: ignore[arg-type]
        self.metrics.add_counter(
            "twotower_decoder_restarts",
            "Decoders that were stopped by a picture.",
            lambda: self.decoders.restarts,
        )

    async def start(self) -> None:
        """Load the models in the background; `ready` is set when they answer."""
        self._warm_up = asyncio.create_task(self._load_models())

    async def stop(self) -> None:
        """Finish the waiting items, then stop models and decoders."""
        self.closing.set()
        if self._warm_up is not None:
            self._warm_up.cancel()
        await asyncio.gather(*(model.close() for model in self.models.models.values()))
        await self.decoders.close()
        if self.picture_index is not None:
            await self.picture_index.close()

    def require_ready(self) -> None:
        """Check that the models are loaded.

        Raises:
            RequestError: 503, they are being loaded, or the server is shutting down.
        """
        if not self.ready.is_set() or self.closing.is_set():
            raise RequestError(503, "the models are being loaded, or the server is shutting down")

    async def _load_models(self) -> None:
        await asyncio.gather(*(model.warm_up() for model in self.models.models.values()))
        self.ready.set()

    def _sources(self) -> list[str]:
        """Return the models of the settings, or else the default, and that of the library."""
        sources = list(map(model_name, self.settings.models))
        if self.picture_index is not None:
            sources.append(self.picture_index.model)
        return list(dict.fromkeys(sources)) or [DEFAULT_MODEL]

    def _open_model(self, source: str) -> ServedModel:
        encoder = load(source, engine=self.settings.engine)
        return ServedModel(source, encoder, self.decoders, self.settings)


def _open_picture_index(settings: ServerSettings) -> PictureIndex | None:
    if settings.folder is None and settings.library is None:
        return None
    return LocalPictureIndex(Index(settings.folder, location=settings.library))
