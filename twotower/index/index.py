"""An index: a folder of pictures with its catalog, its vectors and its encoder."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.encode.registry import DEFAULT_MODEL, QUICK_MODEL
from twotower.errors import LibraryError
from twotower.files import create_folder, exclusive_lock, expand_home
from twotower.index import milvus, postgres, qdrant
from twotower.index.catalog import BETTER_MODEL, CATALOG_FILE, LIBRARY_FOLDER, Catalog
from twotower.index.local_vectors import LocalVectors
from twotower.index.schema import ModelRecord
from twotower.index.vectors import Vectors, hide_password, lower_scheme
from twotower.progress import ReportProgress, ignore_progress

if TYPE_CHECKING:
    from twotower.arrays import Float32Array
    from twotower.calibration.calibration import Calibration
    from twotower.encode.encoder import Encoder
    from twotower.index.imports import ImportedEmbeds
    from twotower.index.indexing import IndexReport

LOCAL = "local"  # the store of vectors beside the catalog
_ESTIMATE_FROM = 5000  # vectors from which a missing calibration is estimated


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
            root: the folder of pictures; None if `location` is given, whose catalog names it.
            model: the model to index with, as `load` takes it; by default that of the last
                `update`, at first one of the bundled ones (see `update`).
            location: the folder of catalog and vectors; by default ".twotower" in `root`.
            vectors: the store of vectors from the next `update` on: an address or a `.db` file, as
                `open_vectors` takes it, or "local" for `location`; by default the current one, at
                first "local".
            engine: the runtime of the model, as for `load`.

        Raises:
            LibraryError: `root` is no folder, neither `root` nor `location` is given, or `vectors`
                is no known store.
        """
        if root is None and location is None:
            raise LibraryError("library", "neither root nor location is given", "pass one")
        _require_folder(root)
        # absolute: the program may change its working directory
        self._root = Path(root).absolute() if root is not None else None
        self.location = Path(location or Path(root or ".") / LIBRARY_FOLDER).absolute()
        self._requested_model = model
        self._requested_vectors = None if vectors is None else _store_name(vectors)
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
        if before := catalog.previous_root():
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
        return self._open_vectors(self._model_in_use())

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of the model in use.

        Raises:
            LibraryError: the image tower of the model has changed since the last `update`.
        """
        from twotower.encode.load import load

        encoder = load(self._model_in_use().source, engine=self._engine)
        self._require_same_model(encoder)
        return encoder

    def use_encoder(self, encoder: Encoder) -> None:
        """Use an encoder of the model in use that is open already.

        Raises:
            LibraryError: it is another model.
        """
        self._require_same_model(encoder)
        self.encoder = encoder

    def _require_same_model(self, encoder: Encoder) -> None:
        from twotower.encode.golden import file_facts, has_image_tower

        record, directory = self._model_in_use(), encoder.directory
        same_files = file_facts(directory) == record.files
        if not same_files and not has_image_tower(directory, record.fingerprint):
            raise LibraryError(
                record.source,
                f"no longer the model that {self.location} was indexed with",
                "restore that model, or index again",
            )

    @cached_property
    def calibration(self) -> Calibration:
        """The calibration of the model in use, or, with a warning, an estimate."""
        from twotower.calibration.calibration import require_calibration

        def sample_vectors() -> Float32Array:
            ids = self.vectors.ids()
            return self.vectors.get(ids[:: len(ids) // _ESTIMATE_FROM + 1])

        return require_calibration(self.encoder, self.location, sample_vectors)

    @property
    def better_model(self) -> str | None:
        """The model that `refine` changes to; None if that in use is to stay."""
        return _better_model(self.catalog)

    def update(
        self,
        report: ReportProgress = ignore_progress,
        *,
        approximate: bool = False,
        verify_content: bool = False,
        import_from: str | Path | None = None,
    ) -> IndexReport:
        """Bring catalog and vectors up to date with the disk.

        A new library, unless a model was asked for, is indexed with the default model if that takes
        seconds; else with a quick one, and `refine` changes to the default model.

        With another model than before, all pictures are embedded again; meanwhile the vectors in
        use are searched. After an interruption, the next call continues where this one stopped.

        Args:
            approximate: search from now on by inverted lists (`inverted_file.py`): a few of the
                nearest may be missing, and ten million vectors are searched a hundred times as
                fast.
            verify_content: read every file, also those whose size and times are unchanged.
            import_from: an index of another program, as `read_tables` takes it, whose vectors are
                taken for new and changed pictures, if they are those of the model (see
                `ImportedEmbeds`). A new library is then indexed with the model asked for or the
                default one, and not refined.

        Raises:
            LibraryError: another process is updating, the disk is full or cannot be read, lists
                cannot be built, or vectors are not those of the model.
        """
        _require_folder(self._root)
        self.close()
        source, better = self._choose_models()
        if import_from is not None and better and not self.exists:
            source, better = better, None
        return self._index_with(
            source,
            better,
            report,
            approximate=approximate,
            verify_content=verify_content,
            import_from=import_from,
        )

    def refine(
        self, report: ReportProgress = ignore_progress, *, approximate: bool = False
    ) -> IndexReport | None:
        """Change to `better_model`, if there is one, as `update` does with another model.

        Returns:
            The counts, or None if there is nothing to refine.

        Raises:
            LibraryError: as `update`.
        """
        model = self.better_model
        if model is None:
            return None
        return self._index_with(model, None, report, approximate=approximate)

    def _choose_models(self) -> tuple[str, str | None]:
        """Return the model to index with, and the one to refine with afterwards."""
        from twotower.index.update import is_quickly_indexed

        if self._requested_model:
            return str(self._requested_model), None
        if self._root is None or self.exists:
            with Catalog(self.location) as catalog:
                if catalog.model:
                    return catalog.model.source, _better_model(catalog)
        if QUICK_MODEL == DEFAULT_MODEL or is_quickly_indexed(self.root):
            return DEFAULT_MODEL, None
        return QUICK_MODEL, DEFAULT_MODEL

    def _index_with(
        self,
        source: str,
        better: str | None,
        report: ReportProgress,
        *,
        approximate: bool,
        verify_content: bool = False,
        import_from: str | Path | None = None,
    ) -> IndexReport:
        """Index with a model and use it; `better` is stored for `refine`."""
        from twotower.encode.load import load
        from twotower.index.inverted_file import require_faiss
        from twotower.index.update import Update, describe_model, disk_errors

        if approximate:
            require_faiss()
        encoder = load(source, engine=self._engine)
        imports = self._open_imports(import_from, encoder, source)
        create_folder(self.location)
        with exclusive_lock(self.location), disk_errors(self.location):
            root = self.root
            self.close()
            self.catalog = Catalog(self.location, root)
            if self.catalog.model is None:
                self.catalog.set_setting(BETTER_MODEL, better or "")
            model = describe_model(encoder, source, self._store_of_vectors())
            update = Update(self.catalog, encoder, self._open_vectors, report)
            vectors, indexed = update.run(
                model, approximate=approximate, verify_content=verify_content, imports=imports
            )
            self.catalog.set_setting(BETTER_MODEL, better or "")
        self.vectors, self.encoder = vectors, encoder
        return indexed

    def _open_imports(
        self, source: str | Path | None, encoder: Encoder, model: str
    ) -> ImportedEmbeds | None:
        from twotower.index.imports import ImportedEmbeds

        if source is None:
            return None
        imports = ImportedEmbeds(expand_home(source), self.root)
        imports.check_model(encoder, model)
        return imports

    def close(self) -> None:
        """Close the files; they are opened again when they are needed."""
        for name in ("vectors", "catalog"):
            if name in self.__dict__:  # the values of cached properties
                self.__dict__.pop(name).close()
        for name in ("root", "encoder", "calibration"):
            self.__dict__.pop(name, None)

    def _store_of_vectors(self) -> str | None:
        """Return the requested store of vectors or else the current one; None for `location`."""
        record = self.catalog.model
        vectors = self._requested_vectors or (record.vectors if record else None)
        return None if vectors == LOCAL else vectors

    def _model_in_use(self) -> ModelRecord:
        record = self.catalog.model
        if record is None:
            raise LibraryError(self.location, "nothing is indexed yet", "run: twotower index")
        return record

    def _open_vectors(self, record: ModelRecord) -> Vectors:
        name = f"{self.catalog.name}_{record.id}"
        store = record.vectors or self.location / f"vectors-{record.id}"
        return open_vectors(store, record.embed_dim, name)


def _better_model(catalog: Catalog) -> str | None:
    if catalog.model is None:
        return None
    model = catalog.get_setting(BETTER_MODEL)
    if model is None and catalog.model.source == QUICK_MODEL:
        model = DEFAULT_MODEL  # the library is older than this setting
    return None if model in ("", catalog.model.source) else model


def open_vectors(location: str | Path, embed_dim: int, name: str = "") -> Vectors:
    """Open the vectors at `location`, whose form chooses the store.

    Args:
        location: `postgresql://HOST:PORT/DATABASE`, `qdrant://HOST:PORT/COLLECTION`,
            `qdrant:///FOLDER`, `milvus://HOST:PORT/COLLECTION`, a `.db` file of Milvus Lite, or a
            local folder, which is created at the first `add`.
        name: appended to the name of a table or collection, so that libraries and models do not
            share it.

    Raises:
        LibraryError: the vectors cannot be used or reached.
    """
    text = lower_scheme(str(location))
    if text.startswith(postgres.SCHEMES):
        return postgres.PostgresVectors(text, embed_dim, name)
    if text.startswith(qdrant.SCHEMES):
        return qdrant.QdrantVectors(text, embed_dim, name)
    if text.startswith(milvus.SCHEME):
        return milvus.MilvusVectors(text, embed_dim, name)
    if "://" in text:
        raise _unknown_store(text)
    if text.endswith(".db"):
        return milvus.MilvusVectors(text, embed_dim, name)
    return LocalVectors(Path(location), embed_dim)


def _store_name(vectors: str) -> str:
    """Return a store that a user named as the catalog keeps it.

    Raises:
        LibraryError: it is neither "local", nor the address of a known store, nor a `.db` file.
    """
    address = lower_scheme(vectors)
    if address == LOCAL or address.startswith((*postgres.SCHEMES, *qdrant.SCHEMES, milvus.SCHEME)):
        return address
    if "://" in address or not address.endswith(".db"):
        raise _unknown_store(address)
    return str(expand_home(address).absolute())


def _unknown_store(vectors: str) -> LibraryError:
    return LibraryError(
        hide_password(vectors) or "--vectors",
        "no known store",
        'write postgresql://, qdrant:// or milvus:// with an address, a file .db, or "local"',
    )


def _require_folder(root: str | Path | None) -> None:
    if root is not None and not Path(root).is_dir():
        raise LibraryError(root, "no such folder", "give the folder of pictures")
