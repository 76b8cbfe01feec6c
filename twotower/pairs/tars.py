"""Pairs in tar files."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower.errors import BrokenPairError, PairsError
from twotower.pairs.pair import Pair, _captions
from twotower.pairs.remote import _list_remote, _local, _reach

PICTURES = ("jpg", "jpeg", "png", "webp", "avif", "gif", "bmp", "tif", "tiff")


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


def _expand_braces(text: str) -> Iterator[str]:
    """`a-{08..10}.tar` -> a-08.tar, a-09.tar, a-10.tar."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if not found:
        yield text
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expand_braces(text.replace(found.group(), str(number).zfill(len(first)), 1))
