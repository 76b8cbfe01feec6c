"""Files at URLs (s3://, hf://, https://, ...), listed, read and copied by fsspec, with retries."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

from twotower.errors import PairsError
from twotower.files import cache_folder

Result = TypeVar("Result")
ATTEMPTS = 4  # with waits of 1, 2 and 4 seconds between them


def list_remote(pattern: str) -> list[str]:
    """Return the URLs that match a pattern. Raises `PairsError`."""
    return _with_retries(_list_files, pattern)


def is_remote(location: str) -> bool:
    """Return True for a URL."""
    return "://" in location


def find_remote(folder: str, suffixes: frozenset[str]) -> list[str]:
    """Return the URLs of the files below a folder, sorted, by their suffix in lower case.

    Hidden files are left out. Raises `PairsError`.
    """
    files = _with_retries(_find_files, folder)
    names = ((PurePosixPath(file), file) for file in files)
    return [
        file
        for path, file in names
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    ]


def read_remote(location: str) -> bytes:
    """Return the content of a file. Raises `PairsError`."""
    return _with_retries(_read_file, location)


def copy_remote(location: str, destination: Path) -> None:
    """Copy a file to a path. Raises `PairsError`."""
    _with_retries(lambda source: _get_file(source, destination), location)


def open_remote(location: str) -> IO[bytes]:
    """Open a file for reading at any position. Raises `PairsError`."""
    return _with_retries(_open_file, location)


def remote_identity(location: str) -> str:
    """Return a text that changes with a file, as far as its file system tells."""
    return _with_retries(_identify_file, location)


def local_copy(location: str) -> Path:
    """Return the file at a path, or a copy of a remote one in fsspec's cache.

    Raises:
        PairsError: the file does not exist or cannot be fetched.
    """
    if is_remote(location):
        return _with_retries(_copy_file, location)
    if not Path(location).is_file():
        raise PairsError(location, "no such file", "check the path")
    return Path(location)


def _list_files(pattern: str) -> list[str]:
    import fsspec

    files, _, paths = fsspec.get_fs_token_paths(pattern)
    return sorted(files.unstrip_protocol(path) for path in paths)


def _find_files(folder: str) -> list[str]:
    import fsspec

    files, path = fsspec.core.url_to_fs(folder)
    root, start = folder.rstrip("/"), path.rstrip("/")
    return sorted(root + name.removeprefix(start) for name in files.find(path))


def _read_file(location: str) -> bytes:
    import fsspec

    files, path = fsspec.core.url_to_fs(location)
    return files.cat_file(path)


def _get_file(location: str, destination: Path) -> None:
    import fsspec

    files, path = fsspec.core.url_to_fs(location)
    files.get_file(path, str(destination))


def _open_file(location: str) -> IO[bytes]:
    import fsspec

    files, path = fsspec.core.url_to_fs(location)
    return files.open(path, "rb")


def _identify_file(location: str) -> str:
    import fsspec

    files, path = fsspec.core.url_to_fs(location)
    return str(files.ukey(path))


def _copy_file(location: str) -> Path:
    import fsspec

    cache = str(cache_folder() / "pairs")
    return Path(fsspec.open_local(f"filecache::{location}", filecache={"cache_storage": cache}))


def _with_retries(request: Callable[[str], Result], location: str) -> Result:
    """Return `request(location)`, repeated while the network fails."""
    for attempt in range(ATTEMPTS):
        try:
            return request(location)
        except ImportError as error:
            raise PairsError(location, str(error), "install the package that it names") from None
        except Exception as error:  # each protocol has exceptions of its own
            if attempt == ATTEMPTS - 1 or isinstance(error, FileNotFoundError):
                raise PairsError(
                    location,
                    f"cannot be reached ({type(error).__name__}: {error})",
                    "check the address, the network and your credentials",
                ) from None
            time.sleep(2**attempt)
    raise AssertionError  # the loop returns or raises
