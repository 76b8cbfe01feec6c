"""An encoder that takes no time and pictures whose vectors are known, for the tests of storage."""

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
    """The vector of a picture is a fixed projection of its pixels."""

    preprocess = Preprocess(PreprocessConfig(image_size=8))

    def encode_pixels(self, pixel_values: np.ndarray) -> np.ndarray:
        matrix = np.random.default_rng(0).standard_normal((3 * 8 * 8, DIM)).astype(np.float32)
        # one row after the other: BLAS may round a batch otherwise than each by itself
        return normalize(np.stack([row.ravel() @ matrix for row in pixel_values]))


def picture(seed: int) -> bytes:
    """A small PNG that no other seed has."""
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
    """By path."""
    with opened(root) as (catalog, _):
        return {one.path: one for one in catalog.records()}


def assert_true(root: Path, contents: dict[bytes, bytes], complete: bool) -> None:
    """Every row has the vector of its own content; if complete, rows and files are the same.

    `contents` are all that there ever were, by their hash.
    """
    with opened(root) as (catalog, vectors):
        rows = list(catalog.records())
        readable = [one for one in rows if one.error is None]
        assert len({one.id for one in rows}) == len({one.path for one in rows}) == len(rows)
        for one in readable:
            [embeds] = vectors.get(np.array([one.id]))
            np.testing.assert_array_equal(embeds, vector_of(contents[one.content_hash]), one.path)
        ids = vectors.ids().tolist()
        assert len(set(ids)) == len(ids)
        assert {one.id for one in readable} <= set(ids)
        words = catalog._connection.execute("SELECT rowid FROM words").fetchall()
        assert {row[0] for row in words} == {one.id for one in rows}
        if complete:
            assert {one.id for one in readable} == set(ids)
            files = {
                path.relative_to(root).as_posix(): hash_of(path.read_bytes())
                for path in root.rglob("*.png")
                if not any(part.startswith(".") for part in path.relative_to(root).parts)
            }
            assert {one.path: one.content_hash for one in readable} == files
