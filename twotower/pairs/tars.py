"""Pairs in tar shards, laid out as webdataset and img2dataset do."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Int64Array
from twotower.errors import BrokenPairError, PairsError
from twotower.pairs.pair import Pair, parse_captions
from twotower.pairs.remote import list_remote, local_copy

PICTURE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "avif", "gif", "bmp", "tif", "tiff")
ABSENT = (0, -1)  # the (offset, size) of a member that a sample does not have


class TarMember(NamedTuple):
    """A file of a tar.

    Attributes:
        key: its folder, and its name up to the first dot; equal for all files of a sample.
        extension: its name after the first dot, in lower case.
        offset: of its content in the tar, in bytes.
        size: of its content, in bytes.
    """

    key: bytes
    extension: str
    offset: int
    size: int


class TarPairs:
    """webdataset tars: `KEY.jpg`, `KEY.txt` and `KEY.json` of a sample are adjacent members.

    Captions are `captions` of the JSON if it has such a list, else the text, else `caption` of the
    JSON. A truncated shard gives the samples before its end.

    Attributes:
        faults: the truncated shards, each with the key of its last sample.
        shard_sizes: the number of samples in each shard.
    """

    def __init__(self, tars: Sequence[str]) -> None:
        self.name = tars[0] if len(tars) == 1 else f"{tars[0]} and {len(tars) - 1} more"
        self.paths = [local_copy(tar) for tar in tars]
        self.faults: list[str] = []
        self._dotted: dict[str, list[str]] = {}  # of samples without a picture: dotted extensions
        indexes = [self._index(path) for path in self.paths]
        self._keys = np.concatenate([keys for keys, _ in indexes])
        self._members = np.concatenate([members for _, members in indexes])  # [n, 3, 2]
        self.shard_sizes = [len(keys) for keys, _ in indexes]
        self._starts = np.cumsum([0, *self.shard_sizes])
        self._descriptors: dict[tuple[int, int], int] = {}  # of (process, shard)
        if not len(self._keys):
            raise PairsError(self.name, "holds no pairs", "name its members KEY.jpg and KEY.txt")

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, number: int) -> str:
        """Return the common name of the members of a sample."""
        return bytes(self._keys[number]).decode("utf-8", "replace")

    def __getitem__(self, number: int) -> Pair:
        """Read a pair. Raises `BrokenPairError`."""
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        key = self.key(number)
        subject = f"{self.paths[shard]}: {key}"
        picture, text, tree = (
            self._read(shard, offset, size) for offset, size in self._members[number].tolist()
        )
        if picture is None:
            raise BrokenPairError(subject, *missing_picture(key, self._dotted.get(key, ())))
        return Pair(key, picture, parse_captions(subject, text, tree))

    def picture(self, number: int) -> bytes:
        """Read the picture of a sample, with or without a caption. Raises `BrokenPairError`."""
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        picture = self._read(shard, *self._members[number, 0].tolist())
        if picture is None:
            key = self.key(number)
            reason = missing_picture(key, self._dotted.get(key, ()))
            raise BrokenPairError(f"{self.paths[shard]}: {key}", *reason)
        return picture

    def fields(self, number: int) -> dict[str, Any]:
        """Return the JSON object of a sample; empty if it has none, or another kind of value."""
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        content = self._read(shard, *self._members[number, 2].tolist())
        try:
            tree = json.loads(content or b"{}")
        except (ValueError, RecursionError):
            return {}
        return tree if isinstance(tree, dict) else {}

    def _read(self, shard: int, offset: int, size: int) -> bytes | None:
        if (offset, size) == ABSENT:
            return None
        process_shard = os.getpid(), shard  # a forked worker must not share a file position
        if process_shard not in self._descriptors:
            opened = os.open(self.paths[shard], os.O_RDONLY)
            if self._descriptors.setdefault(process_shard, opened) != opened:
                os.close(opened)  # another thread was faster
        return os.pread(self._descriptors[process_shard], size, offset)

    def close(self) -> None:
        """Close the files that this process has opened; reading opens them again."""
        for process, shard in list(self._descriptors):
            if process == os.getpid():
                os.close(self._descriptors.pop((process, shard)))

    def _index(self, path: Path) -> tuple[NDArray[np.bytes_], Int64Array]:
        """Return keys [n] and (offset, size) of picture, text and JSON of each sample [n, 3, 2]."""
        keys: list[bytes] = []
        members: list[list[tuple[int, int]]] = []
        try:
            for member in tar_members(path):
                if not keys or keys[-1] != member.key:
                    keys.append(member.key)
                    members.append([ABSENT] * 3)
                if is_dotted_picture(member.extension):
                    key = member.key.decode("utf-8", "replace")
                    self._dotted.setdefault(key, []).append(member.extension)
                kind = _kind(member.extension)
                if kind is not None:
                    members[-1][kind] = member.offset, member.size
        except (tarfile.TarError, EOFError) as error:
            if not keys:
                raise PairsError(
                    path, f"not a tar ({error})", "pack or download it again"
                ) from None
            key = keys[-1].decode(errors="replace")
            self.faults.append(f"{path}: cut short after {key}; pack or download it again")
            del keys[-1], members[-1]
        return np.array(keys, np.bytes_), np.array(members, np.int64).reshape(-1, 3, 2)


def _kind(extension: str) -> int | None:
    """Return 0 for a picture, 1 for text, 2 for JSON."""
    if extension in PICTURE_EXTENSIONS:
        return 0
    return {"txt": 1, "json": 2}.get(extension)


def is_dotted_picture(extension: str) -> bool:
    """Return True for the extension of a picture with a dot in it, as that of `a.cat.jpg`."""
    return extension.rpartition(".")[2] in PICTURE_EXTENSIONS and "." in extension


def missing_picture(key: str, extensions: Sequence[str]) -> tuple[str, str]:
    """Return reason and remedy for a sample without a picture.

    Args:
        extensions: those of its members that are pictures but for a dot in the extension.
    """
    if not extensions:
        return "has no picture", "add one, or remove the caption"
    name, more = f"{key}.{extensions[0]}", len(extensions) - 1
    reason = f"has no picture: the extension of {name} is {extensions[0]!r}"
    if more:
        reason += f", and {more} more pictures have such extensions"
    return reason, "the extension begins at the first dot: replace the other dots in the names"


def tar_members(path: Path) -> Iterator[TarMember]:
    """Yield every file of an uncompressed tar.

    Raises:
        tarfile.TarError, EOFError: not a tar, or truncated; after the members before that point.
    """
    size = path.stat().st_size
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if not member.isfile():
                continue
            folder, _, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            yield TarMember(key.encode(), extension.lower(), member.offset_data, member.size)
            if member.offset_data + member.size > size:
                raise tarfile.ReadError("unexpected end of data")


def find_tars(text: str) -> list[str]:
    """Return the tars of a path or URL, of a pattern such as `a-{00..31}.tar`, or in a folder."""
    names = list(_expand_braces(text))
    if any("*" in name for name in names) or (len(names) == 1 and not text.endswith(".tar")):
        pattern = text if "*" in text else f"{text.rstrip('/')}/*.tar"
        if "://" in pattern:
            return list_remote(pattern)
        folder = Path(pattern).parent
        return sorted(map(str, folder.glob(Path(pattern).name))) if folder.is_dir() else []
    return names


def _expand_braces(text: str) -> Iterator[str]:
    """`a-{08..10}.tar` -> a-08.tar, a-09.tar, a-10.tar."""
    braces = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if not braces:
        yield text
        return
    start, stop = braces.groups()
    for number in range(int(start), int(stop) + 1):
        yield from _expand_braces(text.replace(braces.group(), str(number).zfill(len(start)), 1))
