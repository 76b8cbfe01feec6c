"""The nearest of many millions, nearly all of them, in milliseconds: an inverted file, by faiss.

Vectors that are alike share a list. A search looks only into the lists whose middles are nearest to
the query; how many that takes is measured on queries while the lists are built.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twotower.errors import LibraryError

if TYPE_CHECKING:
    from twotower.arrays import Float32Array, IndexArray
from twotower.arrays import Int64Array

FOLDER = "lists"  # in that of the vectors
MIN_VECTORS = 100_000  # vectors; exact search takes a few milliseconds for so many
TOP = 100  # of how many nearest ones `RECALL` is a share
RECALL = 0.95  # on generic texts, which are harder: what people ask for then gets 0.98 and more

_LISTS = 2  # times the root of the number of vectors
_SAMPLE = 48  # vectors for each list, from which its middle is learned
_ROUNDS = 8  # of k-means
_CHUNK = 65_536  # vectors added at a time
_GROWTH = 1 / 3  # exponent: of eight times as many, twice the lists hold as large a share
_BEYOND = 30  # candidates more than asked for: one byte a number orders close ones wrongly
Say = Callable[[int, int], None]


class InvertedLists:
    """An index over the slots of `LocalVectors`, each vector rounded to one byte a number.

    Attributes:
        marks: what tells the vector that was in each slot when it was built [n]; 0 for none.
    """

    def __init__(self, index: Any, marks: Int64Array) -> None:
        self.marks, self._index = marks, index

    def near(self, query: Float32Array, top: int, wanted: NDArray[np.bool_] | None) -> IndexArray:
        """Slots that hold nearly all of the `top` nearest, and some more, in no order.

        More lists are read if more is asked for, and until that is found: what passes a filter can
        lie in a few lists, far from the query.

        Args:
            wanted: which slots count [m], if not all do.
        """
        import faiss

        parameters: Any = faiss.SearchParametersIVF()
        probes = self._index.nprobe * max(1, top / TOP) ** _GROWTH
        if wanted is not None:
            probes *= self._index.ntotal / max(1, np.count_nonzero(wanted))
            selector: Any = faiss.IDSelectorBitmap
            parameters.sel = selector(np.packbits(wanted, bitorder="little"))
        while True:
            parameters.nprobe = min(self._index.nlist, int(np.ceil(probes)))
            _, [found] = self._index.search(query[None], top + _BEYOND, params=parameters)
            if found[-1] >= 0 or parameters.nprobe == self._index.nlist:
                slots: IndexArray = found[(found >= 0) & (found < len(self.marks))]  # if damaged
                return slots
            probes *= 4


def open_inverted_lists(folder: Path, embed_dim: int) -> InvertedLists | None:
    """The lists of a folder of vectors; None if there are none, or faiss is not installed.

    Raises:
        LibraryError: they are damaged.
    """
    path = folder / FOLDER
    if not path.is_dir():
        return None
    try:
        import faiss
    except ImportError:
        return None
    try:
        marks = np.fromfile(path / "marks", np.int64)
        index: Any = faiss.read_index(str(path / "lists.faiss"), faiss.IO_FLAG_MMAP)
        inverted: Any = faiss.downcast_InvertedLists(index.invlists)
        inverted.prefetch_nthread = 0  # starting 32 threads takes as long as the search
        index.parallel_mode = 1  # the lists of a query are shared out among the cores
        whole = index.d == embed_dim and index.ntotal == np.count_nonzero(marks)
    except (OSError, RuntimeError, AttributeError):  # the last: of an index of another kind
        whole = False
    if not whole:
        raise LibraryError(
            f"{path}: damaged; delete it (the search is exact then), or build it again: "
            "twotower index --approximate"
        )
    return InvertedLists(index, marks)


def require_faiss() -> None:
    """Raises `LibraryError`: faiss is not installed."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        raise LibraryError(
            "--approximate needs one more package; pip install 'twotower[approximate]'"
        ) from None


def build_inverted_lists(
    folder: Path, marks: Int64Array, rows: Float32Array, queries: Float32Array, say: Say
) -> None:
    """Build the lists of all vectors; those of before are replaced when the new ones are whole.

    Args:
        marks: of the vector in each slot [n], 0 for a free one.
        rows: the vectors [n, embed_dim].
        queries: on which to measure how many lists must be read [q, embed_dim].
        say: called with how many vectors are done, and of how many.

    Raises:
        LibraryError: faiss is not installed, there are too few vectors for it to pay, or the disk
            is full.
    """
    require_faiss()
    import faiss

    slots = np.flatnonzero(marks)
    if len(slots) < MIN_VECTORS:
        raise LibraryError(
            f"--approximate pays from {MIN_VECTORS} pictures on; {len(slots)} are searched "
            "exactly, and at once"
        )
    say(0, len(slots))
    count, dim = int(_LISTS * len(slots) ** 0.5), rows.shape[1]
    kind = faiss.ScalarQuantizer.QT_8bit
    middles = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFScalarQuantizer(
        middles, dim, count, kind, faiss.METRIC_INNER_PRODUCT, False
    )
    index.cp.niter, index.cp.max_points_per_centroid = _ROUNDS, _SAMPLE
    random = np.random.default_rng(0)
    sample = random.choice(slots, min(len(slots), _SAMPLE * count), replace=False)
    index.train(np.ascontiguousarray(rows[np.sort(sample)]))
    best = np.full((len(queries), TOP), -np.inf, np.float32)
    best_slots = np.zeros(best.shape, np.int64)
    for start in range(0, len(slots), _CHUNK):
        some = slots[start : start + _CHUNK]
        part = np.ascontiguousarray(rows[some])
        index.add_with_ids(part, some)
        scores = np.hstack([best, queries @ part.T])
        all_slots = np.hstack([best_slots, np.tile(some, (len(queries), 1))])
        chosen = np.argpartition(-scores, TOP - 1, axis=1)[:, :TOP]
        best = np.take_along_axis(scores, chosen, axis=1)
        best_slots = np.take_along_axis(all_slots, chosen, axis=1)
        say(start + len(some), len(slots))
    _set_probes(index, queries, best_slots)
    partial, old = folder / f"{FOLDER}.partial", folder / f"{FOLDER}.old"
    for one in (partial, old):
        shutil.rmtree(one, ignore_errors=True)
    try:
        partial.mkdir()
        faiss.write_index(index, str(partial / "lists.faiss"))
        marks.tofile(partial / "marks")
        for path in partial.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    except (OSError, RuntimeError):  # as faiss says it
        shutil.rmtree(partial, ignore_errors=True)
        raise LibraryError(
            f"{partial}: cannot be written; the search is as it was: make room for "
            f"{len(slots) * dim / 1e9:.1f} GB and index again"
        ) from None
    if (folder / FOLDER).exists():
        (folder / FOLDER).rename(old)
    partial.rename(folder / FOLDER)
    shutil.rmtree(old, ignore_errors=True)


def _set_probes(index: Any, queries: Float32Array, nearest: IndexArray) -> None:
    """Read as many lists as it takes to find `RECALL` of the `nearest` [q, TOP]."""
    index.nprobe = 1
    while index.nprobe < index.nlist:
        found = index.search(queries, TOP + _BEYOND)[1]
        hits = [len(np.intersect1d(*pair)) / TOP for pair in zip(found, nearest, strict=True)]
        if np.mean(hits) >= RECALL:
            return
        index.nprobe = min(index.nlist, index.nprobe + index.nprobe // 4 + 1)
