"""Local copies of remote files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from twotower.errors import PairsError

Found = TypeVar("Found")
ATTEMPTS = 4  # of reaching a remote file, a second, two and four apart


def _list_remote(pattern: str) -> list[str]:
    import fsspec

    files, _, paths = fsspec.get_fs_token_paths(pattern)
    return sorted(files.unstrip_protocol(path) for path in paths)


def _local(location: str) -> Path:
    """The file itself, or a copy of a remote one (s3://, hf://, https://...) in fsspec's cache."""
    if "://" not in location:
        if not Path(location).is_file():
            raise PairsError(f"{location}: no such file")
        return Path(location)
    return _reach(location, _copy_of_remote)


def _copy_of_remote(location: str) -> Path:
    import fsspec

    cache = str(Path(os.environ.get("TWOTOWER_CACHE", "~/.cache/twotower")).expanduser() / "pairs")
    return Path(fsspec.open_local(f"filecache::{location}", filecache={"cache_storage": cache}))


def _reach(location: str, get: Callable[[str], Found]) -> Found:
    """What `get` finds at a URL, tried again while the network fails. Raises `PairsError`."""
    for attempt in range(ATTEMPTS):
        try:
            return get(location)
        except ImportError as error:
            raise PairsError(f"{location}: {error}") from None
        except Exception as error:  # each protocol has exceptions of its own
            if attempt == ATTEMPTS - 1 or isinstance(error, FileNotFoundError):
                raise PairsError(
                    f"{location}: cannot be reached ({type(error).__name__}: {error}); "
                    "check the address, the network and your credentials"
                ) from None
            time.sleep(2**attempt)
    raise AssertionError  # the loop returns or raises
