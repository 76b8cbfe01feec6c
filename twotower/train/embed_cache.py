"""A cache of the vectors of frozen models: a folder of plain .npy files.

    CACHE/embeds/MODEL-KIND/
        000000-a1b2c3d4.vectors.npy    [n, width]
        000000-a1b2c3d4.keys.npy       uint8 [n, 16], the hash of each picture or text

A vector is found by the model (weights, preprocessing and tokenizer) and by the content of the
sample, so that a moved or renamed picture keeps its vectors. Each file is written whole or not at
all, the keys after the vectors, so a run that was killed continues with the complete files.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array
from twotower.errors import TrainError
from twotower.files import atomic_write, cache_folder
from twotower.progress import Progress, ReportProgress, ignore_progress

KEY_BYTES = 16
BLOCK = 512  # samples that are computed before a file is written

# indices of keys -> their vectors [n, width]
Compute: TypeAlias = Callable[[list[int]], Float32Array]


class EmbedCache:
    """The vectors of one model for one kind of sample, by key."""

    def __init__(self, folder: Path, dtype: type[np.floating[Any]] = np.float32) -> None:
        self.folder, self.dtype = folder, dtype
        self._rows: dict[bytes, tuple[int, int]] = {}  # key -> number of the array, row in it
        self._arrays: list[NDArray[Any]] = []
        for path in sorted(folder.glob("*.keys.npy")):
            self._open(path)

    def __len__(self) -> int:
        return len(self._rows)

    def holds(self, keys: Sequence[bytes]) -> bool:
        """Return True if all keys have a vector."""
        return all(key in self._rows for key in keys)

    def fill(
        self,
        keys: Sequence[bytes],
        compute: Compute,
        progress: ReportProgress = ignore_progress,
        stage: str = "",
    ) -> None:
        """Compute and store the vectors that are missing.

        Args:
            compute: indices into `keys` -> their vectors [n, width]. A row that is not finite
                stands for a sample that cannot be used; it is stored like the others.
            progress: is called with the number of keys that have a vector.
            stage: the activity that `progress` names.

        Raises:
            TrainError: the disk is full or cannot be written; vectors stored before remain.
        """
        missing = [index for index, key in enumerate(keys) if key not in self._rows]
        by_key = {keys[index]: index for index in reversed(missing)}  # one of equal samples
        indices = sorted(by_key.values())
        done = len(keys) - len(missing)
        progress(Progress(done, len(keys), stage=stage))
        for start in range(0, len(indices), BLOCK):
            chosen = indices[start : start + BLOCK]
            self._write([keys[index] for index in chosen], compute(chosen))
            done += len(chosen)
            progress(Progress(done, len(keys), stage=stage))

    def __getitem__(self, keys: Sequence[bytes]) -> Float32Array:
        """Return the vectors [n, width] of keys that are all stored."""
        rows = [self._arrays[array][row] for array, row in map(self._rows.__getitem__, keys)]
        return np.stack(rows).astype(np.float32)

    def _write(self, keys: list[bytes], vectors: Float32Array) -> None:
        stem = f"{len(self._arrays):06d}-{secrets.token_hex(4)}"  # ranks write at the same time
        table = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
        path = self.folder / f"{stem}.keys.npy"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _save(_vectors_of(path), vectors.astype(self.dtype))
            _save(path, table)
        except OSError as error:
            raise TrainError(
                self.folder,
                f"cannot be written ({error.strerror})",
                "make room and start again, stored vectors are kept",
            ) from None
        self._open(path)

    def _open(self, path: Path) -> None:
        for row, key in enumerate(np.load(path)):
            self._rows[key.tobytes()] = len(self._arrays), row
        self._arrays.append(np.load(_vectors_of(path), mmap_mode="r"))


def _vectors_of(path: Path) -> Path:
    """Return the file of vectors beside a file of keys."""
    return path.with_name(path.name.replace(".keys.", ".vectors."))


def _save(path: Path, array: NDArray[Any]) -> None:
    with atomic_write(path, "wb", sync=True) as file:
        np.save(file, array)


def sample_key(content: bytes | str) -> bytes:
    """Return the key of a picture (its stored bytes) or a text."""
    content = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(content, digest_size=KEY_BYTES).digest()


def open_cache(model: str, kind: str, dtype: type[np.floating[Any]] = np.float32) -> EmbedCache:
    """Open the vectors of a kind of a model, named by its fingerprint, in twotower's cache."""
    return EmbedCache(cache_folder() / "embeds" / f"{model}-{kind}", dtype)
