"""Files at URLs (s3://, hf://, https://, ...), listed and copied by fsspec, with retries."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from twotower.errors import PairsError
from twotower.files import cache_folder

Result = TypeVar("Result")
ATTEMPTS = 4  # with waits of 1, 2 and 4 seconds between them


def list_remote(pattern: str) -> list[str]:
    """Return the URLs that match a pattern. Raises `PairsError`."""
    return _with_retries(_list_files, pattern)


def local_copy(location: str) -> Path:
    """Return the file at a path, or a copy of a remote one in fsspec's cache.

    Raises:
        PairsError: the file does not exist or cannot be fetched.
    """
    if "://" in location:
        return _with_retries(_copy_file, location)
    if not Path(location).is_file():
        raise PairsError(location, "no such file", "check the path")
    return Path(location)


def _list_files(pattern: str) -> list[str]:
    import fsspec

    files, _, paths = fsspec.get_fs_token_paths(pattern)
    return sorted(files.unstrip_protocol(path) for path in paths)


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
