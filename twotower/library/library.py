"""`Library`: a folder of pictures, indexed and searched."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twotower.library.catalog import (
    LIBRARY_FOLDER,
    Catalog,
    LibraryError,
    ModelRecord,
    PictureRecord,
)
from twotower.library.vectors import Vectors, open_vectors

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder


@dataclass(frozen=True)
class IndexReport:
    """What `Library.index` did, in pictures."""

    added: int = 0
    moved: int = 0
    removed: int = 0
    unchanged: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Progress:
    """How far `Library.index` is: pictures done of those to do, by now."""

    done: int
    total: int
    failed: int


class Library:
    """The pictures of a folder, by what they show.

    Attributes:
        location: the folder with the catalog and the vectors.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        model: str | Path | None = None,
        location: str | Path | None = None,
        vectors: str | None = None,
    ) -> None:
        """Open the library of `root`; nothing is written before `index`.

        Args:
            model: what to index with, as `load` takes it; by default what the library was
                indexed with, or the bundled one.
            location: where catalog and vectors lie; by default in `root`, in ".twotower". If it
                is given, `root` may be None: it is known from there.
            vectors: `milvus://host:port/collection`, or a `.db` file of Milvus Lite, for the
                vectors; by default they lie beside the catalog.

        Raises:
            LibraryError: `root` is no folder, or what is at `location` cannot be used.
        """
        if root is None and location is None:
            raise LibraryError("give the folder of pictures, or where its library lies")
        self.location = Path(location) if location else Path(root or ".") / LIBRARY_FOLDER
        self._root = Path(root) if root is not None else None
        if self._root is not None and not self._root.is_dir():
            raise LibraryError(f"{self._root}: no such folder; give the folder of pictures")
        self._wanted_model, self._wanted_vectors = model, vectors

    @property
    def root(self) -> Path:
        """The folder of pictures."""
        return self._root if self._root is not None else self.catalog.root

    @cached_property
    def catalog(self) -> Catalog:
        """What is known of the pictures. Raises `LibraryError` before the first `index`."""
        return Catalog(self.location)

    @cached_property
    def vectors(self) -> Vectors:
        """The vectors to search: those of the model in use."""
        return self._vectors_of(self._model_in_use())

    @cached_property
    def model(self) -> Encoder:
        """The encoder that the library was indexed with; checked to be still the same."""
        from twotower.encode.load import load

        return load(self._model_in_use().source)

    def index(self, progress: Callable[[Progress], None] | None = None) -> IndexReport:
        """Bring catalog and vectors up to what is on the disk now."""
        from twotower.encode.load import load
        from twotower.inputs.pictures import find_pictures

        catalog = self.__dict__["catalog"] = Catalog(self.location, self.root)
        model = load(self._wanted_model)
        record = ModelRecord(
            0,
            model.config.name,
            str(self._wanted_model or "twotower-small"),
            "to come",
            "{}",
            model.config.embed_dim,
            self._wanted_vectors,
        )
        record = catalog.add_model(record)
        catalog.use_model(record)
        known = catalog.known()
        added = failed = 0
        for encoded in model.stream(find_pictures([self.root])):
            path = Path(str(encoded.source))
            relative = path.relative_to(self.root).as_posix()
            if os.fsencode(relative) in known:
                continue
            stat = path.stat()
            one = PictureRecord(catalog.next_id(), relative, stat.st_size, stat.st_mtime_ns)
            if encoded.image_embeds is None:
                failed += 1
                one = replace(one, error=str(encoded.error))
            else:
                added += 1
                self.vectors.add(np.array([one.id]), encoded.image_embeds[None])
            catalog.replace([], [one])
        return IndexReport(added=added, failed=failed)

    def close(self) -> None:
        """Let go of the files."""
        if "vectors" in self.__dict__:
            self.vectors.close()
        if "catalog" in self.__dict__:
            self.catalog.close()

    def _model_in_use(self) -> ModelRecord:
        record = self.catalog.model
        if record is None:
            raise LibraryError(f"{self.root}: nothing is indexed yet; run: twotower index")
        return record

    def _vectors_of(self, record: ModelRecord) -> Vectors:
        location = record.vectors or self.location / f"vectors-{record.id}"
        return open_vectors(location, record.embed_dim)
