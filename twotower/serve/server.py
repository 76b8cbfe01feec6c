"""The server: its settings, models, decoders and metrics, opened together."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from twotower.encode.load import load
from twotower.encode.registry import DEFAULT_MODEL, bundled_name
from twotower.serve.access import Access
from twotower.serve.decoding import DecoderPool
from twotower.serve.library import LibraryService
from twotower.serve.metrics import Metrics
from twotower.serve.models import ServedModel, ServedModels

if TYPE_CHECKING:
    from twotower.serve.batcher import Batcher
    from twotower.serve.settings import ServerSettings


class Server:
    """The models, decoders and metrics that endpoints work with.

    Attributes:
        library: None for a server of models alone.
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
        self._lock = threading.Lock()
        self._batchers: list[Batcher[Any, Any]] = []
        self._by_source: dict[str, ServedModel] = {}
        self.library: LibraryService | None = None
        if settings.folder or settings.library:
            self.library = LibraryService(settings, self.model_of)
        self.models = ServedModels([self.model_of(source) for source in self._sources()])
        self.ready, self.closing = asyncio.Event(), asyncio.Event()
        self._warm_up: asyncio.Task[None] | None = None
        self.metrics.add_batchers(self._batchers)
        self.metrics.add_counter(
            "twotower_decoder_restarts",
            "Decoders that were stopped by a picture.",
            lambda: self.decoders.restarts,
        )

    async def start(self) -> None:
        """Load the models in the background; `ready` is set when they answer."""
        self._warm_up = asyncio.create_task(self._load_models())
        if self.library is not None:
            await self.library.start()

    async def stop(self) -> None:
        """Finish the waiting items, then stop models and decoders."""
        self.closing.set()
        if self._warm_up is not None:
            self._warm_up.cancel()
        if self.library is not None:
            await self.library.close()
        await asyncio.gather(*(model.close() for model in self._by_source.values()))
        await self.decoders.close()

    async def _load_models(self) -> None:
        await asyncio.gather(*(model.warm_up() for model in self.models.models.values()))
        self.ready.set()

    def model_of(self, source: str) -> ServedModel:
        """Return the model that `load` takes `source` for; it is opened once. Runs in any thread.

        Raises:
            ModelError: it does not exist or cannot be read.
        """
        name = bundled_name(source) or source
        with self._lock:
            if name not in self._by_source:
                encoder = load(source, engine=self.settings.engine)
                model = ServedModel(name, encoder, self.decoders, self.settings)
                self._batchers += [model.texts, model.pictures]
                self._by_source[name] = model
            return self._by_source[name]

    def _sources(self) -> tuple[str, ...]:
        """Return the models to serve; by default that of the library."""
        of_library = self.library.model_source if self.library is not None else None
        return self.settings.models or (of_library or DEFAULT_MODEL,)
