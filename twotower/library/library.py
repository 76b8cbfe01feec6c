"""`Library`: a folder of pictures, indexed and searched."""

from __future__ import annotations

import errno
import hashlib
import json
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from twotower.library.calibrate import CALIBRATION_FILE
from twotower.library.catalog import (
    CATALOG_FILE,
    LIBRARY_FOLDER,
    Catalog,
    LibraryError,
    ModelRecord,
    create_folder,
)
from twotower.library.vectors import LocalVectors, Vectors, open_vectors

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder
    from twotower.library.indexing import IndexReport, Progress
    from twotower.library.search import Answer, Hit

LOCAL = "local"  # as `vectors`: beside the catalog
_LISTED_BY = 256  # texts, on which it is measured how many lists must be read


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
        engine: str = "onnxruntime",
    ) -> None:
        """Open the library of `root`; nothing is written before `index`.

        Args:
            model: what to index with, as `load` takes it; by default what the library was
                indexed with, or the bundled one.
            location: where catalog and vectors lie; by default in `root`, in ".twotower". If it
                is given, `root` may be None: it is known from there.
            vectors: where to keep them, from the next `index` on: `milvus://host:port/collection`,
                a `.db` file of Milvus Lite, or "local" for beside the catalog; by default where
                they are, at first beside the catalog.
            engine: what runs the model, as for `load`.

        Raises:
            LibraryError: `root` is no folder, or what is at `location` cannot be used.
        """
        if root is None and location is None:
            raise LibraryError("give the folder of pictures, or where its library lies")
        _check_folder(root)
        # absolute: the program may go to another folder
        self._root = Path(root).absolute() if root is not None else None
        self.location = Path(location or Path(root or ".") / LIBRARY_FOLDER).absolute()
        if vectors not in (None, LOCAL) and "://" not in vectors:
            vectors = str(Path(vectors).expanduser().absolute())
        self._wanted_model, self._wanted_vectors, self._engine = model, vectors, engine

    @property
    def root(self) -> Path:
        """The folder of pictures."""
        return self._root if self._root is not None else self.catalog.root

    @cached_property
    def catalog(self) -> Catalog:
        """What is known of the pictures.

        Raises:
            LibraryError: before the first `index`, or where the library was moved away from them.
        """
        catalog = Catalog(self.location)
        if before := catalog.strayed_from():
            catalog.close()
            raise LibraryError(
                f"{self.location}: was moved away from its pictures, which were in {before}; "
                f"say where they are: twotower index PICTURES --library {self.location}"
            )
        return catalog

    @cached_property
    def vectors(self) -> Vectors:
        """The vectors to search: those of the model in use."""
        return self._vectors_of(self._model_in_use())

    @cached_property
    def model(self) -> Encoder:
        """The encoder that the library was indexed with.

        Raises:
            LibraryError: the model of that name is another one now.
        """
        from twotower.encode.load import load

        record = self._model_in_use()
        encoder = load(record.source, engine=self._engine)
        if file_facts(encoder) != record.files and fingerprint(encoder) != record.fingerprint:
            raise LibraryError(
                f"{record.source}: no longer the model that {self.location} was indexed with; "
                "bring that one back, or index again"
            )
        return encoder

    def index(
        self, progress: Callable[[Progress], None] | None = None, *, approximate: bool = False
    ) -> IndexReport:
        """Bring catalog and vectors up to what is on the disk now.

        With another model than before, all pictures are embedded beside the vectors in use, which
        are searched meanwhile and exchanged for the new ones at the end. Whatever stops it, it
        goes on where it was when it is called again.

        Args:
            approximate: search from now on by lists of like pictures (`lists.py`), which finds
                nearly all of the nearest, but among ten millions a hundred times as fast.

        Raises:
            LibraryError: another process is at it, the disk is full or cannot be read, or lists
                are asked for where they cannot be built.
        """
        from twotower.encode.load import BUNDLED_NAME, load
        from twotower.library.indexing import Indexing
        from twotower.library.lists import need_faiss
        from twotower.library.lock import sole_writer

        _check_folder(self._root)
        if approximate:
            need_faiss()
        self.close()
        source = self._wanted_model or self._source_used() or BUNDLED_NAME
        encoder = load(source, engine=self._engine)
        create_folder(self.location)
        with sole_writer(self.location), _disk_errors(self.location):
            root = self.root
            self.close()
            catalog = self.__dict__["catalog"] = Catalog(self.location, root)
            used = catalog.model
            before = {one.id for one in catalog.models()}
            target = catalog.add_model(self._describe(encoder, str(source), used))
            try:
                vectors = self._vectors_of(target)
            except LibraryError:
                if target.id not in before:
                    catalog.remove_model(target)
                raise
            if used is None:
                catalog.use_model(target)  # what is there can be searched from the start
            had = False
            if used and used.id != target.id:
                had = self._take_over(used, vectors, same=used.fingerprint == target.fingerprint)
            report = Indexing(catalog, vectors, encoder, progress).run()
            _build_lists(vectors, encoder, progress, asked=approximate, had=had)
            catalog.use_model(target)
            for other in catalog.models():
                if other.id < target.id:  # a later one is still being built
                    self._drop(other)
        self.__dict__.update(vectors=vectors, model=encoder)
        return report

    def search(
        self,
        query: str,
        *,
        top: int = 20,
        offset: int = 0,
        all: bool = False,
        sort: Literal["relevance", "date"] = "relevance",
        group: bool = True,
    ) -> Answer:
        """Find pictures by words, pictures and filters; see `twotower.library.search.search`."""
        from twotower.library.search import search

        return search(self, query, top=top, offset=offset, all=all, sort=sort, group=group)

    def similar(self, picture: str | Path, *, top: int = 20, all: bool = False) -> Answer:
        """Pictures that look like one; see `twotower.library.search.similar`."""
        from twotower.library.search import similar

        return similar(self, picture, top=top, all=all)

    def duplicates(self) -> list[list[Hit]]:
        """Groups of copies; see `twotower.library.search.duplicates`."""
        from twotower.library.search import duplicates

        return duplicates(self)

    def close(self) -> None:
        """Let go of the files; they are opened again when they are needed."""
        for name in ("vectors", "catalog"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()
        self.__dict__.pop("model", None)

    def _source_used(self) -> str | None:
        """What the library was indexed with before, if it was."""
        if self._root is not None and not (self.location / CATALOG_FILE).exists():
            return None
        with Catalog(self.location) as catalog:
            record = catalog.model
        return record.source if record else None

    def _describe(self, encoder: Encoder, source: str, used: ModelRecord | None) -> ModelRecord:
        from twotower.encode.load import BUNDLED_NAME

        if source != BUNDLED_NAME and Path(source).expanduser().exists():
            source = str(Path(source).expanduser().absolute())
        vectors = self._wanted_vectors or (used.vectors if used else None)
        if vectors == LOCAL:
            vectors = None
        return ModelRecord(
            id=0,
            name=encoder.config.name,
            source=source,
            fingerprint=fingerprint(encoder),
            files=file_facts(encoder),
            embed_dim=encoder.config.embed_dim,
            vectors=vectors,
        )

    def _model_in_use(self) -> ModelRecord:
        record = self.catalog.model
        if record is None:
            raise LibraryError(f"{self.location}: nothing is indexed yet; run: twotower index")
        return record

    def _take_over(self, used: ModelRecord, vectors: Vectors, same: bool) -> bool:
        """Copy what is in use if it is of the same model, as far as it can be reached.

        Returns:
            Whether those in use are searched by lists.
        """
        if not same and used.vectors is not None:
            return False  # Milvus has no lists, and need not be reached
        try:
            with closing(self._vectors_of(used)) as source:
                if same:
                    _copy(source, vectors)
                return isinstance(source, LocalVectors) and source.has_lists()
        except LibraryError as error:
            warnings.warn(f"{error}; the pictures are read again", stacklevel=2)
            return False

    def _drop(self, record: ModelRecord) -> None:
        """Forget a model that is no longer used, and delete its vectors if they can be reached."""
        try:
            self._vectors_of(record).drop()
        except LibraryError as error:
            warnings.warn(f"{error}; what is there is no longer used, and stays", stacklevel=2)
        self.catalog.remove_model(record)

    def _vectors_of(self, record: ModelRecord) -> Vectors:
        name = f"{self.catalog.name}_{record.id}"
        location = record.vectors or self.location / f"vectors-{record.id}"
        return open_vectors(location, record.embed_dim, name)


def _check_folder(root: str | Path | None) -> None:
    if root is not None and not Path(root).is_dir():
        raise LibraryError(f"{root}: no such folder; give the folder of pictures")


def fingerprint(encoder: Encoder) -> str:
    """A hash over all that decides the numbers: weights, architecture, preprocessing, tokenizer."""
    config = asdict(encoder.config)
    del config["name"], config["templates"]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for path in _model_files(encoder):
        if path.name != "config.json":  # what counts of it is in `config`
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def file_facts(encoder: Encoder) -> str:
    """Names, sizes and times of change of a model's files: the same files have the same hash."""
    stats = [(path.name, path.stat()) for path in _model_files(encoder)]
    return json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def _model_files(encoder: Encoder) -> list[Path]:
    """Weights and vocabulary, and the configuration."""
    endings = (".json", ".txt", ".model")
    named = [
        path
        for path in encoder.directory.iterdir()
        if path.suffix in endings and path.name != CALIBRATION_FILE  # decides no vector
    ]
    return sorted([*named, encoder.directory / "model.safetensors"])


def _build_lists(
    vectors: Vectors,
    encoder: Encoder,
    progress: Callable[[Progress], None] | None,
    *,
    asked: bool,
    had: bool,
) -> None:
    """Build the lists of local vectors where they are asked for, out of date, or were `had` before.

    Raises:
        LibraryError: they are asked for and cannot be built.
    """
    from twotower.library.calibrate import background_texts
    from twotower.library.indexing import Progress
    from twotower.library.lists import LEAST

    if not isinstance(vectors, LocalVectors):
        if asked:
            raise LibraryError(
                "--approximate is for vectors on this machine; Milvus searches its own"
            )
        return
    due = vectors.is_stale() or (had and not vectors.has_lists())
    if asked or (due and len(vectors) >= LEAST):

        def say(done: int, total: int) -> None:
            if progress:
                progress(Progress(done, total, 0, "Building lists"))

        queries = encoder.encode_text(background_texts()[:_LISTED_BY])
        vectors.approximate(queries, say)


def _copy(source: Vectors, target: Vectors) -> None:
    """All vectors of one place to another."""
    ids = np.setdiff1d(source.ids(), target.ids())
    for start in range(0, len(ids), 10_000):
        some = ids[start : start + 10_000]
        target.add(some, source.get(some))


@contextmanager
def _disk_errors(location: Path) -> Iterator[None]:
    """What a full or failing disk gives, as `LibraryError`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        reason = str(error)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        reason = error.strerror or str(error)
    else:
        return
    raise LibraryError(
        f"{location}: cannot be written ({reason}); what was committed is kept: make room and "
        "index again"
    )


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
