"""Image-text pairs, by number: tar shards, tables and folders with captions beside the pictures.

A source is a sequence: `len(source)`, `source[i]` -> `Pair`. Random access is what makes the order
of a training a pure function of its step (docs/training.md). The index of a tar is made once and
holds numpy arrays alone, so that worker processes share its memory.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from twotower.inputs.pictures import find_pictures

PICTURES = ("jpg", "jpeg", "png", "webp", "avif", "gif", "bmp", "tif", "tiff")
PICTURE_COLUMNS = ("filepath", "path", "image", "file", "filename", "image_path")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")
Found = TypeVar("Found")
ATTEMPTS = 4  # of reaching a remote file, a second, two and four apart


class PairsError(ValueError):
    """Pairs that cannot be found or read at all; one line, with what to do."""


class BrokenPairError(ValueError):
    """One pair that cannot be used. It is counted and named, and the others go on."""


@dataclass(frozen=True)
class Pair:
    """A picture as it is stored, and everything that is said of it."""

    key: str
    picture: bytes
    captions: tuple[str, ...]


class Source(Protocol):
    """Pairs by number."""

    name: str

    def __len__(self) -> int:
        """How many there are, broken ones among them."""

    def __getitem__(self, number: int) -> Pair:
        """Read one. Raises `BrokenPairError`."""

    def key(self, number: int) -> str:
        """The name of one, without reading it."""


def open_source(location: str | Path) -> Source:
    """The pairs at a path or URL.

    Args:
        location: a tar; several as a pattern (`data-*.tar`, `s3://bucket/{000..031}.tar`); a folder
            of tars; a table (`.csv`, `.tsv`, `.parquet`); or a folder of pictures with captions
            beside them (`x.jpg` and `x.txt` or `x.json`), or in folders called what they show.

    Raises:
        PairsError: nothing is there, or it is of none of these kinds.
    """
    text = str(location)
    if text.endswith((".csv", ".tsv", ".parquet")):
        return TablePairs(_local(text))
    tars = find_tars(text)
    if tars:
        return TarPairs(tars)
    if Path(text).is_dir():
        return FolderPairs(Path(text))
    raise PairsError(
        f"{text}: no such pairs; give a tar, a pattern of tars, a .csv, .tsv or .parquet table, "
        "or a folder of pictures with captions beside them"
    )


# --- tar shards ----------------------------------------------------------------------------------


class TarPairs:
    """webdataset tars: members `KEY.jpg`, `KEY.txt`, `KEY.json` of a sample follow one another.

    Captions are `captions` of the json if it has such a list, else the txt, else `caption` of the
    json. A shard that was cut short gives the samples before the cut.
    """

    def __init__(self, tars: Sequence[str]) -> None:
        self.name = tars[0] if len(tars) == 1 else f"{tars[0]} and {len(tars) - 1} more"
        self.paths = [_local(tar) for tar in tars]
        self.faults: list[str] = []  # shards that were cut short, and where
        indexes = [self._index(path) for path in self.paths]
        self._keys = np.concatenate([keys for keys, _ in indexes])
        self._members = np.concatenate([members for _, members in indexes])  # [n, 3, 2]
        self.shard_sizes = [len(keys) for keys, _ in indexes]
        self._starts = np.cumsum([0, *self.shard_sizes])
        self._open: dict[tuple[int, int], int] = {}  # (process, shard) -> file descriptor
        if not len(self._keys):
            raise PairsError(f"{self.name}: holds no pairs; members must be KEY.jpg and KEY.txt")

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, number: int) -> str:
        """The common name of the sample's members."""
        return bytes(self._keys[number]).decode("utf-8", "replace")

    def __getitem__(self, number: int) -> Pair:
        """Read one. Raises `BrokenPairError`."""
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        key = self.key(number)
        picture, text, tree = (self._read(shard, *one) for one in self._members[number].tolist())
        if picture is None:
            raise BrokenPairError(f"{self.paths[shard]}: {key} has no picture")
        return Pair(key, picture, _captions(f"{self.paths[shard]}: {key}", text, tree))

    def _read(self, shard: int, offset: int, size: int) -> bytes | None:
        if size < 0:
            return None
        place = os.getpid(), shard  # a descriptor is not shared with a forked worker
        if place not in self._open:
            self._open[place] = os.open(self.paths[shard], os.O_RDONLY)
        return os.pread(self._open[place], size, offset)

    def _index(self, path: Path) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
        """Keys [n] and, for picture, txt and json of each, (offset, size) or (0, -1)."""
        keys: list[bytes] = []
        members: list[list[tuple[int, int]]] = []
        try:
            for key, extension, offset, size in tar_members(path):
                if not keys or keys[-1] != key:
                    keys.append(key)
                    members.append([(0, -1)] * 3)
                kinds = (extension in PICTURES, extension == "txt", extension == "json")
                if any(kinds):
                    members[-1][kinds.index(True)] = (offset, size)
        except (tarfile.TarError, EOFError) as error:
            if not keys:
                raise PairsError(
                    f"{path}: not a tar ({error}); pack or download it again"
                ) from None
            self.faults.append(f"{path}: cut short after {keys[-1].decode(errors='replace')}")
            del keys[-1], members[-1]
        return np.array(keys, np.bytes_), np.array(members, np.int64).reshape(-1, 3, 2)


