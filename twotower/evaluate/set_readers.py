"""Readers of labelled pictures: folders, archives, tables, tars."""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from twotower.errors import EvaluationError
from twotower.inputs.pictures import Picture, find_pictures
from twotower.pairs.tables import PICTURE_COLUMNS, read_table
from twotower.pairs.tars import PICTURES, tar_members

LABEL_COLUMNS = ("label", "labels", "class", "cls", "classname")
CLASS_FILE = "classnames.txt"  # beside shards, as LAION's CLIP_benchmark writes it

Label = int | str | list[int] | list[str]


class Pictures(Protocol):
    """Pictures by number, read when asked for."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, number: int) -> Picture:
        """One, as `open_picture` takes it."""


def distinct(keys: list[str]) -> list[str]:
    """The keys, or each with its number where two are alike, as in shards of one numbering."""
    if len(set(keys)) == len(keys):
        return keys
    return [f"{key} (number {number})" for number, key in enumerate(keys)]


# --- labels and classes --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Raw:
    """A set as it lies on disk: labels are numbers (with or without names) or words."""

    name: str
    pictures: Pictures
    keys: Sequence[str]
    labels: Sequence[Label]
    names: list[str] | None = None  # of the numbers


# --- folders, tables, arrays, tars ---------------------------------------------------------------


def _read_folders(folder: Path) -> _Raw:
    paths: list[Picture] = []
    labels: list[str] = []
    keys: list[str] = []
    for child in sorted(one for one in folder.iterdir() if one.is_dir()):
        if child.name.startswith("."):
            continue
        pictures = [one for one in find_pictures([child]) if one != child]
        if not pictures:
            raise EvaluationError(f"{child}: a class folder without pictures; fill or remove it")
        paths += pictures
        keys += [str(one.relative_to(folder)) for one in pictures]
        labels += [child.name] * len(pictures)
    if not paths:
        raise EvaluationError(
            f"{folder}: holds no class folders (FOLDER/CLASS/PICTURE) and no tars"
        )
    if all(name.isdigit() for name in labels):  # "10" comes after "9"
        return _Raw(str(folder), paths, keys, [int(name) for name in labels])
    return _Raw(str(folder), paths, keys, labels)


def _read_npz(path: Path) -> _Raw:
    """`images` uint8 [n, H, W] or [n, H, W, 3], `labels` [n] or bool [n, classes], `class_names`.

    The arrays are unpacked into memory, so their size is looked at first.
    """
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(one.file_size for one in file.infolist())
        if size > _memory():
            raise EvaluationError(
                f"{path}: unpacks to {size / 2**30:.1f} GiB, more than this machine's memory; "
                "write its pictures as tars or class folders"
            )
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
            names = next((arrays[n] for n in ("class_names", "classnames") if n in arrays), None)
    except KeyError as error:
        raise EvaluationError(f"{path}: {error.args[0]}; needed are images and labels") from None
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        if isinstance(error, EvaluationError):
            raise
        raise EvaluationError(f"{path}: cannot be read ({error})") from None
    if len(images) != len(labels):
        raise EvaluationError(f"{path}: {len(images)} images but {len(labels)} labels")
    given: list[Label] = [
        np.flatnonzero(one).tolist() if labels.ndim == 2 else one for one in labels.tolist()
    ]
    keys = [str(number) for number in range(len(images))]
    return _Raw(path.stem, images, keys, given, None if names is None else names.tolist())


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read_labelled_table(path: Path, root: Path) -> _Raw:
    """A row for each picture: a path or the picture itself, and a label or several ("cat|dog")."""
    if not path.is_file():
        raise EvaluationError(f"{path}: no such file")
    if path.suffix == ".parquet":
        return _read_parquet(path, root)
    rows = read_table(path)
    columns = list(rows[0]) if rows else []
    picture = _column(columns, PICTURE_COLUMNS, path, "pictures")
    label = _column(columns, LABEL_COLUMNS, path, "labels")
    pictures: list[Picture] = [root / str(row[picture]) for row in rows]
    labels = [_label(row[label], f"{path}: {row[picture]}") for row in rows]
    if label == "labels" and not any(isinstance(one, list) for one in labels):
        labels = [[str(one)] for one in labels]  # several are allowed, though no picture has them
    if all(isinstance(one, str) and one.isdigit() for one in labels):
        labels = [int(str(one)) for one in labels]
    return _Raw(path.stem, pictures, [str(row[picture]) for row in rows], labels)


def _label(value: Any, where: str) -> Label:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and value.strip():
        parts = [part.strip() for part in value.split("|")]
        return parts if len(parts) > 1 else parts[0]
    if isinstance(value, list):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise EvaluationError(f"{where} has no label")


def _column(columns: Sequence[str], known: Sequence[str], path: Path, what: str) -> str:
    for name in known:
        if name in columns:
            return name
    raise EvaluationError(
        f"{path}: no column of {what}; call it one of {', '.join(known)} "
        f"(there are: {', '.join(columns) or 'none'})"
    )


def _read_parquet(path: Path, root: Path) -> _Raw:
    """As the table above, or as Hugging Face's datasets are: pictures inside, names in the head."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise EvaluationError(f"{path}: reading Parquet needs pip install pyarrow") from None
    file = pyarrow.parquet.ParquetFile(path)
    columns = file.schema_arrow.names
    picture = _column(columns, (*PICTURE_COLUMNS, "img"), path, "pictures")
    label = _column(columns, LABEL_COLUMNS, path, "labels")
    values = file.read(columns=[label]).column(label).to_pylist()
    labels = [_label(value, f"{path}: row {row}") for row, value in enumerate(values)]
    features = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    names = features.get("info", {}).get("features", {}).get(label, {}).get("names")
    keys = [str(row) for row in range(len(labels))]
    return _Raw(path.stem, _ParquetPictures(file, picture, root), keys, labels, names)


