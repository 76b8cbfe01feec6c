"""Embeds by id, and the nearest of them: exact on this machine, or nearly so; Milvus beyond it."""

from __future__ import annotations

import itertools
import mmap
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from twotower.library.catalog import LibraryError
from twotower.library.lists import Lists, Say, build_lists, open_lists

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Slots = NDArray[np.intp]

_CHUNK = 32768  # rows that a thread scores at a time
_GATHER = 0.05  # below this share of allowed rows they are read alone, else all and passed over
_ROUNDING = 1e-5  # more than float32 loses in a sum of unit vectors' products
_LISTED = 10_000  # results asked for, up to which lists are looked into
_STALE = 0.1  # share of vectors that the lists lack, from which they are built anew
_OUTLIER = 0.2  # of a query's length: numbers above it are not rounded


class Vectors(Protocol):
    """Unit vectors [embed_dim], each under an id: a number above 0, given out one by one.

    When `add` or `remove` returns, the change has reached the disk; if the process dies before, any
    part of it may have, but never a vector under an id that is not its own.
    """

    embed_dim: int

    def __len__(self) -> int: ...

    def ids(self) -> Ids:
        """All ids [n], in no particular order."""
        ...

    def add(self, ids: Ids, embeds: Floats) -> None:
        """Store embeds [n, embed_dim]; an id that is there already gets the new vector."""
        ...

    def remove(self, ids: Ids) -> None:
        """Forget some; ids that are not there are passed over."""
        ...

    def get(self, ids: Ids) -> Floats:
        """Embeds [n, embed_dim] in the order of `ids`. Raises `LibraryError` if one is missing."""
        ...

    def search(self, query: Floats, top: int, allowed: Ids | None = None) -> tuple[Ids, Floats]:
        """The `top` nearest to `query` [embed_dim], of `allowed` only if that is given.

        Returns:
            ids [k] and their exact cosines [k], best first, the lower id first among equals (of
            those that the end cuts off from their equals, Milvus may keep any); k is less than
            `top` where there are no more.
        """
        ...

    def scores(self, queries: Floats) -> tuple[Ids, Floats]:
        """Cosines of queries [q, embed_dim] with everything: ids [n] and scores [q, n]."""
        ...

    def drop(self) -> None:
        """Delete all of it, for good."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


def open_vectors(location: str | Path, embed_dim: int, name: str = "") -> Vectors:
    """The vectors at `location`: `milvus://HOST:PORT/COLLECTION`, a `.db` file, or a local folder.

    A folder is made at the first `add`. In Milvus, `name` is appended to the collection's, so that
    libraries and models do not meet there.

    Raises:
        LibraryError: what is there cannot be used or reached.
    """
    if str(location).startswith("milvus://") or str(location).endswith(".db"):
        from twotower.library.milvus import MilvusVectors

        return MilvusVectors(str(location), embed_dim, name)
    return LocalVectors(Path(location), embed_dim)


def missing(where: str | Path) -> LibraryError:
    """The error for ids without a vector."""
    return LibraryError(f"{where}: vectors of some pictures are missing; run: twotower index")


def best_first(ids: Ids, scores: Floats, top: int) -> tuple[Ids, Floats]:
    """The `top` highest scores and their ids, the lower id first among equals."""
    best = np.lexsort((ids, -scores))[:top]
    return ids[best], scores[best]


@dataclass(frozen=True)
class _Listed:
    """Lists beside what is in the slots now.

    `kept` [n] tells which slots still hold what was listed, `gone` how many do not, and `lacking`
    are the slots that were filled since.
    """

    lists: Lists
    kept: NDArray[np.bool_]
    gone: int
    lacking: Slots


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
        self._order: Slots | None = None  # sorts the ids, once that is asked for
        self._lists: _Listed | None = None
        self._read()

    def __len__(self) -> int:
        self._read()
        return int(np.count_nonzero(self._ids))

    def ids(self) -> Ids:
        """See `Vectors.ids`."""
        self._read()
        return self._ids[self._ids > 0]

    def add(self, ids: Ids, embeds: Floats) -> None:
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

    def remove(self, ids: Ids) -> None:
        """See `Vectors.remove`."""
        self._read()
        slots = np.flatnonzero(np.isin(self._ids, ids) & (self._ids > 0))
        if len(slots):
            self._write("ids", slots, np.zeros(len(slots), np.int64))
            self._read()

    def get(self, ids: Ids) -> Floats:
        """See `Vectors.get`."""
        self._read()
        if self._order is None:
            self._order = np.argsort(self._ids, kind="stable")
        order = self._order
        places = np.searchsorted(self._ids, ids, sorter=order)
        if (places == len(order)).any() or (self._ids[slots := order[places]] != ids).any():
            raise missing(self.folder)
        return np.asarray(self._rows[slots])

    def search(self, query: Floats, top: int, allowed: Ids | None = None) -> tuple[Ids, Floats]:
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

    def _best_of(self, slots: Slots, query: Floats, top: int) -> tuple[Ids, Floats]:
        """The `top` best of some slots, by their true scores."""
        scores = np.concatenate(
            [self._rows[slots[i : i + _CHUNK]] @ query for i in range(0, len(slots), _CHUNK)]
            or [np.zeros(0, np.float32)]
        )
        return best_first(self._ids[slots], scores, top)

    def scores(self, queries: Floats) -> tuple[Ids, Floats]:
        """See `Vectors.scores`."""
        self._read()
        slots = np.flatnonzero(self._ids)
        scores = np.empty((len(queries), len(slots)), np.float32)
        for start in range(0, len(slots), _CHUNK):
            some = slots[start : start + _CHUNK]
            scores[:, start : start + len(some)] = queries @ self._rows[some].T
        return self._ids[slots], scores

    def approximate(self, queries: Floats, say: Say = lambda done, total: None) -> None:
        """Trade a few of the nearest for speed, from now on: see `lists.build_lists`.

        Args:
            queries: typical ones [q, embed_dim], on which it is measured what is found.
        """
        self._read()
        build_lists(self.folder, self._marks(), self._rows, queries, say)
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
        if self._lists is None and (lists := open_lists(self.folder, self.embed_dim)):
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
        self, listed: _Listed, query: Floats, top: int, wanted: NDArray[np.bool_] | None = None
    ) -> Slots:
        """Slots of nearly all of the `top` by the lists, and all that these lack."""
        lacking = listed.lacking
        if wanted is not None:
            lacking, wanted = lacking[wanted[lacking]], wanted & listed.kept
        elif listed.gone:
            wanted = listed.kept
        near = listed.lists.near(query, top, wanted)
        _read_ahead(self._rows, near)
        return np.concatenate([near, lacking])

    def _candidates(self, query: Floats, top: int, wanted: NDArray[np.bool_] | None) -> Slots:
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
        self._rows: Floats = self._mapped("rows.f32", np.float32, self.embed_dim)
        self._codes: NDArray[np.int8] = self._mapped("codes.i8", np.int8, self.embed_dim)
        self._scales: Floats = self._mapped("scales.f32", np.float32, 2)

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

    def _write(self, name: str, slots: Slots, values: NDArray[Any]) -> None:
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


class _Best:
    """What can still be among the best `top`, as seen so far by all threads.

    `floor` is a score that `top` of them surely reach.
    """

    def __init__(self, top: int) -> None:
        self.floor = -np.inf
        self._top = top
        self._lock = threading.Lock()
        self._kept = np.zeros(0, np.intp), np.zeros(0), np.zeros(0)

    def put(self, slots: Slots, scores: NDArray[Any], margins: NDArray[Any]) -> None:
        with self._lock:
            kept = [
                np.concatenate(pair)
                for pair in zip(self._kept, (slots, scores, margins), strict=True)
            ]
            if len(kept[0]) > self._top:
                surely = kept[1] - kept[2]
                self.floor = np.partition(surely, -self._top)[-self._top]
            can_be = kept[1] + kept[2] >= self.floor
            self._kept = kept[0][can_be], kept[1][can_be], kept[2][can_be]

    def slots(self) -> Slots:
        return np.sort(self._kept[0])


def _round(rows: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Codes [n, embed_dim], and for each row the worth of one step and the length that is lost."""
    steps = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-30) / 127
    codes = np.rint(rows / steps).astype(np.int8)
    lost = np.linalg.norm(rows - codes * steps, axis=1, keepdims=True)
    return codes, np.hstack([steps, lost]).astype(np.float32)