def tar_members(path: Path) -> Iterator[tuple[bytes, str, int, int]]:
    """(key, extension, offset of the content, its size) of every file of a tar."""
    size = path.stat().st_size
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if not member.isfile():
                continue
            folder, _, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            yield key.encode(), extension.lower(), member.offset_data, member.size
            if member.offset_data + member.size > size:
                raise tarfile.ReadError("unexpected end of data")


def find_tars(text: str) -> list[str]:
    """The tars that a path or URL stands for: itself, those of a pattern, those in a folder."""
    names = list(_expand_braces(text))
    if any("*" in name for name in names) or (len(names) == 1 and not text.endswith(".tar")):
        pattern = text if "*" in text else f"{text.rstrip('/')}/*.tar"
        if "://" not in pattern:
            folder = Path(pattern).parent
            return sorted(map(str, folder.glob(Path(pattern).name))) if folder.is_dir() else []
        return _reach(pattern, _list_remote)
    return names


def _list_remote(pattern: str) -> list[str]:
    import fsspec

    files, _, paths = fsspec.get_fs_token_paths(pattern)
    return sorted(files.unstrip_protocol(path) for path in paths)


def _expand_braces(text: str) -> Iterator[str]:
    """`a-{08..10}.tar` -> a-08.tar, a-09.tar, a-10.tar."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if not found:
        yield text
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expand_braces(text.replace(found.group(), str(number).zfill(len(first)), 1))


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


# --- tables and folders --------------------------------------------------------------------------


class TablePairs:
    """Rows of a CSV, TSV or Parquet file: a column of picture paths, one or more of captions.

    Paths are relative to the table. Several captions of a picture are several rows, or a list.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.folder = path.parent
        rows = read_table(path)
        columns = list(rows[0]) if rows else []
        self._picture = _choose(columns, PICTURE_COLUMNS, path, "pictures")
        self._caption = _choose(columns, CAPTION_COLUMNS, path, "captions")
        grouped: dict[str, list[str]] = {}
        for row in rows:
            said = row[self._caption]
            grouped.setdefault(str(row[self._picture]), []).extend(
                map(str, said) if isinstance(said, list) else [str(said or "")]
            )
        self._rows = list(grouped.items())

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, number: int) -> str:
        """The picture's path as the table has it."""
        return self._rows[number][0]

    def __getitem__(self, number: int) -> Pair:
        """Read one. Raises `BrokenPairError`."""
        name, captions = self._rows[number]
        kept = tuple(caption.strip() for caption in captions if caption.strip())
        if not kept:
            raise BrokenPairError(f"{self.name}: {name} has no caption")
        return Pair(name, _read_file(self.folder / name), kept)


