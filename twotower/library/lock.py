"""One process at a time changes a library."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from twotower.library.catalog import LibraryError

LOCK_FILE = "lock"


@contextmanager
def sole_writer(location: Path) -> Iterator[None]:
    """Hold the library at `location` for changing it.

    The operating system lets go of the lock with the process, however that ends: there is no stale
    one. The file's text only says whose it is.

    Raises:
        LibraryError: another process holds it, or nothing can be written there.
    """
    path = location / LOCK_FILE
    with _open(path) as file:
        try:
            _lock(file.fileno())
        except OSError:
            file.seek(0)
            holder = file.read(20).decode(errors="replace").strip()
            raise LibraryError(
                f"{location}: process {holder or 'unknown'} is changing this library; "
                "wait until it has finished, or stop it"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n".encode())
        yield


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("a+b", buffering=0)
    except OSError as error:
        raise LibraryError(
            f"{path.parent}: cannot be changed ({error.strerror}); index into another place with: "
            "twotower index PICTURES --library FOLDER"
        ) from None


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        os.lseek(file, 2**30, os.SEEK_SET)  # beyond the text, which others are to read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
