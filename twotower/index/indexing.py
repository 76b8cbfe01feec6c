"""Bring a library up to what is on the disk, so that dying at any moment loses seconds at most.

The order is the whole of it. A picture's vector is written, and on the disk, before the catalog
says that there is such a picture; a picture leaves the catalog before its vector is removed. So a
vector without a row is left over, and a row without a vector is a picture to be read again: both
are mended at the start of the next run.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import normalize
from twotower.encode.encoder import Encoder
from twotower.encode.stream import read_ahead
from twotower.errors import LibraryError, PictureError
from twotower.index.catalog import STOPPED_AT, Catalog, PictureRecord
from twotower.index.reader import PictureContent, PictureReader
from twotower.index.scan import Scan, ScannedFile, compare, scan
from twotower.index.vectors import Vectors
from twotower.progress import Progress

COMMIT_SECONDS = 2.0
BATCH_SIZE = 32
_EXTRAS = {"twotower[heif]": "pillow_heif", "twotower[raw]": "rawpy", "twotower[video]": "av"}


@dataclass(frozen=True)
class IndexReport:
    """What indexing did, in pictures.

    Attributes:
        added: read and embedded, new or changed.
        moved: known by their content: moved, renamed or touched, or with another sidecar; nothing
            was computed.
        removed: no longer on the disk.
        unchanged: as they were.
        failed: could not be read in this run (`Catalog.errors` lists all).
        unreadable: folders that could not be looked into, with the reason; their pictures stay.
    """

    added: int
    moved: int
    removed: int
    unchanged: int
    failed: int
    unreadable: dict[str, str]
    seconds: float


class Indexing:
    """One run over the disk, for one model's vectors."""

    def __init__(
        self,
        catalog: Catalog,
        vectors: Vectors,
        encoder: Encoder,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._catalog, self._vectors, self._encoder = catalog, vectors, encoder
        self._report_progress = progress or (lambda progress: None)
        self._intake = PictureReader(catalog.root, encoder.preprocess)
        self._old: dict[str, PictureRecord] = {}  # by path, rows that something may take over
        # Read, and not embedded yet: pixel_values [frames, 3, S, S].
        self._waiting: list[tuple[PictureRecord, NDArray[np.float32]]] = []
        # Not committed yet: embeds [embed_dim] for what was embedded now.
        self._ready: list[tuple[PictureRecord, NDArray[np.float32] | None]] = []
        self._replaced: list[int] = []  # ids whose path one of these has taken
        self._committed_at = time.monotonic()
        self._next_id = 0
        self._total = self._done = self._added = self._moved = self._failed = 0
        self._unchanged = 0

    def run(self) -> IndexReport:
        """Do it. Stopped by Ctrl-C, keep what is done.

        Raises:
            LibraryError: the folder of pictures cannot be read, or has become empty.
        """
        started = time.monotonic()
        if not len(self._catalog):
            self._catalog.set_setting(STOPPED_AT, "the start")
        lacking = self._mend()
        result = scan(self._catalog.root)
        self._check(result)
        known = self._catalog.known()
        changes = compare(result, known)
        again = [one for one in result.found if one.path in known and known[one.path].id in lacking]
        self._old = {one.path: one for one in self._catalog.pictures([*changes.stale, *lacking])}
        new = list(dict.fromkeys(changes.new + again))
        self._total, self._unchanged = len(new), len(result.found) - len(new)
        self._next_id = self._catalog.next_id()
        try:
            left = self._find_again(self._read_sidecars(new))
            for _, taken in read_ahead(self._intake, left, ahead=2 * BATCH_SIZE):
                self._put(taken)
        except KeyboardInterrupt:
            self._finish()
            raise
        self._finish()
        removed = self._remove(changes.stale)
        if self._catalog.get_setting(STOPPED_AT):
            self._catalog.set_setting(STOPPED_AT, "")
        return IndexReport(
            added=self._added,
            moved=self._moved,
            removed=removed,
            unchanged=self._unchanged,
            failed=self._failed,
            unreadable={os.fsdecode(path): why for path, why in result.unreadable.items()},
            seconds=time.monotonic() - started,
        )

    def _mend(self) -> set[int]:
        """Remove vectors without a row.

        Returns:
            Ids of rows that lack their vector, and of failures that a package now installed mends.
        """
        there, readable = self._vectors.ids(), self._catalog.select()
        self._vectors.remove(np.setdiff1d(there, readable))
        lacking = set(np.setdiff1d(readable, there).tolist())
        return lacking | {one.id for one in self._catalog.errors() if _can_be_read_now(one)}

    def _check(self, result: Scan) -> None:
        root = self._catalog.root
        if b"" in result.unreadable:
            raise LibraryError(f"{root}: {result.unreadable[b'']}; give a folder that can be read")
        if not result.found and len(self._catalog):
            raise LibraryError(
                f"{root}: no pictures there, but {len(self._catalog)} are indexed; is the disk "
                f"mounted? If they are gone for good, delete {self._catalog.location}"
            )

    def _read_sidecars(self, new: list[ScannedFile]) -> list[ScannedFile]:
        """Give files of which only the sidecar has changed their row back, without reading them.

        Returns:
            The others.
        """
        there = set(self._vectors.ids().tolist())
        rows: dict[ScannedFile, PictureRecord] = {}
        for one in new:
            row = self._old.get(os.fsdecode(one.path))
            if row is not None and row.error is None and row.id in there:
                same = (row.size, row.mtime_ns) == (one.size, one.mtime_ns)
                if same and row.sidecar_ns != one.sidecar_ns:
                    rows[one] = row
        for one, keywords in read_ahead(self._intake.keywords, rows, ahead=2 * BATCH_SIZE):
            assert not isinstance(keywords, PictureError)
            row = replace(rows[one], sidecar_ns=one.sidecar_ns, keywords=keywords)
            self._old.pop(row.path)
            self._ready.append((row, None))
            self._moved += 1
            self._step()
        self._commit()
        return [one for one in new if one not in rows]

    def _find_again(self, new: list[ScannedFile]) -> list[ScannedFile]:
        """Give files whose content is known their row back: moved, renamed, touched.

        Returns:
            The others.
        """
        there = set(self._vectors.ids().tolist())
        lost: dict[bytes, list[PictureRecord]] = defaultdict(list)
        for row in self._old.values():
            if row.content_hash is not None and row.error is None and row.id in there:
                lost[row.content_hash].append(row)
        sizes = {row.size for rows in lost.values() for row in rows}
        suspects = [one for one in new if one.size in sizes]
        found = set()
        for one, taken in read_ahead(self._intake.without_pixels, suspects, ahead=2 * BATCH_SIZE):
            assert not isinstance(taken, PictureError)
            if taken is None or taken.record.error or taken.record.content_hash is None:
                continue
            rows = lost[taken.record.content_hash]
            if not rows:
                continue
            rows.sort(key=lambda row: row.path == taken.record.path)  # its own row before others
            row = rows.pop()
            self._old.pop(row.path)
            self._ready.append((replace(taken.record, id=row.id), None))
            found.add(one)
            self._moved += 1
            self._step()
        self._commit()
        return [one for one in new if one not in found]

    def _put(self, taken: PictureContent | PictureError | None) -> None:
        """Take in what one file gave."""
        assert not isinstance(taken, PictureError)
        if taken is None:
            pass  # it has gone in the meantime, and the next scan sees it
        elif taken.pixel_values is None:
            self._ready.append((self._named(taken.record), None))
            self._failed += 1
        else:
            self._waiting.append((taken.record, taken.pixel_values))
        self._step()

    def _step(self) -> None:
        """One file is done; embed a full batch, and commit when it is time."""
        self._done += 1
        due = time.monotonic() - self._committed_at >= COMMIT_SECONDS
        if due or sum(len(pixels) for _, pixels in self._waiting) >= BATCH_SIZE:
            self._embed()
        if due:
            self._commit()
        self._report_progress(Progress(self._done, self._total, self._failed))

    def _embed(self) -> None:
        if not self._waiting:
            return
        rows = self._encoder.encode_pixels(np.concatenate([pixels for _, pixels in self._waiting]))
        start = 0
        for record, pixels in self._waiting:
            embeds = rows[start]
            if len(pixels) > 1:  # a video is the mean of its frames
                [embeds] = normalize(rows[start : start + len(pixels)].mean(axis=0, keepdims=True))
            start += len(pixels)
            self._ready.append((self._named(record), embeds))
        self._added += len(self._waiting)
        self._waiting = []

    def _named(self, record: PictureRecord) -> PictureRecord:
        """The record with its id: that of the row with its path if the content is the same."""
        before = self._old.pop(record.path, None)
        if before is not None:
            if before.content_hash is not None and before.content_hash == record.content_hash:
                return replace(record, id=before.id)
            self._replaced.append(before.id)
        self._next_id += 1
        return replace(record, id=self._next_id - 1)

    def _commit(self) -> None:
        """First the vectors, then the rows; see the top of this file."""
        embedded = [(record.id, embeds) for record, embeds in self._ready if embeds is not None]
        if embedded:
            ids, embeds = zip(*embedded, strict=True)
            self._vectors.add(np.array(ids, np.int64), np.stack(embeds))
        self._catalog.replace(self._replaced, [record for record, _ in self._ready])
        self._vectors.remove(np.array(self._replaced, np.int64))
        if self._total:
            done, all_of_them = self._unchanged + self._done, self._unchanged + self._total
            self._catalog.set_setting(STOPPED_AT, f"{done} of {all_of_them}")
        self._ready, self._replaced = [], []
        self._committed_at = time.monotonic()

    def _finish(self) -> None:
        self._embed()
        self._commit()

    def _remove(self, stale: list[int]) -> int:
        """Take out the rows that nothing has taken over.

        Returns:
            How many pictures have gone.
        """
        left = {row.id for row in self._old.values()}
        gone = [one for one in stale if one in left]
        self._catalog.replace(gone, [])
        self._vectors.remove(np.array(gone, np.int64))
        return len(gone)


def _can_be_read_now(row: PictureRecord) -> bool:
    """Whether a file failed for want of a package that has been installed since."""
    return any(
        extra in (row.error or "") and importlib.util.find_spec(module) is not None
        for extra, module in _EXTRAS.items()
    )
