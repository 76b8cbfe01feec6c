"""Atomic writes of files and folders, and a lock for a single writer."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, overload

from twotower.errors import LibraryError, PathError

LOCK_FILE, HOLDER_FILE = "lock", "lock.holder"


def cache_folder() -> Path:
    """Return the folder of cached files: `TWOTOWER_CACHE`, by default `~/.cache/twotower`.

    Raises:
        PathError: the home folder is unknown, as for a user without an account.
    """
    folder = os.environ.get("TWOTOWER_CACHE", "~/.cache/twotower")
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        raise PathError(
            folder, "the home folder is unknown", "set TWOTOWER_CACHE to a folder for cached files"
        ) from None


def expand_home(path: str | Path) -> Path:
    """Return a path with a leading `~` or `~user` replaced by the home folder.

    Raises:
        PathError: the home folder is unknown.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise PathError(path, "the home folder is unknown", "give the path without ~") from None


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

    After an error, or on a full disk, `path` is unchanged. Text is UTF-8, and line ends are not
    translated; a link is followed. A device or a pipe, such as /dev/stdout, is written directly.

    Args:
        sync: flush the file and its folder to the disk before returning.

    Raises:
        OSError: the file cannot be written; `filename` is `path`.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with _open(path, mode, "w") as file:
            yield file
        return
    target = path.resolve()
    temporary = target.with_name(f".twotower-{secrets.token_hex(4)}")
    try:
        with _open(temporary, mode, "x") as file:
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


def _open(path: Path, mode: Literal["w", "wb"], creation: Literal["w", "x"]) -> IO[Any]:
    if mode == "wb":
        return path.open(f"{creation}b")
    return path.open(creation, encoding="utf-8", errors="surrogateescape", newline="")


@contextlib.contextmanager
def atomic_folder(
    path: Path, temporary: Path | None = None, *, replace: bool = True
) -> Iterator[Path]:
    """Make a temporary folder beside `path` that is renamed to it when the block ends.

    Its files are flushed to the disk before. An existing folder is replaced; after an error it is
    unchanged. A process that is killed can leave a temporary folder: see `remove_leftovers`.

    Args:
        temporary: the temporary folder, where several processes write to it; a new one by default.
        replace: if False, an existing folder is an error, unless it is empty.

    Raises:
        OSError: the folder cannot be written, or exists.
    """
    shared = temporary is not None
    temporary = temporary or path.with_name(f".writing-{path.name}-{secrets.token_hex(4)}")
    temporary.mkdir(parents=True, exist_ok=shared)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                sync_file(file)
            else:
                sync_folder(file)
        sync_folder(temporary)
        if replace:
            _replace_folder(temporary, path)
        else:
            temporary.rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(source: Path, target: Path) -> None:
    if not target.exists():
        source.rename(target)
        return
    old = target.with_name(f".old-{target.name}-{secrets.token_hex(4)}")
    target.rename(old)
    try:
        source.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary folders of killed calls of `atomic_folder(path)`.

    Only for a caller that keeps all others from writing `path`, as by `exclusive_lock`.
    """
    for prefix in (".writing", ".old"):
        for folder in path.parent.glob(f"{prefix}-{glob.escape(path.name)}-*"):
            shutil.rmtree(folder, ignore_errors=True)


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
def exclusive_lock(
    folder: Path,
    content: str = "library",
    elsewhere: str = "keep the library elsewhere with --library FOLDER",
) -> Iterator[None]:
    """Lock `folder` while the block runs, against other processes and threads.

    The operating system releases the lock when the process ends, even if it is killed. The file
    `lock` stays; `lock.holder` has the process id of the holder, for the error message.

    Args:
        content: of the folder, for the error message.
        elsewhere: what to do where nothing can be locked, for the error message.

    Raises:
        LibraryError: the lock is held already, or nothing can be written there.
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
            f"process {process or 'unknown'} is changing this {content}",
            "wait until it has finished, or stop it",
        ) from None
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise LibraryError(
            folder,
            f"cannot be changed ({getattr(error, 'strerror', None) or error})",
            elsewhere,
        ) from None
    try:
        with contextlib.suppress(OSError):  # only error messages need it
            holder.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink()
        lock.release()


def create_folder(location: Path) -> None:
    """Create the folder of a library, and the folders above it.

    Raises:
        LibraryError: it cannot be created.
    """
    try:
        location.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LibraryError(
            location,
            f"cannot be created ({error.strerror})",
            "keep the library elsewhere with --library FOLDER",
        ) from None
