"""One file of a library: read once, for its hash, what it says about itself, and its pixels."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twotower.errors import PictureError
from twotower.index.catalog import RETRY, Orientation, PictureRecord
from twotower.index.scan import ScannedFile
from twotower.inputs.media import media_kind, open_frames, open_undecoded
from twotower.inputs.preprocess import Preprocess
from twotower.metadata.exif import Metadata, read_metadata
from twotower.metadata.keywords import collect_keywords, find_sidecars, read_keywords
from twotower.metadata.ownership import Keywords

_HASH_BYTES = 16
_VIDEO_SAMPLE = 2**20  # bytes at the beginning, middle and end that stand for a whole video


@dataclass(frozen=True)
class PictureContent:
    """What a file gave: its record (without an id yet) and pixel_values [frames, 3, S, S].

    No pixels if they were not asked for or could not be had: then the record has the error.
    """

    record: PictureRecord
    pixel_values: NDArray[np.float32] | None


class PictureReader:
    """Reads files of the library in `root` for a model's `preprocess`. Safe to use from threads."""

    def __init__(self, root: Path, preprocess: Preprocess) -> None:
        self._root, self._preprocess = root, preprocess

    def __call__(self, found: ScannedFile) -> PictureContent | None:
        """Read, hash and decode a file; None if it has gone."""
        return self._take(found, pixels=True)

    def without_pixels(self, found: ScannedFile) -> PictureContent | None:
        """Read and hash a file; None if it has gone."""
        return self._take(found, pixels=False)

    def keywords(self, found: ScannedFile) -> str:
        """What people say of a picture, as `PictureRecord.keywords`, from its header and sidecars.

        No more of the file is read; what cannot be read says nothing.
        """
        return _lines(read_keywords(self._root / os.fsdecode(found.path)))

    def _take(self, found: ScannedFile, pixels: bool) -> PictureContent | None:
        name = os.fsdecode(found.path)
        path = self._root / name
        record = PictureRecord(0, name, found.size, found.mtime_ns, found.sidecar_ns)
        try:
            if media_kind(path) == "video":
                return self._take_video(record, path, pixels)
            return self._take_picture(record, path, pixels)
        except FileNotFoundError:
            return None
        except OSError as error:  # may well be another time next time
            reason = f"cannot be read ({error.strerror or error}); check its rights"
            return PictureContent(replace(record, mtime_ns=RETRY, error=reason), None)
        except _UnsteadyError:
            reason = "changes while it is read; index again when it is finished"
            return PictureContent(replace(record, mtime_ns=RETRY, error=reason), None)

    def _take_picture(self, record: PictureRecord, path: Path, pixels: bool) -> PictureContent:
        content, record = _read_steadily(record, path)
        try:
            image = open_undecoded(io.BytesIO(content), record.path)
            facts = read_metadata(image)
            if media_kind(path) == "raw":
                facts = replace(facts, type="raw")
            record = _with_facts(record, facts, path)
            return PictureContent(record, self._pixel_values([image]) if pixels else None)
        except PictureError as error:
            return PictureContent(_failed(record, error), None)

    def _take_video(self, record: PictureRecord, path: Path, pixels: bool) -> PictureContent:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            record = replace(record, size=stat.st_size, mtime_ns=stat.st_mtime_ns)
            digest = hashlib.sha256(str(stat.st_size).encode())
            for place in (0, stat.st_size // 2, max(0, stat.st_size - _VIDEO_SAMPLE)):
                file.seek(place)
                digest.update(file.read(_VIDEO_SAMPLE))
            record = replace(record, content_hash=digest.digest()[:_HASH_BYTES])
        try:
            frames = open_frames(path)
            record = _with_facts(record, Metadata("video", *frames[0].size), path)
            return PictureContent(record, self._pixel_values(frames) if pixels else None)
        except PictureError as error:
            return PictureContent(_failed(record, error), None)

    def _pixel_values(self, images: list[Image.Image]) -> NDArray[np.float32]:
        size = 2 * self._preprocess.config.image_size
        for image in images:  # large JPEGs at a reduced scale: four times as fast, nearly the same
            image.draft(None, (size, size))
        return np.stack([self._preprocess(image) for image in images])


class _UnsteadyError(Exception):
    """A file that another program is writing."""


def _read_steadily(record: PictureRecord, path: Path) -> tuple[bytes, PictureRecord]:
    """A file's bytes, and the record with the size, time and hash that belong to them."""
    for _ in range(2):
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            content = file.read()
            after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            digest = hashlib.sha256(content).digest()[:_HASH_BYTES]
            return content, replace(
                record, size=len(content), mtime_ns=after.st_mtime_ns, content_hash=digest
            )
    raise _UnsteadyError


def _with_facts(record: PictureRecord, facts: Metadata, path: Path) -> PictureRecord:
    sidecars = find_sidecars(path) if record.sidecar_ns else []
    return replace(
        record,
        type=facts.type,
        width=facts.width,
        height=facts.height,
        orientation=_orientation(facts),
        taken=facts.taken,
        camera=facts.camera,
        latitude=facts.latitude,
        longitude=facts.longitude,
        keywords=_lines(collect_keywords(facts.keywords, facts.xmp, sidecars)),
    )


def _lines(keywords: Keywords) -> str:
    return "\n".join("|".join(tag) for tag in keywords.person)


def _orientation(facts: Metadata) -> Orientation:
    if facts.width == facts.height:
        return "square"
    return "landscape" if facts.width > facts.height else "portrait"


def _failed(record: PictureRecord, error: PictureError) -> PictureRecord:
    return replace(record, error=f"{error.reason}; {error.remedy}")
