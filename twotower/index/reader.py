"""Read a file of the library once: for its hash, its metadata and its pixels."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from twotower.arrays import Float32Array
from twotower.errors import PictureError
from twotower.index.scan import ScannedFile
from twotower.index.schema import RETRY, Orientation, PictureRecord
from twotower.inputs.media import media_kind, open_frames, open_undecoded
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.video import read_tags
from twotower.metadata.dates import (
    DatePlace,
    merge_dates_places,
    read_packet,
    read_video_tags,
)
from twotower.metadata.exif import Metadata, read_metadata
from twotower.metadata.keywords import (
    collect_keywords,
    find_sidecars,
    read_header,
    read_sidecar,
)
from twotower.metadata.ownership import Keywords

_HASH_BYTES = 16
_VIDEO_SAMPLE = 2**20  # bytes that are hashed at the start, middle and end of a video


@dataclass(frozen=True)
class PictureContent:
    """The content of a file.

    Attributes:
        record: without an id yet; with an error if the file cannot be decoded.
        pixel_values: [frames, 3, S, S]; None after an error, or if they were not requested.
    """

    record: PictureRecord
    pixel_values: Float32Array | None


@dataclass(frozen=True)
class SidecarFacts:
    """The fields of a `PictureRecord` that a sidecar can change."""

    taken: str | None
    latitude: float | None
    longitude: float | None
    keywords: str


class PictureReader:
    """A reader of the files in `root` for a model's `preprocess`; safe to use from threads."""

    def __init__(self, root: Path, preprocess: Preprocess) -> None:
        self._root, self._preprocess = root, preprocess

    def __call__(self, file: ScannedFile) -> PictureContent | None:
        """Read, hash and decode a file; return None if it was deleted."""
        return self._read(file, pixels=True)

    def without_pixels(self, file: ScannedFile) -> PictureContent | None:
        """Read and hash a file; return None if it was deleted."""
        return self._read(file, pixels=False)

    def sidecar_facts(self, file: ScannedFile) -> SidecarFacts:
        """Return what sidecars can tell, together with the header of the file.

        The rest of the file is not read; unreadable metadata count as empty.
        """
        path = self._root / os.fsdecode(file.path)
        return _sidecar_facts(read_header(path), path, find_sidecars(path))

    def _read(self, file: ScannedFile, pixels: bool) -> PictureContent | None:
        name = os.fsdecode(file.path)
        path = self._root / name
        record = PictureRecord(
            0, name, file.size, file.mtime_ns, file.sidecar_ns, ctime_ns=file.ctime_ns
        )
        try:
            if media_kind(path) == "video":
                return self._read_video(record, path, pixels)
            return self._read_picture(record, path, pixels)
        except FileNotFoundError:
            return None
        except OSError as error:  # possibly temporary
            reason = f"cannot be read ({error.strerror or error}); check its permissions"
        except _UnstableFileError:
            reason = "changes while it is read; index again when it is finished"
        return PictureContent(replace(record, mtime_ns=RETRY, error=reason), None)

    def _read_picture(self, record: PictureRecord, path: Path, pixels: bool) -> PictureContent:
        content, record = _read_stable(record, path)
        try:
            image = open_undecoded(io.BytesIO(content), record.path)
            metadata = read_metadata(image)
            if media_kind(path) == "raw":
                metadata = replace(metadata, type="raw")
            record = _with_metadata(record, metadata, path)
            return PictureContent(record, self._pixel_values([image]) if pixels else None)
        except PictureError as error:
            return PictureContent(_with_error(record, error), None)

    def _read_video(self, record: PictureRecord, path: Path, pixels: bool) -> PictureContent:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            record = replace(
                record,
                size=status.st_size,
                mtime_ns=status.st_mtime_ns,
                ctime_ns=status.st_ctime_ns,
            )
            digest = hashlib.sha256(str(status.st_size).encode())
            for start in (0, status.st_size // 2, max(0, status.st_size - _VIDEO_SAMPLE)):
                file.seek(start)
                digest.update(file.read(_VIDEO_SAMPLE))
            record = replace(record, content_hash=digest.digest()[:_HASH_BYTES])
        try:
            frames = open_frames(path)
            record = _with_metadata(record, Metadata("video", *frames[0].size), path)
            return PictureContent(record, self._pixel_values(frames) if pixels else None)
        except PictureError as error:
            return PictureContent(_with_error(record, error), None)

    def _pixel_values(self, images: list[Image.Image]) -> Float32Array:
        size = 2 * self._preprocess.config.image_size
        for image in images:  # large JPEGs at a reduced scale: four times as fast, nearly equal
            image.draft(None, (size, size))
        return np.stack([self._preprocess(image) for image in images])


class _UnstableFileError(Exception):
    """Another program is writing the file."""


def _read_stable(record: PictureRecord, path: Path) -> tuple[bytes, PictureRecord]:
    """Return the bytes of a file, and the record with their size, time and hash.

    Raises:
        _UnstableFileError: the file changed while it was read, twice.
    """
    for _ in range(2):
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            content = file.read()
            after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            digest = hashlib.sha256(content).digest()[:_HASH_BYTES]
            return content, replace(
                record,
                size=len(content),
                mtime_ns=after.st_mtime_ns,
                content_hash=digest,
                ctime_ns=before.st_ctime_ns,
            )
    raise _UnstableFileError


def _with_metadata(record: PictureRecord, metadata: Metadata, path: Path) -> PictureRecord:
    facts = _sidecar_facts(metadata, path, find_sidecars(path) if record.sidecar_ns else [])
    return replace(
        record,
        type=metadata.type,
        width=metadata.width,
        height=metadata.height,
        orientation=_orientation(metadata),
        camera=metadata.camera,
        **asdict(facts),
    )


def _sidecar_facts(metadata: Metadata, path: Path, sidecars: list[Path]) -> SidecarFacts:
    """Merge sidecars, where people correct, with the metadata of the file and its packet."""
    tags = _video_tags(path) if metadata.type == "video" else {}
    facts = merge_dates_places(
        [
            *(read_packet(read_sidecar(sidecar)) for sidecar in sidecars),
            DatePlace(metadata.taken, metadata.latitude, metadata.longitude),
            read_packet(metadata.xmp),
            read_video_tags(tags),
            DatePlace(metadata.modified),
        ]
    )
    keywords = _lines(collect_keywords(metadata.keywords, metadata.xmp, sidecars))
    return SidecarFacts(facts.taken, facts.latitude, facts.longitude, keywords)


def _video_tags(path: Path) -> dict[str, str]:
    try:
        return read_tags(path)
    except PictureError:
        return {}


def _lines(keywords: Keywords) -> str:
    return "\n".join("|".join(tag) for tag in keywords.person)


def _orientation(metadata: Metadata) -> Orientation:
    if metadata.width == metadata.height:
        return "square"
    return "landscape" if metadata.width > metadata.height else "portrait"


def _with_error(record: PictureRecord, error: PictureError) -> PictureRecord:
    return replace(record, error=f"{error.reason}; {error.remedy}")
