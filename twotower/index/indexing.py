"""Bring the pictures of a library up to date with the disk, safely against any interruption.

The order of writes makes it safe. A vector reaches the disk before the row of its picture, and a
row is deleted before its vector. So after a crash a vector without a row is a leftover, and a row
without a vector is a picture to be read again; the next run repairs both at its start.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace

import numpy as np

from twotower.arrays import Float32Array, Int64Array, normalize
from twotower.encode.encoder import Encoder
from twotower.encode.stream import StageTimes, read_ahead
from twotower.errors import LibraryError, PictureError
from twotower.index.catalog import REPLACED_TO, STOPPED_AT, Catalog
from twotower.index.imports import ImportedEmbeds
from twotower.index.reader import PictureContent, PictureReader
from twotower.index.scan import Scan, ScannedFile, compare, has_same_content, scan
from twotower.index.schema import RETRY, PictureRecord
from twotower.index.vectors import Vectors
from twotower.progress import Progress, ReportProgress, ignore_progress

COMMIT_SECONDS = 2.0
BATCH_SIZE = 32
_READ_AHEAD = 2 * BATCH_SIZE
_EXTRAS = {"twotower[heif]": "pillow_heif", "twotower[raw]": "rawpy", "twotower[video]": "av"}


@dataclass(frozen=True)
class IndexReport:
    """The result of indexing, in pictures.

    Attributes:
        added: read and embedded, because they are new or changed.
        moved: moved, renamed or touched files with a known content, and pictures of which only the
            sidecar changed; nothing was computed.
        removed: no longer on the disk.
        unchanged: all others.
        failed: could not be read in this run (`Catalog.errors` lists all).
        unreadable: folders that could not be read, with the reason; their pictures stay indexed.
        imported: read, with a vector from the index of another program.
    """

    added: int
    moved: int
    removed: int
    unchanged: int
    failed: int
    unreadable: dict[str, str]
    seconds: float
    imported: int = 0


class Indexing:
    """One run over the disk, for the vectors of one model."""

    def __init__(
        self,
        catalog: Catalog,
        vectors: Vectors,
        encoder: Encoder,
        report: ReportProgress = ignore_progress,
        *,
        replaces: bool = False,
        verify_content: bool = False,
        imports: ImportedEmbeds | None = None,
    ) -> None:
        """Prepare the run.

        Args:
            replaces: the vectors are to replace those of another model, which are searched
                meanwhile.
            verify_content: read every file, also those whose size and times are unchanged.
            imports: vectors for new and changed pictures.
        """
        self._imports = imports
        self._verify_content = verify_content
        self._catalog, self._vectors, self._encoder = catalog, vectors, encoder
        self._report = report
        self._stage = f"Indexing with {encoder.config.name}" if replaces else "Indexing"
        self._progress_setting = REPLACED_TO if replaces else STOPPED_AT
        self._times = StageTimes()
        self._reader = PictureReader(catalog.root, encoder.preprocess)
        self._old: dict[str, PictureRecord] = {}  # stale rows by path, whose id may be used again
        # Read but not embedded: pixel_values [frames, 3, S, S].
        self._waiting: list[tuple[PictureRecord, Float32Array]] = []
        # Not committed: embeds [embed_dim] if they were computed in this run.
        self._ready: list[tuple[PictureRecord, Float32Array | None]] = []
        self._replaced: list[int] = []  # ids whose path a ready record has
        self._committed_at = time.monotonic()
        self._next_id = 0
        self._total = self._done = self._added = self._moved = self._failed = 0
        self._imported = 0
        self._unchanged = 0  # files that were not read
        self._verified = 0  # files that were read, with the content that is known

    def run(self) -> IndexReport:
        """Index all changes; after Ctrl-C, keep those that are done.

        Raises:
            LibraryError: the folder of pictures cannot be read, or has become empty.
        """
        started = time.monotonic()
        if not len(self._catalog):
            self._catalog.set_setting(self._progress_setting, "the start")
        incomplete = self._repair()
        result = scan(self._catalog.root)
        self._require_pictures(result)
        new, stale = self._compare(result, incomplete)
        try:
            changed = new if self._verify_content else self._update_sidecars(new)
            unknown = self._import(self._match_moved(changed))
            self._encoder.choose_engine(len(unknown), self._report)
            for _, content in read_ahead(self._reader, unknown, _READ_AHEAD, self._times):
                self._add(content)
        except KeyboardInterrupt:
            self._finish()
            raise
        self._finish()
        removed = self._remove(stale)
        for setting in (STOPPED_AT, self._progress_setting):
            if self._catalog.get_setting(setting):
                self._catalog.set_setting(setting, "")
        return IndexReport(
            added=self._added,
            moved=self._moved,
            removed=removed,
            unchanged=self._unchanged + self._verified,
            failed=self._failed,
            unreadable={os.fsdecode(path): why for path, why in result.unreadable.items()},
            seconds=time.monotonic() - started,
            imported=self._imported,
        )

    def _repair(self) -> set[int]:
        """Remove vectors without a row.

        Returns:
            ids of rows without a vector, and of errors that a package installed since resolves.
        """
        stored, readable = self._vectors.ids(), self._catalog.select()
        self._vectors.remove(np.setdiff1d(stored, readable))
        incomplete = set(np.setdiff1d(readable, stored).tolist())
        return incomplete | {row.id for row in self._catalog.errors() if _is_resolved(row)}

    def _require_pictures(self, result: Scan) -> None:
        root = self._catalog.root
        if b"" in result.unreadable:
            raise LibraryError(root, result.unreadable[b""], "give a folder that can be read")
        if not result.files and len(self._catalog):
            raise LibraryError(
                root,
                f"no pictures there, but {len(self._catalog)} are indexed",
                f"is the disk mounted? If they are gone for good, delete {self._catalog.location}",
            )

    def _compare(self, result: Scan, incomplete: set[int]) -> tuple[list[ScannedFile], list[int]]:
        """Compare disk and catalog, and set the counts.

        Returns:
            Files to read, and ids of stale rows.
        """
        states = self._catalog.file_states()
        changes = compare(result, states, verify_content=self._verify_content)
        self._complete_change_times(changes.unchanged)
        repeated = [
            file
            for file in result.files
            if file.path in states and states[file.path].id in incomplete
        ]
        old = self._catalog.pictures([*changes.stale, *incomplete])
        self._old = {row.path: row for row in old}
        new = list(dict.fromkeys(changes.new + repeated))
        self._total, self._unchanged = len(new), len(result.files) - len(new)
        self._next_id = self._catalog.next_id()
        return new, changes.stale

    def _complete_change_times(self, unchanged: dict[int, ScannedFile]) -> None:
        """Store the times of change in rows of an earlier version, which lack them."""
        ids = self._catalog.select("ctime_ns = 0").tolist()
        times = {number: unchanged[number].ctime_ns for number in ids if number in unchanged}
        if times:
            self._catalog.set_change_times(times)

    def _update_sidecars(self, new: list[ScannedFile]) -> list[ScannedFile]:
        """Update the rows of files of which only the sidecar changed, without reading the files.

        Returns:
            The other files.
        """
        stored = set(self._vectors.ids().tolist())
        rows: dict[ScannedFile, PictureRecord] = {}
        for file in new:
            row = self._old.get(os.fsdecode(file.path))
            if row is None or row.error is not None or row.id not in stored:
                continue
            if has_same_content(file, row) and row.sidecar_ns != file.sidecar_ns:
                rows[file] = row
        for file, facts in read_ahead(self._reader.sidecar_facts, rows, ahead=_READ_AHEAD):
            assert not isinstance(facts, PictureError)
            row = replace(rows[file], sidecar_ns=file.sidecar_ns, **asdict(facts))
            self._reuse(rows[file], row)
        self._commit()
        return [file for file in new if file not in rows]

    def _match_moved(self, new: list[ScannedFile]) -> list[ScannedFile]:
        """Find files whose content is in a stale row (moved, renamed or touched), and keep its id.

        Returns:
            The other files.
        """
        stored = set(self._vectors.ids().tolist())
        lost: dict[bytes, list[PictureRecord]] = defaultdict(list)
        for row in self._old.values():
            if row.content_hash is not None and row.error is None and row.id in stored:
                lost[row.content_hash].append(row)
        sizes = {row.size for rows in lost.values() for row in rows}
        suspects = [file for file in new if file.size in sizes]
        matched = set()
        for file, content in read_ahead(self._reader.without_pixels, suspects, ahead=_READ_AHEAD):
            assert not isinstance(content, PictureError)
            if content is None or content.record.error or content.record.content_hash is None:
                continue
            rows = lost[content.record.content_hash]
            if not rows:
                continue
            rows.sort(key=lambda row: row.path == content.record.path)
            row = rows.pop()  # that of the same path, if there is one
            self._reuse(row, replace(content.record, id=row.id))
            matched.add(file)
        self._commit()
        return [file for file in new if file not in matched]

    def _import(self, new: list[ScannedFile]) -> list[ScannedFile]:
        """Store the pictures that have a vector in the index of another program.

        Returns:
            The other files.
        """
        if self._imports is None:
            return new
        candidates = [file for file in new if file.path in self._imports]
        matched = set()
        for file, imported in read_ahead(self._read_imported, candidates, ahead=_READ_AHEAD):
            assert not isinstance(imported, PictureError)
            if imported is not None:
                record, embeds = imported
                self._ready.append((self._with_id(record), embeds))
                self._imported += 1
                self._step()
                matched.add(file)
        self._commit()
        return [file for file in new if file not in matched]

    def _read_imported(self, file: ScannedFile) -> tuple[PictureRecord, Float32Array] | None:
        """Read a file without its pixels; return its record and its imported vector, if any."""
        content = self._reader.without_pixels(file)
        if content is None or content.record.error or self._imports is None:
            return None
        embeds = self._imports.get(content.record)
        return None if embeds is None else (content.record, embeds)

    def _reuse(self, stale: PictureRecord, record: PictureRecord) -> None:
        """Store a record under the id, and with the vector, of a stale row."""
        self._old.pop(stale.path)
        self._ready.append((record, None))
        earlier_times = (record.mtime_ns, RETRY)
        same_sidecar = stale.sidecar_ns == record.sidecar_ns
        if stale.path == record.path and stale.mtime_ns in earlier_times and same_sidecar:
            self._verified += 1
        else:
            self._moved += 1
        self._step()

    def _add(self, content: PictureContent | PictureError | None) -> None:
        """Store an error, or keep the pixels for the next batch."""
        assert not isinstance(content, PictureError)
        if content is None:
            pass  # deleted in the meantime; the next scan detects it
        elif content.pixel_values is None:
            self._ready.append((self._with_id(content.record), None))
            self._failed += 1
        else:
            self._waiting.append((content.record, content.pixel_values))
        self._step()

    def _step(self) -> None:
        """Count a file; embed a full batch, and commit every `COMMIT_SECONDS`."""
        self._done += 1
        due = time.monotonic() - self._committed_at >= COMMIT_SECONDS
        if due or sum(len(pixels) for _, pixels in self._waiting) >= BATCH_SIZE:
            self._embed()
        if due:
            self._commit()
        limit = self._times.limit
        self._report(Progress(self._done, self._total, self._failed, self._stage, limit))

    def _embed(self) -> None:
        """Embed the waiting pictures; the embed of a video is the mean over its frames."""
        if not self._waiting:
            return
        rows = self._encoder.encode_pixels(np.concatenate([pixels for _, pixels in self._waiting]))
        start = 0
        for record, pixels in self._waiting:
            embeds = rows[start]
            if len(pixels) > 1:
                [embeds] = normalize(rows[start : start + len(pixels)].mean(axis=0, keepdims=True))
            start += len(pixels)
            self._ready.append((self._with_id(record), embeds))
        self._added += len(self._waiting)
        self._waiting = []

    def _with_id(self, record: PictureRecord) -> PictureRecord:
        """Return the record with a new id, or that of the row with its path and content."""
        before = self._old.pop(record.path, None)
        if before is not None:
            if before.content_hash is not None and before.content_hash == record.content_hash:
                return replace(record, id=before.id)
            self._replaced.append(before.id)
        self._next_id += 1
        return replace(record, id=self._next_id - 1)

    def _commit(self) -> None:
        """Write vectors, then rows, then remove replaced vectors; see the top of this file."""
        embedded = [(record.id, embeds) for record, embeds in self._ready if embeds is not None]
        if embedded:
            ids, embeds = zip(*embedded, strict=True)
            self._vectors.add(np.array(ids, np.int64), np.stack(embeds))
        self._catalog.replace(self._replaced, [record for record, _ in self._ready])
        self._vectors.remove(_as_ids(self._replaced))
        if self._total:
            done, total = self._unchanged + self._done, self._unchanged + self._total
            self._catalog.set_setting(self._progress_setting, f"{done} of {total}")
        self._ready, self._replaced = [], []
        self._committed_at = time.monotonic()

    def _finish(self) -> None:
        self._embed()
        self._commit()

    def _remove(self, stale: list[int]) -> int:
        """Remove the stale rows whose id was not used again, and return their number."""
        old_ids = {row.id for row in self._old.values()}
        removed = [number for number in stale if number in old_ids]
        self._catalog.replace(removed, [])
        self._vectors.remove(_as_ids(removed))
        return len(removed)


def _as_ids(numbers: list[int]) -> Int64Array:
    return np.array(numbers, np.int64)


def _is_resolved(row: PictureRecord) -> bool:
    """Return True if a file could not be read for want of a package that is installed now."""
    return any(
        extra in (row.error or "") and importlib.util.find_spec(module) is not None
        for extra, module in _EXTRAS.items()
    )
