"""Find and create the folder of a library."""

from __future__ import annotations

from pathlib import Path

CATALOG_FILE = "catalog.sqlite"


def find_library(start: Path) -> Path | None:
    """The library folder of `start` or of the nearest folder above it, as git looks for its own."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / LIBRARY_FOLDER / CATALOG_FILE).is_file():
            return folder / LIBRARY_FOLDER
    return None


LIBRARY_FOLDER = ".twotower"
