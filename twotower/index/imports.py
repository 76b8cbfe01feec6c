"""Import of vectors from the index of another program, after a sample was computed again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import ExifTags

from twotower.arrays import Float32Array, normalize
from twotower.encode.encoder import Encoder
from twotower.errors import LibraryError, PictureError
from twotower.index.foreign import EmbedsTable, read_tables
from twotower.index.reader import PictureReader
from twotower.index.scan import ScannedFile
from twotower.index.schema import PictureRecord
from twotower.inputs.media import media_kind
from twotower.inputs.pictures import open_header

SAMPLE = 16  # pictures that are embedded again
# Cosine of the two vectors of a picture from which they count as equal: half precision, another
# decoder and another resampling change less, another model or picture more.
AGREEMENT = 0.99
_AGREEING_SHARE = 7 / 8  # of the sample, at least: decoders treat odd files differently
_MAX_TRIED = 20 * SAMPLE  # files that are looked at for the sample
_SECONDS_APART = 1e-5  # rounding of a time that is stored as a float


_Pair: TypeAlias = tuple[Float32Array, Float32Array]  # stored and computed embeds [embed_dim]


class ImportedEmbeds:
    """The vectors of another program's index for the pictures below a folder.

    Programs that ignore the EXIF orientation have embedded some pictures sideways or upside down.
    Where the sample shows that, such pictures are left out.
    """

    def __init__(self, source: Path, root: Path) -> None:
        """Read the index `source` for the pictures in `root`.

        Raises:
            LibraryError: it cannot be read, or has no picture of `root`.
        """
        self.source, self._root = source, root.resolve()
        self._tables = read_tables(source)
        self._rows: dict[bytes, tuple[EmbedsTable, int]] = {}
        self._has_upright = True  # pictures that EXIF turns were embedded upright
        for table in self._tables:
            for row, path in enumerate(self._relative_paths(table.paths, root)):
                if path is not None:
                    self._rows[path] = (table, row)
        if not self._rows:
            count = sum(len(table.paths) for table in self._tables)
            example = next((path for table in self._tables for path in table.paths), "none")
            raise LibraryError(
                source,
                f"none of its {count} pictures is in {root} (a path there: {example})",
                "name the folder of these pictures",
            )

    def check_model(self, encoder: Encoder, model: str) -> None:
        """Embed a random sample of the pictures again, and compare.

        Args:
            model: the model's name in messages, as `load` takes it.

        Raises:
            LibraryError: the vectors are not those of the model, or no picture is as it was.
        """
        widths = {table.embeds.shape[1] for table in self._tables if len(table.paths)}
        if widths != {encoder.config.embed_dim}:
            numbers = " and ".join(map(str, sorted(widths)))
            raise self._other_model(
                model, f"of {numbers} numbers, those of {model} of {encoder.config.embed_dim}"
            )
        upright, turned = self._sample(encoder)
        if not upright and not turned:
            raise LibraryError(
                self.source,
                f"none of its {len(self._rows)} pictures in {self._root} can be read as it was",
                "index without --import",
            )
        agreeing = _agreement(upright or turned)
        if np.mean(agreeing >= AGREEMENT) < _AGREEING_SHARE:
            raise self._other_model(
                model,
                f"not those of {model} (median cosine {np.median(agreeing):.2f} with those of "
                f"{len(agreeing)} pictures embedded again)",
            )
        self._has_upright = bool(turned) and bool((_agreement(turned) >= AGREEMENT).all())

    def __contains__(self, path: bytes) -> bool:
        """Return True for the path, relative to the root, of a picture with a vector."""
        return path in self._rows

    def get(self, record: PictureRecord) -> Float32Array | None:
        """Return the unit vector [embed_dim] of a picture.

        Returns:
            None if there is none, it is no vector, the picture has changed since it was embedded,
            or was not embedded upright.
        """
        table, row = self._rows.get(os.fsencode(record.path), (None, 0))
        if table is None or not _is_unchanged(record, table, row):
            return None
        if media_kind(record.path) != "picture":  # frames and previews differ between programs
            return None
        if not self._has_upright and _is_turned(self._root / record.path):
            return None
        embeds = np.asarray(table.embeds[row], np.float32)
        length = np.linalg.norm(embeds)
        if not np.isfinite(length) or length == 0:
            return None
        [unit] = normalize(embeds[None])
        return unit

    def _sample(self, encoder: Encoder) -> tuple[list[_Pair], list[_Pair]]:
        """Return the stored and the new vectors of pictures, upright ones and those EXIF turns."""
        read = PictureReader(self._root, encoder.preprocess)
        upright: list[_Pair] = []
        turned: list[_Pair] = []
        paths = list(self._rows)
        order = np.random.default_rng().permutation(len(paths))[:_MAX_TRIED]
        for path in (paths[number] for number in order):
            if len(upright) == SAMPLE:
                break
            file = _find_file(self._root, path)
            content = read(file) if file else None
            if content is None or content.pixel_values is None:
                continue
            stored = self.get(content.record)
            group = turned if _is_turned(self._root / os.fsdecode(path)) else upright
            if stored is not None and len(group) < SAMPLE:
                group.append((stored, encoder.encode_pixels(content.pixel_values)[0]))
        return upright, turned

    def _relative_paths(self, paths: list[str], root: Path) -> list[bytes | None]:
        """Return paths relative to the root; None for those outside of it.

        Relative ones start at the root or, if no picture is there, at the working directory.
        """
        is_below_root = any((root / path).exists() for path in paths[:1000])
        start = root.absolute() if is_below_root else Path.cwd()
        prefixes = {f"{folder}{os.sep}" for folder in (root.absolute(), self._root)}
        relative: list[bytes | None] = []
        for path in paths:
            full = os.path.normpath(start / path)
            prefix = next((prefix for prefix in prefixes if full.startswith(prefix)), None)
            relative.append(os.fsencode(full[len(prefix) :]) if prefix else None)
        return relative

    def _other_model(self, model: str, reason: str) -> LibraryError:
        names = {table.model for table in self._tables if table.model} - {model}
        remedy = f"such as --model {names.pop()}" if names else "with --model"
        return LibraryError(
            self.source, f"its vectors are {reason}", f"name the model that made them, {remedy}"
        )


def _agreement(pairs: list[_Pair]) -> Float32Array:
    """Return the cosines [n] of pairs of unit vectors."""
    return np.array([stored @ computed for stored, computed in pairs], np.float32)


def _is_unchanged(record: PictureRecord, table: EmbedsTable, row: int) -> bool:
    """Return True if a picture's file is as it was when it was embedded."""
    if table.stamps is None:
        return record.mtime_ns <= table.written_ns
    stamp = table.stamps[row]
    same_time = abs(record.mtime_ns / 1e9 - stamp.modified) < _SECONDS_APART
    return record.size == stamp.size and same_time


def _find_file(root: Path, path: bytes) -> ScannedFile | None:
    """Return a picture's file, if it exists."""
    full = root / os.fsdecode(path)
    try:
        status = full.stat()
    except OSError:
        return None
    return ScannedFile(path, status.st_size, status.st_mtime_ns, 0, status.st_ctime_ns)


def _is_turned(path: Path) -> bool:
    """Return True if the EXIF orientation of a picture turns or mirrors it."""
    try:
        with path.open("rb") as file:
            return open_header(file, str(path)).getexif().get(ExifTags.Base.Orientation, 1) != 1
    except (OSError, PictureError):
        return False
