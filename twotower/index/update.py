"""Update of a library: indexing with a model, and the change to another model or vector store."""

from __future__ import annotations

import errno
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from twotower.calibration.background import background_texts
from twotower.encode.encoder import Encoder
from twotower.encode.golden import file_facts, has_image_tower, image_fingerprint
from twotower.encode.machine import available_threads
from twotower.encode.registry import bundled_name
from twotower.errors import LibraryError
from twotower.files import expand_home
from twotower.index import inverted_file
from twotower.index.catalog import Catalog
from twotower.index.imports import ImportedEmbeds
from twotower.index.indexing import Indexing, IndexReport
from twotower.index.local_vectors import LocalVectors
from twotower.index.scan import scan
from twotower.index.schema import ModelRecord
from twotower.index.vectors import Vectors, hide_password
from twotower.progress import ReportProgress

DIRECT_SECONDS = 30.0  # in which a new library is indexed with the default model right away
CORE_SECONDS = 0.2  # of the default model for a picture, on a slow core
_MOST_CORES = 8  # more cores help little
_RECALL_QUERIES = 256  # texts on which the recall of inverted lists is measured
_COPY_BATCH = 10_000  # vectors
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def is_quickly_indexed(root: Path) -> bool:
    """Return True if the default model indexes the pictures of a new library in seconds."""
    cores = min(available_threads(), _MOST_CORES)
    return len(scan(root).files) * CORE_SECONDS <= DIRECT_SECONDS * cores


def describe_model(encoder: Encoder, source: str, vectors: str | None) -> ModelRecord:
    """Return the record of a model that is not in the catalog yet (`id` 0)."""
    if name := bundled_name(source):
        source = name
    elif (path := expand_home(source)).exists():
        source = str(path.absolute())
    return ModelRecord(
        id=0,
        name=encoder.config.name,
        source=source,
        fingerprint=image_fingerprint(encoder.directory),
        files=file_facts(encoder.directory),
        embed_dim=encoder.config.embed_dim,
        vectors=vectors,
    )


class Update:
    """An update of a catalog and its vectors to what is on the disk, with one model.

    The vectors in use are searched until those of another model or store are complete.
    """

    def __init__(
        self,
        catalog: Catalog,
        encoder: Encoder,
        open_vectors: Callable[[ModelRecord], Vectors],
        report: ReportProgress,
    ) -> None:
        """Prepare the update.

        Args:
            open_vectors: opens the vectors of a model of the catalog.
        """
        self._catalog, self._encoder = catalog, encoder
        self._open_vectors, self._report = open_vectors, report

    def run(
        self,
        model: ModelRecord,
        *,
        approximate: bool,
        verify_content: bool,
        imports: ImportedEmbeds | None,
    ) -> tuple[Vectors, IndexReport]:
        """Index with `model` and use it from now on.

        Args:
            approximate: build inverted lists.
            verify_content, imports: as in `Indexing`.

        Returns:
            The vectors of the model, and the counts.

        Raises:
            LibraryError: vectors cannot be opened, the pictures cannot be read, or lists cannot be
                built.
        """
        self._adopt(model)
        previous = self._catalog.model
        target, vectors = self._add(model)
        if previous is None:
            self._catalog.use_model(target)  # its pictures can be searched while others are read
        had_lists = replaces = False
        if previous and previous.id != target.id:
            replaces = True
            same_model = previous.fingerprint == target.fingerprint
            had_lists = self._copy_vectors(previous, vectors, same_model)
        indexing = Indexing(
            self._catalog,
            vectors,
            self._encoder,
            self._report,
            replaces=replaces,
            verify_content=verify_content,
            imports=imports,
        )
        indexed = indexing.run()
        self._build_lists(vectors, requested=approximate, had_lists=had_lists)
        self._catalog.use_model(target)
        for record in self._catalog.models():
            if record.id < target.id:  # one with a higher id is unfinished, and stays
                self._drop(record)
        return vectors, indexed

    def _adopt(self, model: ModelRecord) -> None:
        """Store the fingerprint of `model` for the model in use if both have one image tower.

        Catalogs of earlier versions hold another fingerprint.
        """
        record = self._catalog.model
        if record is None or record.fingerprint == model.fingerprint:
            return
        same_files = (record.source, record.files) == (model.source, model.files)
        if same_files or has_image_tower(self._encoder.directory, record.fingerprint):
            self._catalog.set_fingerprint(record, model.fingerprint)

    def _add(self, model: ModelRecord) -> tuple[ModelRecord, Vectors]:
        """Add a model to the catalog and open its vectors; after an error it is not added.

        Raises:
            LibraryError: the store cannot be opened, or a server has vectors under the name of this
                model that the catalog did not store, as after it was restored from a backup.
        """
        earlier_ids = {record.id for record in self._catalog.models()}
        target = self._catalog.add_model(model)
        try:
            vectors = self._open_vectors(target)
            if target.id not in earlier_ids and len(vectors):
                self._reject_leftovers(target, vectors)
            return target, vectors
        except LibraryError:
            if target.id not in earlier_ids:
                self._catalog.remove_model(target)
            raise

    def _reject_leftovers(self, model: ModelRecord, vectors: Vectors) -> None:
        """Remove what a new model finds in the library's folder; on a server, raise an error."""
        if model.vectors is None:
            vectors.remove(vectors.ids())
            return
        vectors.close()
        raise LibraryError(
            hide_password(model.vectors),
            f"already has vectors named {self._catalog.name}_{model.id}, of another model",
            "drop them there, or choose another store with --vectors",
        )

    def _copy_vectors(self, previous: ModelRecord, vectors: Vectors, same_model: bool) -> bool:
        """Copy the vectors in use if they are of the same model and can be reached.

        Returns:
            True if those in use have inverted lists.

        Raises:
            LibraryError: a server went away during the copy.
        """
        if not same_model and previous.vectors is not None:
            return False  # nothing to copy: the server need not be reached
        try:
            source = self._open_vectors(previous)
        except LibraryError as error:
            warnings.warn(f"{error}; the pictures are read again", stacklevel=3)
            return False
        with closing(source):
            if same_model:
                _copy(source, vectors)
            return isinstance(source, LocalVectors) and source.has_lists()

    def _build_lists(self, vectors: Vectors, *, requested: bool, had_lists: bool) -> None:
        """Build inverted lists if they are requested, out of date, or existed before.

        Raises:
            LibraryError: they are requested and cannot be built.
        """
        if requested or (
            isinstance(vectors, LocalVectors)
            and len(vectors) >= inverted_file.MIN_VECTORS
            and (vectors.has_stale_lists() or (had_lists and not vectors.has_lists()))
        ):
            queries = self._encoder.encode_text(background_texts()[:_RECALL_QUERIES])
            vectors.build_lists(queries, self._report)

    def _drop(self, record: ModelRecord) -> None:
        """Remove a model that is no longer used, and its vectors if they can be reached."""
        try:
            self._open_vectors(record).drop()
        except LibraryError as error:
            warnings.warn(f"{error}; the collection is no longer used, and stays", stacklevel=3)
        self._catalog.remove_model(record)


def _copy(source: Vectors, target: Vectors) -> None:
    """Copy all vectors from one store to another."""
    ids = np.setdiff1d(source.ids(), target.ids())
    for start in range(0, len(ids), _COPY_BATCH):
        batch = ids[start : start + _COPY_BATCH]
        target.add(batch, source.get(batch))


@contextmanager
def disk_errors(location: Path) -> Iterator[None]:
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
