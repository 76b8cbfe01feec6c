"""Embeds by id, and the nearest of them: exact on this machine, or nearly so; Milvus beyond it."""

from __future__ import annotations

import itertools
import mmap
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array, IndexArray, Int64Array
from twotower.errors import LibraryError
from twotower.index.int8_scores import _Best, _round, _rounded_scores, _true_scores
from twotower.index.inverted_file import (
    InvertedLists,
    Say,
    build_inverted_lists,
    open_inverted_lists,
)
from twotower.index.vectors import best_first, missing

_CHUNK = 32768  # rows that a thread scores at a time
_GATHER = 0.05  # below this share of allowed rows they are read alone, else all and passed over
_LISTED = 10_000  # results asked for, up to which lists are looked into
_STALE = 0.1  # share of vectors that the lists lack, from which they are built anew


@dataclass(frozen=True)
class _Listed:
    """Lists beside what is in the slots now.

    `kept` [n] tells which slots still hold what was listed, `gone` how many do not, and `lacking`
    are the slots that were filled since.
    """

    lists: InvertedLists
    kept: NDArray[np.bool_]
    gone: int
    lacking: IndexArray


class LocalVectors:
    """Vectors in memory-mapped files of a folder, exactly searched unless `approximate` was called.

    Each vector has a slot: a place in `rows.f32` (the vector), `codes.i8` (the same, rounded to 8
    bits), `scales.f32` (what one step of its codes is worth, and the length of what rounding took
    away) and `ids` (whose it is; 0 for a free slot). The id is written last, when all else is on
    the disk: what lies in a slot without id counts for nothing. Free slots are filled again.

    A search reads the codes, a quarter of the bytes. As it knows how far each rounded score can be
    from the true one, it then reads the vectors of those that can be among the best: the answer is
    that of the float32 vectors, always. Without simsimd, numpy reads the vectors themselves.

    With lists (`lists.py`) it reads the vectors that those give, and all that came after they were
    built: scores are as true, but a few of the nearest may be missing.
    """

    def __init__(self, folder: Path, embed_dim: int) -> None:
        self.folder, self.embed_dim = folder, embed_dim
        self._widths = {"rows.f32": 4 * embed_dim, "codes.i8": embed_dim, "scales.f32": 8}
        self._version: tuple[int, int] | None = None
        self._order: IndexArray | None = None  # sorts the ids, once that is asked for
        self._lists: _Listed | None = None
        self._read()

    def __len__(self) -> int:
        self._read()
        return int(np.count_nonzero(self._ids))

    def ids(self) -> Int64Array:
        """See `Vectors.ids`."""
        self._read()
        return self._ids[self._ids > 0]

    def add(self, ids: Int64Array, embeds: Float32Array) -> None:
        """See `Vectors.add`."""
        if not len(ids):
            return
        self.remove(ids)
        free = np.flatnonzero(self._ids == 0)[: len(ids)]
        slots = np.append(free, len(self._ids) + np.arange(len(ids) - len(free)))
        rows = np.ascontiguousarray(embeds, np.float32)
        codes, scales = _round(rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, values in (("rows.f32", rows), ("codes.i8", codes), ("scales.f32", scales)):
            self._write(name, slots, values)
        self._write("ids", slots, np.asarray(ids, np.int64))
        self._read()

    def remove(self, ids: Int64Array) -> None:
        """See `Vectors.remove`."""
        self._read()
        slots = np.flatnonzero(np.isin(self._ids, ids) & (self._ids > 0))
        if len(slots):
            self._write("ids", slots, np.zeros(len(slots), np.int64))
            self._read()

    def get(self, ids: Int64Array) -> Float32Array:
        """See `Vectors.get`."""
        self._read()
        if self._order is None:
            self._order = np.argsort(self._ids, kind="stable")
        order = self._order
        places = np.searchsorted(self._ids, ids, sorter=order)
        if (places == len(order)).any() or (self._ids[slots := order[places]] != ids).any():
            raise missing(self.folder)
        return np.asarray(self._rows[slots])

    def search(
        self, query: Float32Array, top: int, allowed: Int64Array | None = None
    ) -> tuple[Int64Array, Float32Array]:
        """See `Vectors.search`."""
        self._read()
        query = np.ascontiguousarray(query, np.float32)
        listed = self._open_lists() if top <= _LISTED else None
        if listed and allowed is None:
            return self._best_of(self._near(listed, query, top), query, top)
        wanted = self._ids > 0
        if allowed is not None:
            wanted &= _members(self._ids, allowed)
        count = np.count_nonzero(wanted)
        if count <= max(top, _GATHER * len(wanted)):
            slots = np.flatnonzero(wanted)
        elif listed:
            slots = self._near(listed, query, top, wanted)
        else:
            slots = self._candidates(query, top, None if count == len(wanted) else wanted)
        return self._best_of(slots, query, top)

    def _best_of(
        self, slots: IndexArray, query: Float32Array, top: int
    ) -> tuple[Int64Array, Float32Array]:
        """The `top` best of some slots, by their true scores."""
        scores = np.concatenate(
            [self._rows[slots[i : i + _CHUNK]] @ query for i in range(0, len(slots), _CHUNK)]
            or [np.zeros(0, np.float32)]
        )
        return best_first(self._ids[slots], scores, top)

    def scores(self, queries: Float32Array) -> tuple[Int64Array, Float32Array]:
        """See `Vectors.scores`."""
        self._read()
        slots = np.flatnonzero(self._ids)
        scores = np.empty((len(queries), len(slots)), np.float32)
        for start in range(0, len(slots), _CHUNK):
            some = slots[start : start + _CHUNK]
            scores[:, start : start + len(some)] = queries @ self._rows[some].T
        return self._ids[slots], scores

    def approximate(self, queries: Float32Array, say: Say = lambda done, total: None) -> None:
        """Trade a few of the nearest for speed, from now on: see `lists.build_lists`.

        Args:
            queries: typical ones [q, embed_dim], on which it is measured what is found.
        """
        self._read()
        build_inverted_lists(self.folder, self._marks(), self._rows, queries, say)
        self._map()

    def has_lists(self) -> bool:
        """Whether `approximate` was called, and its lists can be used."""
        self._read()
        return self._open_lists() is not None

    def is_stale(self) -> bool:
        """Whether so much was added or removed that lists are worth building anew."""
        self._read()
        listed = self._open_lists()
        return listed is not None and len(listed.lacking) + listed.gone > _STALE * len(self._ids)

    def drop(self) -> None:
        """See `Vectors.drop`."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """See `Vectors.close`."""
        self._ids = np.zeros(0, np.int64)
        self._map()

    def _open_lists(self) -> _Listed | None:
        """The lists, if there are any, beside what is there now."""
        if self._lists is None and (lists := open_inverted_lists(self.folder, self.embed_dim)):
            marks = self._marks()
            known = np.zeros(len(marks), np.int64)
            known[: len(lists.marks)] = lists.marks[: len(marks)]
            kept = (marks != 0) & (marks == known)
            gone = int(np.count_nonzero(lists.marks) - np.count_nonzero(kept))
            self._lists = _Listed(lists, kept, gone, np.flatnonzero((marks != 0) & ~kept))
        return self._lists

    def _marks(self) -> NDArray[np.int64]:
        """What tells the vector in each slot from any other, 0 for none: its scales, as bits."""
        marks = np.ascontiguousarray(self._scales).view(np.int64)[:, 0]
        return np.where(self._ids > 0, marks, 0)

    def _near(
        self,
        listed: _Listed,
        query: Float32Array,
        top: int,
        wanted: NDArray[np.bool_] | None = None,
    ) -> IndexArray:
        """Slots of nearly all of the `top` by the lists, and all that these lack."""
        lacking = listed.lacking
        if wanted is not None:
            lacking, wanted = lacking[wanted[lacking]], wanted & listed.kept
        elif listed.gone:
            wanted = listed.kept
        near = listed.lists.near(query, top, wanted)
        _read_ahead(self._rows, near)
        return np.concatenate([near, lacking])

    def _candidates(
        self, query: Float32Array, top: int, wanted: NDArray[np.bool_] | None
    ) -> IndexArray:
        """Slots of everything that can be among the `top`, in any order."""
        score = _rounded_scores(query) or _true_scores(query)
        running = _Best(top)

        def look(start: int) -> None:
            part = slice(start, start + _CHUNK)
            scores, margins = score(self._rows, self._codes, self._scales, part)
            can_be = scores + margins >= running.floor
            if wanted is not None:
                can_be &= wanted[part]
            some = np.flatnonzero(can_be)
            running.put(start + some, scores[some], margins[some])

        for _ in _threads().map(look, range(0, len(self._ids), _CHUNK)):
            pass  # what a thread raises is raised here
        return running.slots()

    def _read(self) -> None:
        """Look whether the files have changed since, here or in another process."""
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
                f"{self.folder / name}: missing or too short ({error}); "
                f"delete the folder {self.folder} and index again"
            ) from None

    def _write(self, name: str, slots: IndexArray, values: NDArray[Any]) -> None:
        """Put row i of `values` into slot i of a file, and wait until the disk has it."""
        path = self.folder / name
        width = values[0].nbytes
        with path.open("r+b" if path.exists() else "w+b", buffering=0) as file:
            for first, last in _runs(slots):
                file.seek(int(slots[first]) * width)
                content = memoryview(values[first:last].tobytes())
                while content:  # a raw write may do a part only, as on a disk that fills up
                    content = content[file.write(content) :]
            os.fsync(file.fileno())


def _read_ahead(rows: Float32Array, slots: IndexArray) -> None:
    """Have the disk fetch some rows all together: one by one, 300 take half a second."""
    memory: Any = getattr(rows.base, "_mmap", None)
    if not hasattr(memory, "madvise"):  # as on Windows
        return
    width = rows.shape[1] * rows.itemsize
    for slot in slots.tolist():
        first = slot * width // mmap.PAGESIZE * mmap.PAGESIZE
        memory.madvise(mmap.MADV_WILLNEED, first, slot * width + width - first)


def _members(ids: Int64Array, some: Int64Array) -> NDArray[np.bool_]:
    """Which of `ids` [n] are among `some`. As ids are given out one by one, by a table."""
    table = np.zeros(int(ids.max(initial=0)) + 1, np.bool_)
    table[some[(some > 0) & (some < len(table))]] = True
    return table[ids]


def _runs(slots: IndexArray) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) of `slots` whose values follow one another."""
    breaks = np.flatnonzero(np.diff(slots) != 1) + 1
    edges = [0, *breaks.tolist(), len(slots)]
    return itertools.pairwise(edges)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="twotower-search")
