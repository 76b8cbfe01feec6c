"""The plan of a bulk embedding: its inputs, divided into shards, in a file that only grows.

`plan/plan.json` lists the inputs: tars, Parquet tables, files of texts, and listings. A listing is
a Parquet table `plan/pictures-N.parquet` of the pictures of a folder when it was read. So the
number and the items of a shard never change, whatever happens in the folders; new tars, tables and
pictures become inputs at the end.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import pyarrow
import pyarrow.parquet

from twotower.encode.bulk.columns import open_binary, open_table, source_column
from twotower.encode.bulk.settings import EmbedSettings
from twotower.errors import EmbedError, PairsError
from twotower.files import atomic_write
from twotower.inputs.pictures import PICTURE_SUFFIXES, find_pictures
from twotower.pairs.cluster import MapTasks, map_here
from twotower.pairs.remote import find_remote, is_remote, list_remote, remote_identity
from twotower.pairs.tars import TarPairs, find_tars
from twotower.progress import Progress, ReportProgress, ignore_progress

Kind: TypeAlias = Literal["tar", "table", "lines", "listing"]
PLAN_FOLDER = "plan"
_PLAN_FILE = "plan.json"
_LISTING_COLUMNS = ["key", "path"]
_LISTING_ROWS = 100_000  # in a row group


@dataclass(frozen=True)
class Input:
    """A file with items.

    Attributes:
        kind: "listing" for a table of the pictures of a folder.
        source: its location, or the folder of a listing, for the column `source`.
        location: a path or URL.
        identity: a text that changes with the file.
        rows: its items; None for a remote tar, which is copied only when it is embedded.
        starts: the first row of each shard; of texts, the offset of their first line in bytes.
        fault: what is wrong with a file that can be read in part, or "".
    """

    kind: Kind
    source: str
    location: str
    identity: str = ""
    rows: int | None = 0
    starts: tuple[int, ...] = ()
    fault: str = ""

    def __str__(self) -> str:
        return self.source


class Shard(NamedTuple):
    """Items that become a file of their own.

    Attributes:
        number: from 0.
        source: the input with its items.
        start: its first row, or offset in bytes.
        rows: its items; None for all of the input.
    """

    number: int
    source: Input
    start: int
    rows: int | None

    def __str__(self) -> str:
        return f"shard {self.number} of {self.source}"


class Plan:
    """The inputs of a folder of embeddings.

    Attributes:
        inputs: in the order of their shards.

    Raises:
        EmbedError: the file is damaged.
    """

    def __init__(self, folder: Path, rows_per_shard: int) -> None:
        self.folder = folder / PLAN_FOLDER
        self.rows_per_shard = rows_per_shard
        self._path = self.folder / _PLAN_FILE
        self.inputs = self._read()

    def _read(self) -> list[Input]:
        if not self._path.exists():
            return []
        try:
            return [self._parse(tree) for tree in _read_trees(self._path)]
        except (ValueError, TypeError, KeyError) as error:
            raise EmbedError(
                self._path, f"is damaged ({error})", "embed into another folder"
            ) from None

    def _parse(self, tree: dict[str, Any]) -> Input:
        item = Input(**{**tree, "starts": tuple(tree["starts"])})
        if item.kind == "listing":  # the folder may have been moved
            return replace(item, location=str(self.folder / Path(item.location).name))
        return item

    def shards(self) -> list[Shard]:
        """Return all shards."""
        shards: list[Shard] = []
        for source in self.inputs:
            for number, start in enumerate(source.starts):
                rows = source.rows
                if rows is not None:
                    rows = min(self.rows_per_shard, rows - number * self.rows_per_shard)
                shards.append(Shard(len(shards), source, start, rows))
        return shards

    def extend(
        self,
        sources: Sequence[str],
        settings: EmbedSettings,
        report: ReportProgress = ignore_progress,
        map_tasks: MapTasks = map_here,
    ) -> list[str]:
        """Add the inputs of sources that are not in the plan yet.

        Args:
            map_tasks: counts the items of inputs, such as `Cluster.map`.

        Returns:
            The inputs that cannot be read, with reasons; the next call tries them again.

        Raises:
            EmbedError: a source does not exist or holds nothing, or an input has changed.
            PairsError: a remote source cannot be listed.
        """
        earlier = {(item.kind, item.location): item for item in self.inputs}
        listed = (item for source in sources for item in self._find(source, settings.texts))
        missing: list[Input] = []
        for item in dict.fromkeys(listed):  # patterns can overlap
            if (item.kind, item.location) in earlier:
                _require_unchanged(earlier[item.kind, item.location])
            else:
                missing.append(item)
        counted: dict[Input, Input | str] = {}
        count = functools.partial(count_items, settings)
        for item, result in map_tasks(count, missing):
            counted[item] = result
            report(Progress(len(counted), len(missing), stage="Reading sources"))
        results = [counted[item] for item in missing]
        self.inputs += [result for result in results if isinstance(result, Input)]
        if missing:
            with atomic_write(self._path, sync=True) as file:
                json.dump([asdict(item) for item in self.inputs], file)
        faults = [result for result in results if isinstance(result, str)]
        return faults + [item.fault for item in self.inputs if item.fault]

    def _find(self, source: str, texts: bool) -> Iterator[Input]:
        """Yield the inputs of a source; a listing is written for those of its pictures."""
        tables = find_tables(source)
        if tables:
            yield from (Input("table", table, table) for table in tables)
        elif texts:
            _require_file(source)
            yield Input("lines", source, source)
        elif tars := [tar for tar in find_tars(source) if is_remote(tar) or Path(tar).is_file()]:
            yield from (Input("tar", tar, tar) for tar in tars)
        else:
            yield from self._list_pictures(source)

    def _list_pictures(self, source: str) -> Iterator[Input]:
        """Write a listing of the pictures of a source that no earlier one has."""
        pictures = _find_pictures(source)
        listings = [item for item in self.inputs if item.kind == "listing"]
        earlier: set[str] = set()
        for item in listings:
            if item.source == source:
                table = pyarrow.parquet.read_table(item.location, columns=["path"])
                earlier.update(map(os.fsdecode, table["path"].to_pylist()))
        paths = [path for path in pictures if path not in earlier]
        if not paths:
            return
        number = sum(1 for _ in self.folder.glob("pictures-*.parquet"))
        listing = self.folder / f"pictures-{number}.parquet"
        _write_listing(listing, source, paths)
        yield Input("listing", source, str(listing))


def is_plan_file(path: Path) -> bool:
    """Return True for a file that a `Plan` has written, by its name and its content."""
    try:
        if path.name == _PLAN_FILE:
            return all(Input(**tree) for tree in _read_trees(path))
        if re.fullmatch(r"pictures-\d+\.parquet", path.name):
            return bool(pyarrow.parquet.read_schema(path).names == _LISTING_COLUMNS)
    except (ValueError, TypeError, OSError, pyarrow.ArrowException):
        return False
    return False


def _read_trees(path: Path) -> list[dict[str, Any]]:
    """Return the inputs in the file of a plan. Raises `OSError`, `ValueError`, `TypeError`."""
    trees = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(trees, list):
        raise TypeError("no list of inputs")
    return trees


def find_tables(source: str) -> list[str]:
    """Return the Parquet files of a path, URL or pattern; of a folder, unless it has tars."""
    if source.endswith(".parquet"):
        if "*" not in source:
            _require_file(source)
            return [source]
        return _glob(source)
    if (
        source.endswith(".tar")
        or "*" in source
        or (not is_remote(source) and Path(source).is_file())
    ):
        return []
    return [] if find_tars(source) else _glob(f"{source.rstrip('/')}/*.parquet")


def _glob(pattern: str) -> list[str]:
    if is_remote(pattern):
        return list_remote(pattern)
    path = Path(pattern)
    return sorted(str(match) for match in path.parent.glob(path.name) if match.is_file())


def _require_file(source: str) -> None:
    if not is_remote(source) and not Path(source).is_file():
        raise EmbedError(source, "no such file", "check the path")


def _find_pictures(source: str) -> list[str]:
    """Return the pictures of a folder, or the picture itself. Raises `EmbedError`."""
    if is_remote(source):
        pictures = find_remote(source, PICTURE_SUFFIXES)
    else:
        path = Path(source)
        if not path.exists():
            raise EmbedError(source, "no such file or folder", "check the path")
        if path.is_file() and path.suffix.lower() not in PICTURE_SUFFIXES:
            raise EmbedError(
                source,
                "is no picture, tar or Parquet file",
                "add --texts to embed the lines of a text file",
            )
        pictures = [str(path) for path in find_pictures([source]) if path.is_file()]
    if not pictures:
        raise EmbedError(
            source, "holds no pictures, tars or Parquet files", "choose another folder"
        )
    return pictures


def _write_listing(path: Path, source: str, pictures: Sequence[str]) -> None:
    prefix = source.rstrip("/") + "/"
    names = [os.fsencode(picture.removeprefix(prefix)) for picture in pictures]
    keys = [name.decode("utf-8", "backslashreplace") for name in names]
    paths = [os.fsencode(picture) for picture in pictures]
    table = pyarrow.table([keys, paths], _LISTING_COLUMNS)
    with atomic_write(path, "wb", sync=True) as file:
        pyarrow.parquet.write_table(table, file, row_group_size=_LISTING_ROWS, compression="zstd")


def count_items(settings: EmbedSettings, item: Input) -> Input | str:
    """Return an input with its identity, items and shards, or the reason why it cannot be read.

    Raises:
        EmbedError: a table has no column to embed.
    """
    try:
        identity = _identify(item)
        size = settings.rows_per_shard
        if item.kind == "lines":
            rows, starts = count_lines(item.location, size)
            return replace(item, identity=identity, rows=rows, starts=tuple(starts))
        if item.kind == "tar" and is_remote(item.location):
            return replace(item, identity=identity, rows=None, starts=(0,))
        counted, fault = _count_rows(item, settings)
        starts = [size * number for number in range(math.ceil(counted / size))]
        return replace(item, identity=identity, rows=counted, starts=tuple(starts), fault=fault)
    except (PairsError, pyarrow.ArrowException, OSError) as error:
        return reason_of(item.location, error)


def _count_rows(item: Input, settings: EmbedSettings) -> tuple[int, str]:
    """Return the rows of a table or a local tar, and what is wrong with it, or ""."""
    if item.kind == "tar":
        tar = TarPairs([item.location])
        return len(tar), "; ".join(tar.faults)
    with open_table(item.location) as table:
        if item.kind == "table":
            source_column(table.schema_arrow, item.location, settings)
        return table.metadata.num_rows, ""


def count_lines(location: str, size: int) -> tuple[int, list[int]]:
    """Return the number of lines of a file, and the offsets of each `size`-th line in bytes."""
    rows, offset, starts = 0, 0, []
    with open_binary(location) as file:
        for line in file:
            if rows % size == 0:
                starts.append(offset)
            rows += 1
            offset += len(line)
    return rows, starts


def _identify(item: Input) -> str:
    if is_remote(item.location):
        return remote_identity(item.location)
    facts = Path(item.location).stat()
    return f"{facts.st_size}:{facts.st_mtime_ns}"


def _require_unchanged(item: Input) -> None:
    if _identify(item) != item.identity:
        raise EmbedError(
            item.location, "has changed since this embedding began", "embed it into another folder"
        )


def reason_of(location: str, error: Exception) -> str:
    """Return why an input cannot be read, in a line."""
    if isinstance(error, PairsError):
        return str(error)
    return f"{location}: cannot be read ({' '.join(str(error).split())}); copy it again"