class FolderPairs:
    """Pictures with `NAME.txt` (a caption on each line) or `NAME.json` beside them.

    Where no picture has either and all lie in folders of their own, a folder's name is the caption.
    """

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self.folder = folder
        self._pictures = [one for one in find_pictures([folder]) if one != folder]
        if not self._pictures:
            raise PairsError(f"{folder}: holds no pictures")
        self._named_by_folder = not any(
            one.with_suffix(s).exists() for one in self._pictures for s in (".txt", ".json")
        )
        if self._named_by_folder and any(one.parent == folder for one in self._pictures):
            raise PairsError(
                f"{folder}: no picture has a caption beside it; write x.txt or x.json for x.jpg, "
                "or put the pictures into folders that are called what they show"
            )

    def __len__(self) -> int:
        return len(self._pictures)

    def key(self, number: int) -> str:
        """The picture's path inside the folder."""
        return str(self._pictures[number].relative_to(self.folder))

    def __getitem__(self, number: int) -> Pair:
        """Read one. Raises `BrokenPairError`."""
        picture = self._pictures[number]
        if self._named_by_folder:
            name = re.sub(r"[\s_-]+", " ", picture.parent.name).strip()
            return Pair(self.key(number), _read_file(picture), (name,))
        text, tree = (
            _read_file(beside) if (beside := picture.with_suffix(suffix)).exists() else None
            for suffix in (".txt", ".json")
        )
        return Pair(self.key(number), _read_file(picture), _captions(str(picture), text, tree))


class PartOfPairs:
    """Some pairs of a source; with `templates`, each caption is put into all of these sentences."""

    def __init__(
        self, source: Source, numbers: Sequence[int], templates: Sequence[str] = ("{}",)
    ) -> None:
        self.name, self.source = source.name, source
        self.numbers, self.templates = list(numbers), tuple(templates)

    def __len__(self) -> int:
        return len(self.numbers)

    def key(self, number: int) -> str:
        """The name that the pair has in its source."""
        return self.source.key(self.numbers[number])

    def __getitem__(self, number: int) -> Pair:
        """Read one. Raises `BrokenPairError`."""
        pair = self.source[self.numbers[number]]
        captions = (t.replace("{}", one) for one in pair.captions for t in self.templates)
        return Pair(pair.key, pair.picture, tuple(captions))


def _captions(what: str, text: bytes | None, tree: bytes | None) -> tuple[str, ...]:
    """What is said of a picture, in UTF-8 or else in Windows' Latin letters.

    Raises:
        BrokenPairError: nothing, or a json that is none.
    """
    about: Mapping[str, Any] = {}
    if tree is not None:
        try:
            about = json.loads(tree)
        except ValueError:
            raise BrokenPairError(f"{what}: its json cannot be read") from None
    said = about.get("captions") if isinstance(about, Mapping) else None
    if not isinstance(said, list):
        said = _decode(text).splitlines() if text is not None else [about.get("caption") or ""]
    captions = tuple(str(one).strip() for one in said if str(one).strip())
    if not captions:
        raise BrokenPairError(f"{what}: has no caption")
    return captions


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        return text.decode("cp1252", "replace")


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokenPairError(f"{path}: {error.strerror}") from None


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV, TSV or Parquet file."""
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError:
            raise PairsError(f"{path}: reading Parquet needs pip install pyarrow") from None
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
        return rows
    text = io.StringIO(_decode(path.read_bytes()), newline="")
    return list(csv.DictReader(text, delimiter="\t" if path.suffix == ".tsv" else ","))


def _choose(columns: Sequence[str], known: Sequence[str], path: Path, what: str) -> str:
    for name in known:
        if name in columns:
            return name
    raise PairsError(
        f"{path}: no column of {what}; call it one of {', '.join(known)} "
        f"(there are: {', '.join(columns) or 'none'})"
    )
