"""Vectors of a model that stays as it is, computed once: a folder of plain .npy files.

    CACHE/embeds/MODEL-WHAT/
        000000-a1b2c3d4.vectors.npy    [n, width]
        000000-a1b2c3d4.keys.npy       uint8 [n, 16], the hash of each picture or text

A vector is found by the model (weights, preprocessing and tokenizer) and by the content of the
sample, so that another place or name of a picture changes nothing. A part gets its names only when
it is complete, the keys last: a run that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.errors import TrainError

KEY_BYTES = 16
PART = 512  # samples that are computed before a part is written

Compute = Callable[[list[int]], NDArray[np.float32]]


class EmbedCache:
    """The vectors of one model for one kind of sample, by key."""

    def __init__(self, folder: Path, dtype: type[np.floating[Any]] = np.float32) -> None:
        self.folder, self.dtype = folder, dtype
        self._rows: dict[bytes, tuple[int, int]] = {}  # key -> (part, row in it)
        self._parts: list[NDArray[Any]] = []
        for path in sorted(folder.glob("*.keys.npy")):
            self._open(path)

    def __len__(self) -> int:
        return len(self._rows)

    def fill(
        self,
        keys: Sequence[bytes],
        compute: Compute,
        advance: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Have a vector for every key.

        Args:
            compute: indexes into `keys` -> their vectors [n, width]. A row that is not finite
                stands for a sample that cannot be used; it is not asked for again.
            advance: is told how many keys are done, as they are.

        Raises:
            TrainError: the disk is full or cannot be written; what was there stays.
        """
        missing = [i for i, key in enumerate(keys) if key not in self._rows]
        first = {keys[i]: i for i in reversed(missing)}  # equal samples are computed once
        wanted = sorted(first.values())
        advance(len(keys) - len(missing))
        for start in range(0, len(wanted), PART):
            chosen = wanted[start : start + PART]
            self._write([keys[i] for i in chosen], compute(chosen))
            advance(len(chosen))

    def __getitem__(self, keys: Sequence[bytes]) -> NDArray[np.float32]:
        """The vectors [n, width] of keys that are all there."""
        places = [self._rows[key] for key in keys]
        return np.stack([self._parts[part][row] for part, row in places]).astype(np.float32)

    def _write(self, keys: list[bytes], vectors: NDArray[np.float32]) -> None:
        name = f"{len(self._parts):06d}-{secrets.token_hex(4)}"  # ranks write side by side
        table = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
        path = self.folder / f"{name}.keys.npy"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _save(self.folder / f"{name}.vectors.npy", vectors.astype(self.dtype))
            _save(path, table)
        except OSError as error:
            raise TrainError(
                f"{self.folder}: cannot be written ({error.strerror}); make room and start again, "
                "what is there is kept"
            ) from None
        self._open(path)

    def _open(self, path: Path) -> None:
        vectors = path.with_name(path.name.replace(".keys.", ".vectors."))
        for row, key in enumerate(np.load(path)):
            self._rows[key.tobytes()] = len(self._parts), row
        self._parts.append(np.load(vectors, mmap_mode="r"))


def _save(path: Path, array: NDArray[Any]) -> None:
    """Write under another name, flush, rename."""
    writing = path.with_name(f".writing-{path.name}")
    try:
        with writing.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
        writing.replace(path)
    except OSError:
        writing.unlink(missing_ok=True)
        raise


def sample_key(content: bytes | str) -> bytes:
    """What stands for a picture (its stored bytes) or a text."""
    content = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(content, digest_size=KEY_BYTES).digest()


def cache_of(model: str, what: str, dtype: type[np.floating[Any]] = np.float32) -> EmbedCache:
    """The vectors of a model (`fingerprint`) for `what`, in twotower's cache."""
    cache = Path(os.environ.get("TWOTOWER_CACHE", "~/.cache/twotower")).expanduser()
    return EmbedCache(cache / "embeds" / f"{model}-{what}", dtype)
