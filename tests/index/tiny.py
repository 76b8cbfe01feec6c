"""A fast encoder, and pictures whose vectors are known, for the tests of storage."""

import hashlib
import io
from pathlib import Path

import numpy as np
import PIL.Image

from twotower.arrays import normalize
from twotower.index import indexing
from twotower.index.catalog import Catalog
from twotower.index.index import open_vectors
from twotower.index.indexing import Indexing, IndexReport
from twotower.index.schema import PictureRecord
from twotower.index.vectors import Vectors
from twotower.inputs.preprocess import Preprocess, PreprocessConfig

DIM = 16


class TinyEncoder:
    """An encoder whose vectors are a fixed projection of the pixels."""

    preprocess = Preprocess(PreprocessConfig(image_size=8))

    def choose_engine(self, pictures: int, report: object) -> None:
        """Keep the only engine."""

    def encode_pixels(self, pixel_values: np.ndarray) -> np.ndarray:
        matrix = np.random.default_rng(0).standard_normal((3 * 8 * 8, DIM)).astype(np.float32)
        # row by row: BLAS may round a batch differently
        return normalize(np.stack([row.ravel() @ matrix for row in pixel_values]))


def picture(seed: int) -> bytes:
    """Return a small PNG, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def vector_of(content: bytes) -> np.ndarray:
    encoder = TinyEncoder()
    return encoder.encode_pixels(encoder.preprocess(content)[None])[0]


def hash_of(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:16]


def index(root: Path, commit_seconds: float | None = None) -> IndexReport:
    if commit_seconds is not None:
        indexing.COMMIT_SECONDS = commit_seconds
    with opened(root) as (catalog, vectors):
        return Indexing(catalog, vectors, TinyEncoder()).run()


class opened:  # noqa: N801  used as a function
    """The catalog and the vectors of the library in `root`."""

    def __init__(self, root: Path) -> None:
        location = root / ".twotower"
        location.mkdir(exist_ok=True)
        self.catalog = Catalog(location, root)
        self.vectors: Vectors = open_vectors(location / "vectors", DIM)

    def __enter__(self) -> tuple[Catalog, Vectors]:
        return self.catalog, self.vectors

    def __exit__(self, *_: object) -> None:
        self.catalog.close()
        self.vectors.close()


def rows_of(root: Path) -> dict[str, PictureRecord]:
    """Return the records of the library in `root`, by path."""
    with opened(root) as (catalog, _):
        return {record.path: record for record in catalog.records()}


def assert_consistent(root: Path, contents: dict[bytes, bytes], complete: bool) -> None:
    """Check that every row has the vector of its content; if complete, that rows and files agree.

    `contents` are all contents that ever existed, by their hash.
    """
    with opened(root) as (catalog, vectors):
        rows = list(catalog.records())
        readable = [row for row in rows if row.error is None]
        assert len({row.id for row in rows}) == len({row.path for row in rows}) == len(rows)
        for row in readable:
            [embeds] = vectors.get(np.array([row.id]))
            np.testing.assert_array_equal(embeds, vector_of(contents[row.content_hash]), row.path)
        ids = vectors.ids().tolist()
        assert len(set(ids)) == len(ids)
        assert {row.id for row in readable} <= set(ids)
        words = catalog._connection.execute("SELECT rowid FROM words").fetchall()
        assert {number for (number,) in words} == {row.id for row in rows}
        if complete:
            assert {row.id for row in readable} == set(ids)
            files = {
                path.relative_to(root).as_posix(): hash_of(path.read_bytes())
                for path in root.rglob("*.png")
                if not any(name.startswith(".") for name in path.relative_to(root).parts)
            }
            assert {row.path: row.content_hash for row in readable} == files
