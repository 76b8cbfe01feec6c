"""An index: a folder of pictures with its catalog, its vectors and its encoder."""

from __future__ import annotations

import errno
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twotower.encode.golden import file_facts, fingerprint
from twotower.errors import LibraryError
from twotower.files import create_folder, exclusive_lock
from twotower.index.catalog import Catalog, ModelRecord
from twotower.index.local_vectors import LocalVectors
from twotower.index.location import CATALOG_FILE, LIBRARY_FOLDER
from twotower.index.vectors import Vectors
from twotower.progress import Progress, ReportProgress, ignore_progress

if TYPE_CHECKING:
    from twotower.arrays import Float32Array
    from twotower.calibration.calibration import Calibration
    from twotower.encode.encoder import Encoder
    from twotower.index.indexing import IndexReport

LOCAL = "local"  # value of `vectors`: beside the catalog
_ESTIMATE_FROM = 5000  # vectors from which a missing calibration is estimated
_CALIBRATION_TEXTS = 256  # queries on which the number of lists to read is measured


class Index:
    """Root, catalog, vectors and encoder of a library, each opened when it is first needed.

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
        """Open the index of `root`; nothing is written before `update`.

        Args:
            model: the model to index with, as `load` takes it; by default that of the last
                `update`, or the bundled one.
            location: the folder of catalog and vectors; by default ".twotower" in `root`. With it,
                `root` may be None: the catalog knows it.
            vectors: the store of vectors from the next `update` on:
                `milvus://host:port/collection`, a `.db` file of Milvus Lite, or "local" for
                `location`; by default the current one, at first "local".
            engine: the runtime of the model, as for `load`.

        Raises:
            LibraryError: `root` is no folder, or the files at `location` cannot be used.
        """
        if root is None and location is None:
            raise LibraryError(
                "library", "no folder is named", "give the folder of pictures, or its library"
            )
        _require_folder(root)
        # absolute: the program may change its working directory
        self._root = Path(root).absolute() if root is not None else None
        self.location = Path(location or Path(root or ".") / LIBRARY_FOLDER).absolute()
        if vectors not in (None, LOCAL) and "://" not in vectors:
            vectors = str(Path(vectors).expanduser().absolute())
        self._requested_model, self._requested_vectors = model, vectors
        self._engine = engine

    @cached_property
    def root(self) -> Path:
        """The folder of pictures."""
        return self._root if self._root is not None else self.catalog.root

    @property
    def exists(self) -> bool:
        """True after the first `update` has begun."""
        return (self.location / CATALOG_FILE).exists()

    @cached_property
    def catalog(self) -> Catalog:
        """The facts about each picture.

        Raises:
            LibraryError: before the first `update`, or after the library was moved away from its
                pictures.
        """
        catalog = Catalog(self.location)
        if before := catalog.strayed_from():
            catalog.close()
            raise LibraryError(
                self.location,
                f"was moved away from its pictures, which were in {before}",
                f"name their folder: twotower index PICTURES --library {self.location}",
            )
        return catalog

    @cached_property
    def vectors(self) -> Vectors:
        """The vectors of the model in use."""
        return self._vectors_of(self._model_in_use())

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of the model in use.

        Raises:
            LibraryError: the model of that name has changed.
        """
        from twotower.encode.load import load

        record = self._model_in_use()
        encoder = load(record.source, engine=self._engine)
        directory = encoder.directory
        if file_facts(directory) != record.files and fingerprint(directory) != record.fingerprint:
            raise LibraryError(
                record.source,
                f"no longer the model that {self.location} was indexed with",
                "bring that one back, or index again",
            )
        return encoder

    @cached_property
    def calibration(self) -> Calibration:
        """The calibration of the model in use, or, with a warning, an estimate."""
        from twotower.calibration.calibration import require_calibration

        def sample_vectors() -> Float32Array:
            ids = self.vectors.ids()
            return self.vectors.get(ids[:: len(ids) // _ESTIMATE_FROM + 1])

        return require_calibration(self.encoder, self.location, sample_vectors)

    def update(
        self, report: ReportProgress = ignore_progress, *, approximate: bool = False
    ) -> IndexReport:
        """Bring catalog and vectors up to date with the disk.

        With another model than before, all pictures are embedded beside the vectors in use, which
        are searched meanwhile and replaced at the end. After any interruption, the next call goes
        on where this one stopped.

        Args:
            approximate: search from now on by inverted lists (`inverted_file.py`): a few of the
                nearest may be missing, and ten million vectors are searched a hundred times as
                fast.

        Raises:
            LibraryError: another process is updating, the disk is full or cannot be read, or lists
                cannot be built.
        """
        from twotower.encode.load import BUNDLED_NAME, load
        from twotower.index.indexing import Indexing
        from twotower.index.inverted_file import require_faiss

        _require_folder(self._root)
        if approximate:
            require_faiss()
        self.close()
        source = self._requested_model or self._previous_source() or BUNDLED_NAME
        encoder = load(source, engine=self._engine)
        create_folder(self.location)
        with exclusive_lock(self.location), _disk_errors(self.location):
            root = self.root
            self.close()
            catalog = self.__dict__["catalog"] = Catalog(self.location, root)
            previous = catalog.model
            earlier_ids = {record.id for record in catalog.models()}
            target = catalog.add_model(self._describe(encoder, str(source), previous))
            try:
                vectors = self._vectors_of(target)
            except LibraryError:
                if target.id not in earlier_ids:
                    catalog.remove_model(target)
                raise
            if previous is None:
                catalog.use_model(target)  # what is indexed can be searched from the start
            had_lists = False
            if previous and previous.id != target.id:
                same_model = previous.fingerprint == target.fingerprint
                had_lists = self._copy_vectors(previous, vectors, same_model)
            indexed = Indexing(catalog, vectors, encoder, report).run()
            _build_lists(vectors, encoder, report, requested=approximate, had_lists=had_lists)
            catalog.use_model(target)
            for record in catalog.models():
                if record.id < target.id:  # a later one is still being built
                    self._drop(record)
        self.__dict__.update(vectors=vectors, encoder=encoder)
        return indexed

    def close(self) -> None:
        """Close the files; they are opened again when they are needed."""
        for name in ("vectors", "catalog"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()
        for name in ("root", "encoder", "calibration"):
            self.__dict__.pop(name, None)

    def _previous_source(self) -> str | None:
        """Return the model that the last `update` used, if there was one."""
        if self._root is not None and not self.exists:
            return None
        with Catalog(self.location) as catalog:
            record = catalog.model
        return record.source if record else None

    def _describe(self, encoder: Encoder, source: str, previous: ModelRecord | None) -> ModelRecord:
        from twotower.encode.load import BUNDLED_NAME

        if source != BUNDLED_NAME and Path(source).expanduser().exists():
            source = str(Path(source).expanduser().absolute())
        vectors = self._requested_vectors or (previous.vectors if previous else None)
        if vectors == LOCAL:
            vectors = None
        return ModelRecord(
            id=0,
            name=encoder.config.name,
            source=source,
            fingerprint=fingerprint(encoder.directory),
            files=file_facts(encoder.directory),
            embed_dim=encoder.config.embed_dim,
            vectors=vectors,
        )

    def _model_in_use(self) -> ModelRecord:
        record = self.catalog.model
        if record is None:
            raise LibraryError(self.location, "nothing is indexed yet", "run: twotower index")
        return record

    def _copy_vectors(self, previous: ModelRecord, vectors: Vectors, same_model: bool) -> bool:
        """Copy the vectors in use if they are of the same model and can be reached.

        Returns:
            True if those in use are searched by lists.
        """
        if not same_model and previous.vectors is not None:
            return False  # Milvus has no lists, and need not be reached
        try:
            with closing(self._vectors_of(previous)) as source:
                if same_model:
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
            warnings.warn(f"{error}; the collection is no longer used, and stays", stacklevel=2)
        self.catalog.remove_model(record)

    def _vectors_of(self, record: ModelRecord) -> Vectors:
        name = f"{self.catalog.name}_{record.id}"
        location = record.vectors or self.location / f"vectors-{record.id}"
        return open_vectors(location, record.embed_dim, name)


def open_vectors(location: str | Path, embed_dim: int, name: str = "") -> Vectors:
    """Open the vectors at `location`.

    Args:
        location: `milvus://HOST:PORT/COLLECTION`, a `.db` file of Milvus Lite, or a local folder,
            which is made at the first `add`.
        name: appended to the name of a Milvus collection, so that libraries and models do not
            share one.

    Raises:
        LibraryError: the vectors cannot be used or reached.
    """
    if str(location).startswith("milvus://") or str(location).endswith(".db"):
        from twotower.index.milvus import MilvusVectors

        return MilvusVectors(str(location), embed_dim, name)
    return LocalVectors(Path(location), embed_dim)


def _require_folder(root: str | Path | None) -> None:
    if root is not None and not Path(root).is_dir():
        raise LibraryError(root, "no such folder", "give the folder of pictures")


def _build_lists(
    vectors: Vectors, encoder: Encoder, report: ReportProgress, *, requested: bool, had_lists: bool
) -> None:
    """Build inverted lists where they are requested, out of date, or existed before.

    Raises:
        LibraryError: they are requested and cannot be built.
    """
    from twotower.calibration.background import background_texts
    from twotower.index.inverted_file import MIN_VECTORS

    if not isinstance(vectors, LocalVectors):
        if requested:
            raise LibraryError(
                "--approximate",
                "is for vectors on this machine",
                "leave it out: Milvus has an index of its own",
            )
        return
    due = vectors.is_stale() or (had_lists and not vectors.has_lists())
    if requested or (due and len(vectors) >= MIN_VECTORS):

        def advance(done: int, total: int) -> None:
            report(Progress(done, total, stage="Building lists"))

        queries = encoder.encode_text(background_texts()[:_CALIBRATION_TEXTS])
        vectors.approximate(queries, advance)


def _copy(source: Vectors, target: Vectors) -> None:
    """Copy all vectors from one store to another."""
    ids = np.setdiff1d(source.ids(), target.ids())
    for start in range(0, len(ids), 10_000):
        batch = ids[start : start + 10_000]
        target.add(batch, source.get(batch))


@contextmanager
def _disk_errors(location: Path) -> Iterator[None]:
    """Turn the errors of a full or failing disk into `LibraryError`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        reason = str(error)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        reason = error.strerror or str(error)
    else:
        return
    raise LibraryError(
        location,
        f"cannot be written ({reason}); what was committed is kept",
        "make room and index again",
    )


_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
