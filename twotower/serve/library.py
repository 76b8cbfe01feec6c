"""The library of a server: lanes for its families of requests, thumbnails, uploads and indexing."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.errors import LibraryError, PictureError
from twotower.index.catalog import REPLACED_TO, STOPPED_AT
from twotower.library import Library
from twotower.serve.decoding import DecoderPool
from twotower.serve.errors import RequestError
from twotower.serve.indexer import Indexer
from twotower.serve.lanes import NOT_INDEXED, Lane
from twotower.serve.library_queries import find_file
from twotower.serve.tags import LibraryTags
from twotower.serve.thumbnails import ThumbnailCache
from twotower.serve.uploads import THUMBNAIL_HEIGHT, Upload, Uploads

if TYPE_CHECKING:
    from collections.abc import Callable

    from twotower.index.index import Index
    from twotower.index.schema import ModelRecord
    from twotower.search.hits import Hit
    from twotower.serve.models import EmbeddedPicture, ServedModel
    from twotower.serve.settings import ServerSettings

MAX_CAMERAS = 50
_THUMBNAIL_FOLDER = "thumbnails"  # in the folder of the library


@dataclass(frozen=True)
class LibraryFacts:
    """Facts about a library: its pictures, its model and the commonest cameras.

    Attributes:
        version: of the ids of its pictures; a library that is made anew has another.
    """

    pictures: int
    failed: int
    model: str
    better_model: str | None
    cameras: list[str]
    version: str


class LibraryService:
    """A library that many requests use at once.

    Attributes:
        root: the folder of pictures.
        searches, facts, asking, comparisons: lanes; a search waits only for searches.
        tags: the tags of its pictures.
        model_source: the model at the start, as `load` takes it; None if nothing is indexed.
        thumbnails: small pictures.
        uploads: pictures of clients to search with.
        indexer: runs indexing.
    """

    def __init__(self, settings: ServerSettings, open_model: Callable[[str], ServedModel]) -> None:
        """Open the library; it need not be indexed yet.

        Raises:
            LibraryError: there is no such folder, or its catalog cannot be used.
        """
        self._settings, self._open_model = settings, open_model
        library = self._open()
        if not (library.exists or settings.folder):
            raise LibraryError(library.location, "no library there", "give the folder of pictures")
        self.location, self.root = library.location, library.root
        self.model_source = _source_of(library)
        self._must_index = _is_unfinished(library)
        library.close()
        self._decoders = DecoderPool(
            max(1, (settings.decoders or os.cpu_count() or 1) // 2),  # the others are for requests
            seconds=settings.decode_seconds,
            memory_mb=settings.decode_memory_mb,
            max_pixels=settings.max_pixels,
        )
        lanes = {name: Lane(name, self._open, self._served) for name in _LANES}
        self.searches, self.facts = lanes["search"], lanes["facts"]
        self.asking, self.comparisons = lanes["asking"], lanes["duplicates"]
        self.tags = LibraryTags(lanes["tags"])
        self._lanes = lanes
        self.thumbnails = ThumbnailCache(self.location / _THUMBNAIL_FOLDER, self._decoders)
        self.uploads = Uploads()
        self._duplicates: tuple[object, list[list[Hit]]] | None = None
        self._cleaning: asyncio.Task[None] | None = None
        model = settings.models[0] if settings.models and self.model_source is None else None
        root = Path(settings.folder) if settings.folder else None
        self.indexer = Indexer(root, self.location, model, settings.engine)

    @property
    def name(self) -> str:
        """The name of the folder of pictures."""
        return self.root.resolve().name

    async def start(self) -> None:
        """Index in the background what is new or unfinished, if nothing is indexed yet."""
        if self._must_index:
            self.start_indexing()

    async def close(self) -> None:
        """Stop indexing and lanes."""
        await self.indexer.stop()
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))
        await self._decoders.close()

    def start_indexing(self) -> None:
        """Bring the library up to date in the background, unless that is going on."""
        self.indexer.start(then=self._after_indexing)

    async def is_indexed(self) -> bool:
        """Return True once the first picture can be searched."""
        try:
            await self.version()
        except RequestError as error:
            if error.status != NOT_INDEXED:
                raise
            return False
        return True

    async def describe(self) -> LibraryFacts:
        """Return facts about the library.

        Raises:
            RequestError: 409, nothing is indexed yet.
        """

        def read(index: Index) -> LibraryFacts:
            catalog = index.catalog
            model = catalog.model
            assert model is not None  # a lane has one
            return LibraryFacts(
                len(catalog),
                catalog.count_errors(),
                model.name,
                index.better_model,
                catalog.cameras(MAX_CAMERAS),
                catalog.name,
            )

        return await self.facts.run(read)

    async def version(self) -> str:
        """Return the version of the ids of the pictures.

        Raises:
            RequestError: 409, nothing is indexed yet.
        """
        return await self.facts.run(lambda index: index.catalog.name)

    async def thumbnail(self, number: int, height: int) -> bytes:
        """Return a JPEG of a picture of about that height.

        Raises:
            RequestError: 404 or 410, there is no such picture or file; 422, it has no pixels.
        """
        _, path, _ = await self.facts.run(lambda index: find_file(index, number))
        try:
            return await self.thumbnails.thumbnail(number, path, height)
        except PictureError as error:
            raise RequestError(422, f"the picture {error.reason}; {error.remedy}") from error

    async def view(self, number: int) -> bytes:
        """Return a JPEG of a picture that every browser shows.

        Raises:
            RequestError: as `thumbnail`.
        """
        _, path, _ = await self.facts.run(lambda index: find_file(index, number))
        try:
            return await self.thumbnails.view(number, path)
        except PictureError as error:
            raise RequestError(422, f"the picture {error.reason}; {error.remedy}") from error

    async def served_model(self) -> ServedModel:
        """Return the model of the library.

        Raises:
            RequestError: 409, nothing is indexed yet.
        """

        def source(index: Index) -> str:
            assert index.catalog.model is not None  # a lane has one
            return index.catalog.model.source

        return self._open_model(await self.facts.run(source))

    async def add_upload(self, content: bytes) -> tuple[str, EmbeddedPicture]:
        """Keep an uploaded picture to search with; return its token and its embedding.

        Raises:
            RequestError: 409, nothing is indexed yet; 422, it cannot be decoded; 429.
        """
        model = await self.served_model()
        embedded = await model.embed_picture(content)
        thumbnail, _, _ = await self._decoders.thumbnail(content, THUMBNAIL_HEIGHT)
        token = self.uploads.add(Upload(model.name, embedded.image_embeds, thumbnail))
        return token, embedded

    async def find_upload(self, token: str) -> Upload:
        """Return an upload for a search.

        Raises:
            RequestError: 404, it is unknown, or was embedded by an earlier model of the library.
        """
        upload = self.uploads.find(token)
        if upload.model != (await self.served_model()).name:
            raise RequestError(404, "the library has a new model; upload the picture again")
        return upload

    async def duplicates(self) -> list[list[Hit]]:
        """Return groups of near-duplicates, each with the largest file first."""

        def compare(index: Index) -> list[list[Hit]]:
            from twotower.search.duplicates import duplicates

            catalog = index.catalog
            state = (catalog.get_setting("model"), catalog.next_id(), len(catalog))
            if self._duplicates is None or self._duplicates[0] != state:
                groups = duplicates(index, report=self.comparisons.report)
                self._duplicates = state, groups
            return self._duplicates[1]

        return await self.comparisons.run(compare)

    def _after_indexing(self) -> None:
        async def remove_stale() -> None:
            ids = await self.facts.run(lambda index: set(index.catalog.select().tolist()))
            await asyncio.to_thread(self.thumbnails.remove_except, ids)

        self._must_index = False
        self._cleaning = asyncio.get_running_loop().create_task(remove_stale())

    def _open(self) -> Library:
        settings = self._settings
        location = settings.library or None
        return Library(settings.folder, location=location, engine=settings.engine)

    def _served(self, record: ModelRecord) -> ServedModel:
        return self._open_model(record.source)


_LANES = ("search", "facts", "asking", "duplicates", "tags")


def _source_of(library: Library) -> str | None:
    """Return the model of a library, as `load` takes it; None before it is indexed."""
    model = library.catalog.model if library.exists else None
    return model.source if model else None


def _is_unfinished(library: Library) -> bool:
    """Return True if nothing is indexed, or indexing was stopped."""
    if not library.exists:
        return True
    catalog = library.catalog
    stopped = catalog.get_setting(STOPPED_AT) or catalog.get_setting(REPLACED_TO)
    return catalog.model is None or bool(stopped)