_Score = Callable[[Floats, NDArray[np.int8], Floats, slice], tuple[NDArray[Any], NDArray[Any]]]


def _rounded_scores(query: Floats) -> _Score | None:
    """What scores a part of the rows by their codes; None if simsimd is not installed.

    The score of a row x is wrong by at most its margin: with x', q' for the rounded,
    |q.x - q'.x'| = |q.(x - x') + (q - q').x'| <= |q| |x - x'| + |q - q'| |x'|.

    Words have a number or two in CLIP's space that are many times as large as all others, whose
    steps would be as coarse; so these are multiplied apart.
    """
    try:
        import simsimd
    except ImportError:
        return None
    length = float(np.linalg.norm(query))
    outliers = np.flatnonzero(np.abs(query) > _OUTLIER * length)
    even = query.copy()
    even[outliers] = 0
    codes, [[step, lost]] = _round(even[None])

    def score(
        rows: Floats, all_codes: NDArray[np.int8], scales: Floats, part: slice
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        products = step * np.asarray(simsimd.cdist(all_codes[part], codes, metric="dot"))[:, 0]
        if len(outliers):
            products += all_codes[part][:, outliers] @ query[outliers]
        row_steps, row_lost = scales[part].T
        margins = length * row_lost + lost * (1 + row_lost) + _ROUNDING
        return products * row_steps, margins

    return score


def _true_scores(query: Floats) -> _Score:
    """What scores a part of the rows by their vectors."""

    def score(
        rows: Floats, codes: NDArray[np.int8], scales: Floats, part: slice
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        scores = rows[part] @ query
        return scores, np.full(len(scores), _ROUNDING, np.float32)

    return score


def _read_ahead(rows: Floats, slots: Slots) -> None:
    """Have the disk fetch some rows all together: one by one, 300 take half a second."""
    memory: Any = getattr(rows.base, "_mmap", None)
    if not hasattr(memory, "madvise"):  # as on Windows
        return
    width = rows.shape[1] * rows.itemsize
    for slot in slots.tolist():
        first = slot * width // mmap.PAGESIZE * mmap.PAGESIZE
        memory.madvise(mmap.MADV_WILLNEED, first, slot * width + width - first)


def _members(ids: Ids, some: Ids) -> NDArray[np.bool_]:
    """Which of `ids` [n] are among `some`. As ids are given out one by one, by a table."""
    table = np.zeros(int(ids.max(initial=0)) + 1, np.bool_)
    table[some[(some > 0) & (some < len(table))]] = True
    return table[ids]


def _runs(slots: Slots) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) of `slots` whose values follow one another."""
    breaks = np.flatnonzero(np.diff(slots) != 1) + 1
    edges = [0, *breaks.tolist(), len(slots)]
    return itertools.pairwise(edges)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="twotower-search")
