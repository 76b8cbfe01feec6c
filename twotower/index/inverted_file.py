"""Approximate nearest neighbours for millions of vectors: an inverted file (IVF), by faiss.

Vectors are clustered into lists. A search reads the lists whose centroids are nearest to the query;
the number of lists to read is measured on queries while the lists are built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from twotower.arrays import BoolArray, Float32Array, IndexArray, Int64Array
from twotower.errors import LibraryError
from twotower.files import atomic_folder, remove_leftovers
from twotower.progress import Progress, ReportProgress

LISTS_FOLDER = "lists"  # in the folder of the vectors
MIN_VECTORS = 100_000  # exact search of fewer takes a few milliseconds
TOP = 100  # number of neighbours of which `RECALL` are found
RECALL = 0.95  # on generic texts; on the queries of people it is 0.98 and more

_LISTS = 2  # lists per square root of the number of vectors
_SAMPLE = 48  # vectors per list from which its centroid is computed
_KMEANS_ROUNDS = 8
_CHUNK = 65_536  # vectors added at a time
_PROBES_EXPONENT = 1 / 3  # for 8 times as many results, twice as many lists give the same recall
_MARGIN = 30  # results beyond those requested: 8-bit scores misorder close ones
_INDEX_FILE, _MARKS_FILE = "lists.faiss", "marks"


class InvertedFile:
    """Inverted lists over the slots of `LocalVectors`, compared with what the slots hold now.

    Attributes:
        unlisted: slots [m] filled since the lists were built; they have to be searched besides.
        removed: number of listed vectors that are no longer in their slot.
    """

    def __init__(self, index: Any, listed_marks: Int64Array, marks: Int64Array) -> None:
        """Compare the lists with the slots.

        Args:
            index: the faiss index, whose ids are slots.
            listed_marks: marks of the slots when the lists were built.
            marks: marks of the slots now [n]; see `LocalVectors`.
        """
        self._index, self._slots = index, len(listed_marks)
        before = np.zeros(len(marks), np.int64)
        before[: len(listed_marks)] = listed_marks[: len(marks)]
        self._unchanged = (marks != 0) & (marks == before)
        self.removed = int(np.count_nonzero(listed_marks) - np.count_nonzero(self._unchanged))
        self.unlisted: IndexArray = np.flatnonzero((marks != 0) & ~self._unchanged)

    def near(self, query: Float32Array, top: int, allowed: BoolArray | None) -> IndexArray:
        """Return listed slots with nearly all of the `top` nearest, and some more, in no order.

        Until `top` slots are found, four times as many lists are read: those that a filter allows
        can lie in a few lists far from the query.

        Args:
            allowed: the slots to search [n]; None for all.
        """
        import faiss

        parameters: Any = faiss.SearchParametersIVF()
        probes = self._index.nprobe * max(1, top / TOP) ** _PROBES_EXPONENT
        if allowed is not None or self.removed:
            allowed = self._unchanged if allowed is None else allowed & self._unchanged
            probes *= self._index.ntotal / max(1, np.count_nonzero(allowed))
            selector: Any = faiss.IDSelectorBitmap
            parameters.sel = selector(np.packbits(allowed, bitorder="little"))
        while True:
            parameters.nprobe = min(self._index.nlist, int(np.ceil(probes)))
            _, [slots] = self._index.search(query[None], top + _MARGIN, params=parameters)
            if slots[-1] >= 0 or parameters.nprobe == self._index.nlist:
                valid = (slots >= 0) & (slots < self._slots)  # a damaged file has others
                return np.asarray(slots[valid], np.intp)
            probes *= 4


def open_inverted_file(folder: Path, embed_dim: int, marks: Int64Array) -> InvertedFile | None:
    """Open the lists in a folder of vectors; return None if faiss is not installed.

    Args:
        marks: marks of the slots now [n]; see `LocalVectors`.

    Raises:
        LibraryError: the lists are damaged.
    """
    try:
        import faiss
    except ImportError:
        return None
    path = folder / LISTS_FOLDER
    try:
        listed_marks = np.fromfile(path / _MARKS_FILE, np.int64)
        index: Any = faiss.read_index(str(path / _INDEX_FILE), faiss.IO_FLAG_MMAP)
        inverted: Any = faiss.downcast_InvertedLists(index.invlists)
        inverted.prefetch_nthread = 0  # starting 32 threads takes as long as the search
        index.parallel_mode = 1  # threads share the lists of a query
        valid = index.d == embed_dim and index.ntotal == np.count_nonzero(listed_marks)
    except (OSError, RuntimeError, AttributeError):  # the last: an index of another kind
        valid = False
    if not valid:
        raise LibraryError(
            path,
            "the lists for approximate search are damaged",
            "delete the folder (the search is exact then), or build them again: "
            "twotower index --approximate",
        )
    return InvertedFile(index, listed_marks, marks)


def require_faiss() -> None:
    """Check that faiss is installed.

    Raises:
        LibraryError: it is not.
    """
    try:
        import faiss  # noqa: F401
    except ImportError:
        raise LibraryError(
            "--approximate", "needs one more package", "pip install 'twotower[approximate]'"
        ) from None


def build_inverted_file(
    folder: Path,
    marks: Int64Array,
    rows: Float32Array,
    queries: Float32Array,
    report: ReportProgress,
) -> None:
    """Build lists of all vectors; existing lists are replaced when the new ones are complete.

    Args:
        folder: that of the vectors; the caller holds the lock of the library.
        marks: marks of the slots [n]; 0 for a free one.
        rows: the vectors in the slots [n, embed_dim].
        queries: typical queries [q, embed_dim], on which the number of lists to read is measured.

    Raises:
        LibraryError: faiss is not installed, there are fewer than `MIN_VECTORS` vectors, or the
            disk is full.
    """
    require_faiss()
    slots = np.flatnonzero(marks)
    if len(slots) < MIN_VECTORS:
        raise LibraryError(
            "--approximate",
            f"pays off from {MIN_VECTORS} pictures; {len(slots)} are searched exactly, in "
            "milliseconds",
            "leave it out",
        )
    report(Progress(0, len(slots), stage="Building lists"))
    index = _train_lists(rows, slots)
    nearest = _fill_lists(index, rows, slots, queries, report)
    _set_probes(index, queries, nearest)
    _write_lists(folder, index, marks)


def _train_lists(rows: Float32Array, slots: IndexArray) -> Any:
    """Return a faiss index with the centroids of its lists, and no vectors yet."""
    import faiss

    count, embed_dim = int(_LISTS * len(slots) ** 0.5), rows.shape[1]
    kind = faiss.ScalarQuantizer.QT_8bit
    centroids = faiss.IndexFlatIP(embed_dim)
    index = faiss.IndexIVFScalarQuantizer(
        centroids, embed_dim, count, kind, faiss.METRIC_INNER_PRODUCT, False
    )
    index.cp.niter, index.cp.max_points_per_centroid = _KMEANS_ROUNDS, _SAMPLE
    random = np.random.default_rng(0)
    sample = random.choice(slots, min(len(slots), _SAMPLE * count), replace=False)
    index.train(np.ascontiguousarray(rows[np.sort(sample)]))
    return index


def _fill_lists(
    index: Any,
    rows: Float32Array,
    slots: IndexArray,
    queries: Float32Array,
    report: ReportProgress,
) -> IndexArray:
    """Add all vectors to the lists; return the slots of the nearest to each query [q, TOP]."""
    best = np.full((len(queries), TOP), -np.inf, np.float32)
    best_slots = np.zeros(best.shape, np.int64)
    for start in range(0, len(slots), _CHUNK):
        chunk = slots[start : start + _CHUNK]
        embeds = np.ascontiguousarray(rows[chunk])
        index.add_with_ids(embeds, chunk)
        scores = np.hstack([best, queries @ embeds.T])
        score_slots = np.hstack([best_slots, np.tile(chunk, (len(queries), 1))])
        chosen = np.argpartition(-scores, TOP - 1, axis=1)[:, :TOP]
        best = np.take_along_axis(scores, chosen, axis=1)
        best_slots = np.take_along_axis(score_slots, chosen, axis=1)
        report(Progress(start + len(chunk), len(slots), stage="Building lists"))
    return best_slots


def _set_probes(index: Any, queries: Float32Array, nearest: IndexArray) -> None:
    """Set the number of lists to read so that a share `RECALL` of `nearest` [q, TOP] is found."""
    index.nprobe = 1
    while index.nprobe < index.nlist:
        results = index.search(queries, TOP + _MARGIN)[1]
        recalls = [len(np.intersect1d(*pair)) / TOP for pair in zip(results, nearest, strict=True)]
        if np.mean(recalls) >= RECALL:
            return
        index.nprobe = min(index.nlist, index.nprobe + index.nprobe // 4 + 1)


def _write_lists(folder: Path, index: Any, marks: Int64Array) -> None:
    import faiss

    path = folder / LISTS_FOLDER
    remove_leftovers(path)
    try:
        with atomic_folder(path) as temporary:
            faiss.write_index(index, str(temporary / _INDEX_FILE))
            marks.tofile(temporary / _MARKS_FILE)
    except (OSError, RuntimeError):  # the latter from faiss
        raise LibraryError(
            path,
            "cannot be written; the search is unchanged",
            f"make room for {index.ntotal * index.d / 1e9:.1f} GB and index again",
        ) from None
