"""The items of a shard: pictures, to be read in threads, and texts."""

from __future__ import annotations

import functools
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from twotower.encode.bulk.columns import KEY_COLUMNS, open_binary, open_table, source_column
from twotower.encode.bulk.network import WINDOW, Network
from twotower.encode.bulk.plan import Shard
from twotower.encode.bulk.settings import EmbedSettings
from twotower.errors import PairsError, PictureError
from twotower.pairs.pair import decode, read_picture
from twotower.pairs.remote import copy_remote, is_remote
from twotower.pairs.tars import TarPairs

_ROWS = 64  # of a table in memory


class Encoded(NamedTuple):
    """The encoded file of a picture, and the SHA-256 of its original if that is another one."""

    content: bytes
    sha256: str = ""


ReadPicture: TypeAlias = Callable[[], Encoded]
"""Reads a picture, in a thread. Raises `PictureError` or `PairsError`."""


class Item(NamedTuple):
    """A picture of a shard: its name in its input, and the function that reads it."""

    key: str
    read: ReadPicture


class TextItem(NamedTuple):
    """A text of a shard: its name in its input, and the text, or None if it is missing."""

    key: str
    text: str | None


def read_pictures(shard: Shard, settings: EmbedSettings, network: Network) -> Iterator[Item]:
    """Yield the pictures of a shard.

    Raises:
        PairsError, OSError, ArrowException: the input cannot be read.
    """
    if shard.source.kind == "tar":
        return _tar_pictures(shard)
    if shard.source.kind == "listing":
        return _listed_pictures(shard, network)
    return _table_pictures(shard, settings, network)


def read_texts(shard: Shard, settings: EmbedSettings) -> Iterator[TextItem]:
    """Yield the texts of a shard. Raises as `read_pictures`."""
    if shard.source.kind == "lines":
        yield from _lines(shard, settings)
        return
    with open_table(shard.source.location) as table:
        column = source_column(table.schema_arrow, shard.source.location, settings)
        for number, row in _rows(table, shard, column):
            text = row[column]
            yield TextItem(_key(row, str(number)), text if text and text.strip() else None)


def _lines(shard: Shard, settings: EmbedSettings) -> Iterator[TextItem]:
    number_before = shard.source.starts.index(shard.start) * settings.rows_per_shard
    with open_binary(shard.source.location) as file:
        file.seek(shard.start)
        for number, line in enumerate(islice(file, shard.rows), number_before + 1):
            text = decode(line).strip()
            yield TextItem(str(number), text or None)


class _Tar(TarPairs):
    """A tar that is closed, and removed if it is a copy, when nothing refers to it any more."""

    def __init__(self, location: str) -> None:
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        if is_remote(location):
            self._copy = tempfile.TemporaryDirectory(prefix="twotower-")
            path = Path(self._copy.name) / "shard.tar"
            copy_remote(location, path)
            location = str(path)
        super().__init__([location])

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):  # it could not be opened
            self.close()

    def read(self, number: int) -> Encoded:
        return Encoded(self.picture(number))


@functools.lru_cache(maxsize=1)
def _open_tar(location: str, identity: str) -> _Tar:
    """Open a tar once for the shards that follow each other."""
    return _Tar(location)


def _tar_pictures(shard: Shard) -> Iterator[Item]:
    tar = _open_tar(shard.source.location, shard.source.identity)
    rows = len(tar) if shard.rows is None else shard.rows
    for number in range(shard.start, shard.start + rows):
        yield Item(tar.key(number), functools.partial(tar.read, number))
    if shard.rows is None and tar.faults:  # possibly only the copy is cut short
        reason = "is cut short"
        raise PairsError(shard.source.location, reason, "run again, or pack it again")


def _listed_pictures(shard: Shard, network: Network) -> Iterator[Item]:
    with open_table(shard.source.location) as table:
        rows = ((row["key"], os.fsdecode(row["path"])) for _, row in _rows(table, shard, "path"))
        yield from _located(rows, network)


def _table_pictures(shard: Shard, settings: EmbedSettings, network: Network) -> Iterator[Item]:
    location = shard.source.location
    folder = location.rpartition("/")[0] or "."
    with open_table(location) as table:
        column = source_column(table.schema_arrow, location, settings)
        yield from _located(
            (_locate(row, number, column, folder) for number, row in _rows(table, shard, column)),
            network,
        )


def _locate(
    row: dict[str, Any], number: int, column: str, folder: str
) -> tuple[str, str | bytes | None]:
    """Return the key of a row, and its picture: bytes, a path or URL, or None."""
    value = row[column]
    path = None
    if isinstance(value, dict):  # of the library `datasets`
        path, value = value.get("path"), value.get("bytes")
        value = path if value is None else value
    if isinstance(value, str):
        path = value
        if value and not is_remote(value) and not value.startswith(("/", "data:")):
            value = f"{folder}/{value}"
    return _key(row, path or str(number)), value


def _located(rows: Iterator[tuple[str, str | bytes | None]], network: Network) -> Iterator[Item]:
    """Yield items; those on the network are requested some time before they are needed."""
    waiting: deque[Item] = deque()
    for key, value in rows:
        if isinstance(value, str) and (is_remote(value) or value.startswith("data:")):
            future = network.request(value)
            waiting.append(Item(key, functools.partial(_received, future)))
        else:
            waiting.append(Item(key, functools.partial(_read_local, key, value)))
        if len(waiting) > (WINDOW if network.is_used else 0):
            yield waiting.popleft()
    yield from waiting


def _received(future: Any) -> Encoded:
    return Encoded(*future.result())


def _read_local(key: str, value: str | bytes | None) -> Encoded:
    if value == "":
        raise PictureError(key, "is empty", "write a path, or leave the row out")
    if not value:
        raise PictureError(key, "has no picture", "add one, or leave the row out")
    try:
        return Encoded(value if isinstance(value, bytes) else read_picture(Path(value)))
    except ValueError as error:  # such as a NUL character
        raise PictureError(key, f"is no path ({error})", "correct it") from None


def _rows(table: Any, shard: Shard, column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a shard with their numbers, with its column and one of keys."""
    names = table.schema_arrow.names
    columns = [column, *[name for name in KEY_COLUMNS if name in names and name != column][:1]]
    end = shard.start + (shard.rows or 0)
    groups: list[int] = []
    number = position = 0  # of the first row of these groups, and of the next group
    for group in range(table.num_row_groups):
        following = position + table.metadata.row_group(group).num_rows
        if following <= shard.start:
            number = following
        elif position < end:
            groups.append(group)
        position = following
    for batch in table.iter_batches(_ROWS, row_groups=groups, columns=columns):
        for row in batch.to_pylist():
            if number >= end:
                return
            if number >= shard.start:
                yield number, row
            number += 1


def _key(row: dict[str, Any], default: str) -> str:
    """Return the cell of the column of keys, if there is one."""
    for name in KEY_COLUMNS:
        if row.get(name) is not None:
            return str(row[name])
    return default
