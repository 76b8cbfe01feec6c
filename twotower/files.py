"""Files that are written whole or not at all, and the lock of a single writer."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, overload

from twotower.errors import LibraryError

LOCK_FILE, HOLDER_FILE = "lock", "lock.holder"


@overload
def atomic_write(
    path: Path, mode: Literal["w"] = "w", *, sync: bool = False
) -> contextlib.AbstractContextManager[IO[str]]: ...
@overload
def atomic_write(
    path: Path, mode: Literal["wb"], *, sync: bool = False
) -> contextlib.AbstractContextManager[IO[bytes]]: ...
@contextlib.contextmanager
def atomic_write(
    path: Path, mode: Literal["w", "wb"] = "w", *, sync: bool = False
) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that replaces it when the block ends without an error.

    After an error, or on a full disk, `path` is what it was before. Text is UTF-8 with the line
    ends as they are written; a link is followed.

    Args:
        sync: flush the file and its folder to the disk before returning.

    Raises:
        OSError: the file cannot be written; `filename` is `path`.
    """
    target = path.resolve()
    temporary = target.with_name(f".twotower-{secrets.token_hex(4)}")
    try:
        with _create(temporary, mode) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(target)
        if sync:
            sync_folder(target.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _create(path: Path, mode: Literal["w", "wb"]) -> IO[Any]:
    if mode == "wb":
        return path.open("xb")
    return path.open("x", encoding="utf-8", errors="surrogateescape", newline="")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Make a temporary folder beside `path` that is renamed to it when the block ends.

    Files in it are flushed to the disk before. A folder that is there already is replaced; after an
    error it is what it was before.
    """
    temporary = path.with_name(f".writing-{path.name}-{secrets.token_hex(4)}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in filter(Path.is_file, temporary.rglob("*")):
            sync_file(file)
        if path.exists():
            old = path.with_name(f".old-{path.name}-{secrets.token_hex(4)}")
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_file(path: Path) -> None:
    """Flush a file's contents to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can do that."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for changing it; one process at a time can.

    The operating system releases the lock with the process, however that ends, so none is ever
    stale. A second file names the holder, for the error message of the others.

    Raises:
        LibraryError: another process holds it, or nothing can be written there.
    """
    from filelock import FileLock, Timeout

    holder = folder / HOLDER_FILE
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        process = ""
        with contextlib.suppress(OSError):
            process = holder.read_text(encoding="utf-8", errors="replace").strip()
        raise LibraryError(
            folder,
            f"process {process or 'unknown'} is changing this library",
            "wait until it has finished, or stop it",
        ) from None
    except OSError as error:
        raise LibraryError(
            folder,
            f"cannot be changed ({error.strerror})",
            "keep the library elsewhere with --library FOLDER",
        ) from None
    try:
        with contextlib.suppress(OSError):  # only the message of others needs it
            holder.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def create_folder(location: Path) -> None:
    """Make the folder of a library. Raises `LibraryError` where that cannot be."""
    try:
        location.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LibraryError(
            f"{location}: cannot be made ({error.strerror}); "
            "keep the library elsewhere with: --library FOLDER"
        ) from None
