"""Embeds by id, and the nearest of them: exact on this machine, Milvus beyond it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


class Vectors(Protocol):
    """Unit vectors [embed_dim], each under an id above 0.

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
        """Embeds [n, embed_dim] in the order of `ids`. Raises `KeyError` for one that is missing."""
        ...

    def search(self, query: Floats, top: int, allowed: Ids | None = None) -> tuple[Ids, Floats]:
        """The `top` nearest to `query` [embed_dim], of `allowed` only if that is given.

        Returns:
            ids [k] and their exact cosines [k], best first; k is less than `top` if there are less.
        """
        ...

    def scores(self, queries: Floats) -> tuple[Ids, Floats]:
        """Cosines of queries [q, embed_dim] with everything: ids [n] and scores [q, n]."""
        ...

    def close(self) -> None: ...


def open_vectors(location: str | Path, embed_dim: int) -> Vectors:
    """The vectors in a local folder (made if missing), as numpy and SIMD search them."""
    return LocalVectors(Path(location), embed_dim)


class LocalVectors:
    """Vectors in memory-mapped files of a folder, a slot each.

    `rows.f32` holds them and `ids` says whose they are; 0 marks a free slot. A vector is written,
    and on the disk, before its id is: whatever lies in a slot without id counts for nothing.
    """

    def __init__(self, folder: Path, embed_dim: int) -> None:
        self.folder, self.embed_dim = folder, embed_dim
        folder.mkdir(parents=True, exist_ok=True)
        self._ids = np.zeros(0, np.int64)
        self._rows = np.zeros((0, embed_dim), np.float32)
        self._read()

    def __len__(self) -> int:
        return int(np.count_nonzero(self._ids))

    def ids(self) -> Ids:
        return self._ids[self._ids > 0]

    def add(self, ids: Ids, embeds: Floats) -> None:
        if not len(ids):
            return
        self.remove(ids)
        free = np.flatnonzero(self._ids == 0)[: len(ids)]
        new = np.arange(len(self._ids), len(self._ids) + len(ids) - len(free))
        slots = np.concatenate([free, new])
        self._write("rows.f32", slots, np.asarray(embeds, np.float32))
        self._write("ids", slots, np.asarray(ids, np.int64))
        self._read()

    def remove(self, ids: Ids) -> None:
        slots = np.flatnonzero(np.isin(self._ids, ids) & (self._ids > 0))
        if len(slots):
            self._write("ids", slots, np.zeros(len(slots), np.int64))
            self._read()

    def get(self, ids: Ids) -> Floats:
        return np.asarray(self._rows[self._slots(ids)], np.float32)

    def search(self, query: Floats, top: int, allowed: Ids | None = None) -> tuple[Ids, Floats]:
        ids, [scores] = self.scores(query[None])
        if allowed is not None:
            keep = np.isin(ids, allowed)
            ids, scores = ids[keep], scores[keep]
        best = np.lexsort((ids, -scores))[:top]
        return ids[best], scores[best]

    def scores(self, queries: Floats) -> tuple[Ids, Floats]:
        taken = self._ids > 0
        return self._ids[taken], np.asarray((queries @ self._rows.T)[:, taken], np.float32)

    def close(self) -> None: ...

    def _slots(self, ids: Ids) -> NDArray[np.intp]:
        order = np.argsort(self._ids, kind="stable")
        places = np.searchsorted(self._ids, ids, sorter=order)
        slots = order[np.minimum(places, len(order) - 1)] if len(order) else places
        if len(ids) and (not len(order) or (self._ids[slots] != ids).any()):
            raise KeyError("no vector of that id")
        return slots

    def _read(self) -> None:
        path = self.folder / "ids"
        self._ids = np.fromfile(path, np.int64) if path.exists() else self._ids
        if len(self._ids):
            shape = (len(self._ids), self.embed_dim)
            self._rows = np.memmap(self.folder / "rows.f32", np.float32, "r", shape=shape)

    def _write(self, name: str, slots: NDArray[np.intp], values: NDArray[np.generic]) -> None:
        path = self.folder / name
        path.touch()
        with path.open("r+b", buffering=0) as file:
            width = values[0].nbytes
            for slot, value in zip(slots.tolist(), values, strict=True):
                file.seek(slot * width)
                file.write(value.tobytes())
            os.fsync(file.fileno())
