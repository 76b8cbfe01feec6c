"""Vectors in memory-mapped files on this machine, with exact and approximate search."""

from __future__ import annotations

import itertools
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import BoolArray, Float32Array, IndexArray, Int64Array, best_first
from twotower.errors import LibraryError
from twotower.index.int8_scores import CHUNK, find_candidates, quantize
from twotower.index.inverted_file import (
    LISTS_FOLDER,
    InvertedFile,
    build_inverted_file,
    open_inverted_file,
)
from twotower.index.vectors import missing_vectors
from twotower.progress import ReportProgress, ignore_progress

_SPARSE = 0.05  # share of allowed vectors below which they are read alone
_SPREAD = 1000  # highest id for each vector up to which a table of all ids is made
_MAX_LISTED = 10_000  # results up to which the inverted lists are used
_STALE = 0.1  # share of vectors that are not in the lists, from which these are built again


class LocalVectors:
    """Vectors in memory-mapped files of a folder; search is exact unless `build_lists` was called.

    Each vector has a slot: a row of `rows.f32` (the vector), `codes.i8` (the vector rounded to 8
    bits), `scales.f32` (see `quantize`) and `ids` (0 for a free slot). The id is written after the
    others have reached the disk: a slot without an id is ignored, and used again.

    A search scores the codes, and then the vectors of the candidates (`int8_scores.py`). With
    inverted lists (`inverted_file.py`) the candidates are the vectors in the nearest lists, and all
    that were added since the lists were built: scores are exact, but a few of the nearest may be
    missing. The mark of a slot, the bits of its scales, tells whether its vector was replaced.
    """

    def __init__(self, folder: Path, embed_dim: int) -> None:
        """Open the vectors in `folder`, which is created at the first `add`.

        Raises:
            LibraryError: a file is missing or too short.
        """
        self.folder, self.embed_dim = folder, embed_dim
        self._version: tuple[int, int] | None = None
        self._order: IndexArray | None = None  # sorts the ids, computed when it is needed
        self._lists: InvertedFile | None = None
        self._refresh()

    def __len__(self) -> int:
        self._refresh()
        return int(np.count_nonzero(self._ids))

    def ids(self) -> Int64Array:
        """See `Vectors.ids`."""
        self._refresh()
        return self._ids[self._ids > 0]

    def add(self, ids: Int64Array, embeds: Float32Array) -> None:
        """See `Vectors.add`."""
        if not len(ids):
            return
        self.remove(ids)
        free = np.flatnonzero(self._ids == 0)[: len(ids)]
        slots = np.append(free, len(self._ids) + np.arange(len(ids) - len(free)))
        rows = np.ascontiguousarray(embeds, np.float32)
        codes, scales = quantize(rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, values in (("rows.f32", rows), ("codes.i8", codes), ("scales.f32", scales)):
            self._write(name, slots, values)
        self._write("ids", slots, np.asarray(ids, np.int64))
        self._refresh()

    def remove(self, ids: Int64Array) -> None:
        """See `Vectors.remove`."""
        self._refresh()
        slots = np.flatnonzero(np.isin(self._ids, ids) & (self._ids > 0))
        if len(slots):
            self._write("ids", slots, np.zeros(len(slots), np.int64))
            self._refresh()

    def get(self, ids: Int64Array) -> Float32Array:
        """See `Vectors.get`."""
        self._refresh()
        if self._order is None:
            self._order = np.argsort(self._ids, kind="stable")
        order = self._order
        positions = np.searchsorted(self._ids, ids, sorter=order)
        if (positions == len(order)).any() or (self._ids[slots := order[positions]] != ids).any():
            raise missing_vectors(self.folder)
        return np.asarray(self._rows[slots])

    def search(
        self, query: Float32Array, top: int, allowed: Int64Array | None = None
    ) -> tuple[Int64Array, Float32Array]:
        """See `Vectors.search`."""
        self._refresh()
        query = np.ascontiguousarray(query, np.float32)
        lists = self._open_lists() if top <= _MAX_LISTED else None
        if lists and allowed is None:
            return self._best_of(self._near(lists, query, top), query, top)
        eligible = self._ids > 0
        if allowed is not None:
            eligible &= _members(self._ids, allowed)
        count = np.count_nonzero(eligible)
        if count <= max(top, _SPARSE * len(eligible)):
            slots = np.flatnonzero(eligible)
        elif lists:
            slots = self._near(lists, query, top, eligible)
        else:
            mask = None if count == len(eligible) else eligible
            slots = find_candidates(self._rows, self._codes, self._scales, query, top, mask)
        return self._best_of(slots, query, top)

    def _best_of(
        self, slots: IndexArray, query: Float32Array, top: int
    ) -> tuple[Int64Array, Float32Array]:
        """Return ids and scores of the `top` best slots, by their float32 vectors."""
        scores = np.concatenate(
            [self._rows[slots[i : i + CHUNK]] @ query for i in range(0, len(slots), CHUNK)]
            or [np.zeros(0, np.float32)]
        )
        ids = self._ids[slots]
        best = best_first(scores, ids)[:top]
        return ids[best], scores[best]

    def scores(self, queries: Float32Array) -> tuple[Int64Array, Float32Array]:
        """See `Vectors.scores`."""
        self._refresh()
        slots = np.flatnonzero(self._ids)
        scores = np.empty((len(queries), len(slots)), np.float32)
        for start in range(0, len(slots), CHUNK):
            chunk = slots[start : start + CHUNK]
            scores[:, start : start + len(chunk)] = queries @ self._rows[chunk].T
        return self._ids[slots], scores

    def build_lists(self, queries: Float32Array, report: ReportProgress = ignore_progress) -> None:
        """Build inverted lists: from now on searches are approximate, and much faster.

        Args:
            queries: typical queries [q, embed_dim], on which the recall is measured.

        Raises:
            LibraryError: as for `build_inverted_file`.
        """
        self._refresh()
        build_inverted_file(self.folder, self._marks(), self._rows, queries, report)
        self._map()

    def has_lists(self) -> bool:
        """Return True if there are inverted lists, and they can be used."""
        self._refresh()
        return self._open_lists() is not None

    def has_stale_lists(self) -> bool:
        """Return True if so much was added or removed that the lists should be built again."""
        self._refresh()
        lists = self._open_lists()
        return lists is not None and len(lists.unlisted) + lists.removed > _STALE * len(self._ids)

    def drop(self) -> None:
        """See `Vectors.drop`."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """See `Vectors.close`."""
        self._ids = np.zeros(0, np.int64)
        self._map()

    def _open_lists(self) -> InvertedFile | None:
        if self._lists is None and (self.folder / LISTS_FOLDER).is_dir():
            self._lists = open_inverted_file(self.folder, self.embed_dim, self._marks())
        return self._lists

    def _marks(self) -> Int64Array:
        """Return the mark of each slot [n]; 0 for a free one."""
        marks = np.ascontiguousarray(self._scales).view(np.int64)[:, 0]
        return np.where(self._ids > 0, marks, 0)

    def _near(
        self, lists: InvertedFile, query: Float32Array, top: int, allowed: BoolArray | None = None
    ) -> IndexArray:
        """Return the slots of the nearest by the lists, and all unlisted ones."""
        unlisted = lists.unlisted if allowed is None else lists.unlisted[allowed[lists.unlisted]]
        near = lists.near(query, top, allowed)
        _prefetch(self._rows, near)
        return np.concatenate([near, unlisted])

    def _refresh(self) -> None:
        """Open the files again if they were changed, here or by another process."""
        path = self.folder / "ids"
        try:
            stat = path.stat()
            version = (stat.st_mtime_ns, stat.st_size)
            if version != self._version:
                self._ids = np.fromfile(path, np.int64)
                self._map()
                self._version = version
        except FileNotFoundError:
            self._ids = np.zeros(0, np.int64)
            self._map()

    def _map(self) -> None:
        self._order = self._lists = None
        self._rows: Float32Array = self._mapped("rows.f32", np.float32, self.embed_dim)
        self._codes: NDArray[np.int8] = self._mapped("codes.i8", np.int8, self.embed_dim)
        self._scales: Float32Array = self._mapped("scales.f32", np.float32, 2)

    def _mapped(self, name: str, dtype: Any, width: int) -> NDArray[Any]:
        shape = (len(self._ids), width)
        if not len(self._ids):
            return np.zeros(shape, dtype)
        try:
            return np.asarray(np.memmap(self.folder / name, dtype, "r", shape=shape))
        except (OSError, ValueError) as error:
            raise LibraryError(
                self.folder / name,
                f"missing or too short ({error})",
                f"delete the folder {self.folder} and index again",
            ) from None

    def _write(self, name: str, slots: IndexArray, values: NDArray[Any]) -> None:
        """Write row i of `values` into slot i of a file, and flush it to the disk."""
        path = self.folder / name
        width = values[0].nbytes
        with path.open("r+b" if path.exists() else "w+b", buffering=0) as file:
            for start, end in _runs(slots):
                file.seek(int(slots[start]) * width)
                content = memoryview(values[start:end].tobytes())
                while content:  # a raw write may be incomplete, as on a disk that fills up
                    content = content[file.write(content) :]
            os.fsync(file.fileno())


def _prefetch(rows: Float32Array, slots: IndexArray) -> None:
    """Request the pages of rows from the disk at once: page by page, 300 rows take 0.5 s."""
    memory: Any = getattr(rows.base, "_mmap", None)
    if not hasattr(memory, "madvise"):  # as on Windows
        return
    width = rows.shape[1] * rows.itemsize
    for slot in slots.tolist():
        start = slot * width // mmap.PAGESIZE * mmap.PAGESIZE
        memory.madvise(mmap.MADV_WILLNEED, start, slot * width + width - start)


def _members(ids: Int64Array, allowed: Int64Array) -> BoolArray:
    """Return which of `ids` [n] are in `allowed`, by a table: ids are assigned in sequence."""
    if ids.max(initial=0) > _SPREAD * len(ids):
        return np.isin(ids, allowed)
    table = np.zeros(int(ids.max(initial=0)) + 1, np.bool_)
    table[allowed[(allowed > 0) & (allowed < len(table))]] = True
    return table[ids]


def _runs(slots: IndexArray) -> Iterator[tuple[int, int]]:
    """Return ranges [start, end) of `slots` with consecutive values."""
    breaks = np.flatnonzero(np.diff(slots) != 1) + 1
    edges = [0, *breaks.tolist(), len(slots)]
    return itertools.pairwise(edges)