class _ParquetPictures:
    """One row group in memory at a time."""

    def __init__(self, file: Any, column: str, root: Path) -> None:
        self._file, self._column, self._root = file, column, root
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._group: tuple[int, list[Any]] = (-1, [])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> Picture:
        if not 0 <= number < len(self):
            raise IndexError(number)
        group = int(np.searchsorted(self._starts, number, side="right")) - 1
        if self._group[0] != group:
            table = self._file.read_row_group(group, columns=[self._column])
            self._group = group, table.column(self._column).to_pylist()
        value = self._group[1][number - self._starts[group]]
        if isinstance(value, dict):  # Hugging Face's Image: its bytes, or else a path
            value = value.get("bytes") or value.get("path") or ""
        return value if isinstance(value, bytes) else self._root / str(value)


def _read_tars(tars: list[Path]) -> _Raw:
    """Samples of a picture and a `.json` with `label` (a number, a name, a list) or a `.cls`."""
    places: list[tuple[int, int, int]] = []
    keys: list[str] = []
    labels: list[Label] = []
    for shard, path in enumerate(tars):
        if not path.is_file():
            raise EvaluationError(f"{path}: no such file")
        for key, members in _samples(path):
            where = f"{path}: {key}"
            picture = next((members[kind] for kind in PICTURES if kind in members), None)
            if picture is None:
                raise EvaluationError(f"{where} has no picture")
            places.append((shard, *picture))
            keys.append(key)
            labels.append(_tar_label(path, members, where))
    beside = tars[0].parent / CLASS_FILE
    names = beside.read_text(encoding="utf-8").splitlines() if beside.is_file() else None
    name = tars[0].stem if len(tars) == 1 else str(tars[0].parent)
    return _Raw(name, _TarPictures(tars, places), distinct(keys), labels, names)


def _samples(path: Path) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """(key, {extension: (offset, size)}) of each sample, whose members follow one another."""
    samples: list[tuple[str, dict[str, tuple[int, int]]]] = []
    try:
        for raw, extension, offset, size in tar_members(path):
            key = raw.decode("utf-8", "replace")
            if not samples or samples[-1][0] != key:
                samples.append((key, {}))
            samples[-1][1][extension] = offset, size
    except (tarfile.TarError, EOFError) as error:
        raise EvaluationError(
            f"{path}: damaged or cut short ({error}); download it again"
        ) from None
    return samples


def _tar_label(path: Path, members: dict[str, tuple[int, int]], where: str) -> Label:
    if "cls" in members:
        text = _read_at(path, members["cls"]).decode("utf-8", "replace").strip()
        return int(text) if text.isdigit() else _label(text, where)
    if "json" not in members:
        raise EvaluationError(f"{where} has neither .json nor .cls")
    try:
        tree = json.loads(_read_at(path, members["json"]))
    except ValueError:
        raise EvaluationError(f"{where}: its json cannot be read") from None
    tree = tree if isinstance(tree, dict) else {}
    # the names of ImageNet's classes are not distinct ("crane"), their WordNet numbers are
    return _label(tree.get("wnid", tree.get("label")), where)


def _read_at(path: Path, place: tuple[int, int]) -> bytes:
    with path.open("rb") as file:
        file.seek(place[0])
        return file.read(place[1])


class _TarPictures:
    """The bytes of each picture, where its tar has them."""

    def __init__(self, tars: list[Path], places: list[tuple[int, int, int]]) -> None:
        self._tars = tars
        self._places = np.array(places, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Picture:
        shard, offset, size = self._places[number].tolist()
        return _read_at(self._tars[shard], (offset, size))
