"""Read labelled pictures from folders, tars, tables and arrays."""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from twotower.errors import EvaluationError, PairsError
from twotower.inputs.pictures import Picture, find_pictures
from twotower.pairs.tables import PICTURE_COLUMNS, read_table
from twotower.pairs.tars import (
    PICTURE_EXTENSIONS,
    is_dotted_picture,
    missing_picture,
    tar_members,
)

LABEL_COLUMNS = ("label", "labels", "class", "cls", "classname")
SPLITS = frozenset("train training val valid validation dev test testing".split())
CLASS_NAMES_FILE = "classnames.txt"  # beside shards, as LAION's CLIP_benchmark writes it

Value: TypeAlias = int | float | str
Label: TypeAlias = Value | list[Value]  # a list where a picture may have several
Span: TypeAlias = tuple[int, int]  # offset and size of a member in a tar


class PictureSequence(Protocol):
    """Pictures by number, each read when it is accessed."""

    def __len__(self) -> int:
        """Return the number of pictures."""

    def __getitem__(self, number: int) -> Picture:
        """Return a picture in a form that `open_picture` takes."""


@dataclass(frozen=True)
class StoredSet:
    """A set as it is stored: labels are words, or numbers, also as text, with or without names.

    Attributes:
        class_names: the names of numbered labels, if they are stored.
    """

    name: str
    pictures: PictureSequence
    keys: Sequence[str]
    labels: Sequence[Label]
    class_names: list[str] | None = None


def unique_keys(keys: list[str]) -> list[str]:
    """Return the keys; if two are equal, add its number to each.

    Keys are equal in shards that are numbered alike.
    """
    if len(set(keys)) == len(keys):
        return keys
    return [f"{key} (number {number})" for number, key in enumerate(keys)]


# --- folders -------------------------------------------------------------------------------------


def read_folders(folder: Path) -> StoredSet:
    """Read a folder of class folders.

    Raises:
        EvaluationError: there is no class folder, one has no pictures, or they are splits.
    """
    paths: list[Picture] = []
    labels: list[Label] = []
    keys: list[str] = []
    for class_folder in _class_folders(folder):
        pictures = [path for path in find_pictures([class_folder]) if path != class_folder]
        if not pictures:
            raise EvaluationError(
                class_folder, "a class folder without pictures", "fill or remove it"
            )
        paths += pictures
        keys += [str(path.relative_to(folder)) for path in pictures]
        labels += [class_folder.name] * len(pictures)
    if not paths:
        raise EvaluationError(
            folder, "holds no class folders and no tars", "sort its pictures: FOLDER/CLASS/PICTURE"
        )
    return StoredSet(str(folder), paths, keys, labels)


def _class_folders(folder: Path) -> list[Path]:
    """Return the visible folders in a folder.

    Raises:
        EvaluationError: they are the splits of a set, each with class folders of its own.
    """
    folders = sorted(
        child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")
    )
    if folders and all(_is_split(child) for child in folders):
        names = ", ".join(child.name for child in folders)
        raise EvaluationError(
            folder,
            f"its folders are splits of a set ({names}), not classes",
            f"measure one of them, such as {folders[-1]}",
        )
    return folders


def _is_split(folder: Path) -> bool:
    """Return True for a folder named after a split that holds only folders."""
    visible = [child for child in folder.iterdir() if not child.name.startswith(".")]
    return folder.name.lower() in SPLITS and all(child.is_dir() for child in visible)


# --- arrays --------------------------------------------------------------------------------------


def read_npz(path: Path) -> StoredSet:
    """Read `images`, `labels` and perhaps `class_names` of a .npz file.

    `images` is uint8 [n, H, W] or [n, H, W, 3]; `labels` is [n], [n, 1], or bool [n, classes].

    Raises:
        EvaluationError: the file cannot be read, an array is missing, lengths or shapes do not
            fit, or the arrays are larger than the memory of this machine, into which they are
            unpacked.
    """
    images, labels, class_names = _load_arrays(path)
    if images.ndim < 3:
        raise EvaluationError(
            path, f"its images have the shape {list(images.shape)}", "store [n, H, W, 3]"
        )
    labels = np.atleast_1d(labels)
    if len(images) != len(labels):
        raise EvaluationError(
            path, f"{len(images)} images but {len(labels)} labels", "store a label for each image"
        )
    keys = [str(number) for number in range(len(images))]
    names = None if class_names is None else [*map(str, _text_array(class_names).ravel())]
    return StoredSet(path.stem, images, keys, _label_rows(path, labels, names), names)


def _label_rows(path: Path, labels: NDArray[Any], class_names: list[str] | None) -> list[Label]:
    """Return the label of each image; for a row of [n, classes], the numbers of its classes."""
    if labels.shape[1:] == (1,) and labels.dtype != np.bool_:
        labels = labels[:, 0]  # as Keras gives those of CIFAR
    if labels.ndim == 1:
        return _text_array(labels).tolist()
    expected = None if class_names is None else len(class_names)
    if (
        labels.ndim != 2
        or not np.isin(labels, (0, 1)).all()
        or expected not in (None, labels.shape[1])
    ):
        raise EvaluationError(
            path,
            f"its labels of shape {list(labels.shape)} are neither numbers of classes [n] nor 0 "
            f"and 1 [n, {expected or 'classes'}]",
            "store a number for each image, or a row of 0 and 1",
        )
    return [list(map(int, np.flatnonzero(row))) for row in labels]


def _text_array(values: NDArray[Any]) -> NDArray[Any]:
    """Return the array, bytes as text."""
    return np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values


def _load_arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """Return images, labels and class names, or None for the last."""
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(member.file_size for member in file.infolist())
        if size > _memory():
            raise EvaluationError(
                path,
                f"unpacks to {size / 2**30:.1f} GiB, more than this machine's memory",
                "write its pictures as tars or class folders",
            )
        with np.load(path, allow_pickle=False) as arrays:
            names = next((arrays[n] for n in ("class_names", "classnames") if n in arrays), None)
            return arrays["images"], arrays["labels"], names
    except EvaluationError:
        raise
    except KeyError as error:
        raise EvaluationError(path, error.args[0], "store the arrays images and labels") from None
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise EvaluationError(
            path, f"cannot be read ({error})", "write it again with numpy.savez"
        ) from None


def _memory() -> int:
    """Return the memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# --- tables --------------------------------------------------------------------------------------


def read_labelled_table(path: Path, root: Path) -> StoredSet:
    """Read a table with a row for each picture: its path or content, and its labels ("cat|dog").

    Args:
        path: a .csv, .tsv or .parquet file.
        root: the folder that paths are relative to.

    Raises:
        EvaluationError: the file, a column or a label is missing, or a row does not fit the header.
    """
    if not path.is_file():
        raise EvaluationError(path, "no such file", "give a table, a folder or tars")
    if path.suffix == ".parquet":
        return _read_parquet(path, root)
    try:
        rows = read_table(path)
    except PairsError as error:
        raise EvaluationError(error.subject, error.reason, error.remedy) from None
    columns = list(rows[0]) if rows else []
    picture_column = _find_column(columns, PICTURE_COLUMNS, path, "pictures")
    label_column = _find_column(columns, LABEL_COLUMNS, path, "labels")
    keys = [str(row[picture_column]) for row in rows]
    pictures: list[Picture] = [root / key for key in keys]
    labels = [
        _parse_label(row[label_column], path, key) for row, key in zip(rows, keys, strict=True)
    ]
    if label_column == "labels" and not any(isinstance(label, list) for label in labels):
        labels = [[str(label)] for label in labels]  # several are allowed, but no picture has them
    return StoredSet(path.stem, pictures, keys, labels)


def _find_column(columns: Sequence[str], names: Sequence[str], path: Path, content: str) -> str:
    for name in names:
        if name in columns:
            return name
    raise EvaluationError(
        path,
        f"no column of {content} (there are: {', '.join(columns) or 'none'})",
        f"call it one of {', '.join(names)}",
    )


def _parse_label(value: Any, path: Path, item: str) -> Label:
    """Return a label of the row or sample that `item` names; "|" separates several.

    Raises:
        EvaluationError: it is empty.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and value.strip():
        names: list[Value] = [name.strip() for name in value.split("|")]
        return names if len(names) > 1 else names[0]
    if isinstance(value, list) and all(map(_is_value, value)):
        return value
    if _is_value(value) and not isinstance(value, str):
        return value
    raise EvaluationError(path, f"{item} has no label", "add one, or remove the picture")


def _is_value(value: Any) -> TypeGuard[Value]:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def _read_parquet(path: Path, root: Path) -> StoredSet:
    """Read a Parquet table, also one of Hugging Face's datasets.

    Those contain the pictures themselves, and the names of numbered labels in their metadata.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise EvaluationError(path, "pyarrow is not installed", "pip install pyarrow") from None
    file = pyarrow.parquet.ParquetFile(path)
    columns = file.schema_arrow.names
    picture_column = _find_column(columns, (*PICTURE_COLUMNS, "img"), path, "pictures")
    label_column = _find_column(columns, LABEL_COLUMNS, path, "labels")
    values = file.read(columns=[label_column]).column(label_column).to_pylist()
    labels = [_parse_label(value, path, f"row {row}") for row, value in enumerate(values)]
    features = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    names = features.get("info", {}).get("features", {}).get(label_column, {}).get("names")
    keys = [str(row) for row in range(len(labels))]
    return StoredSet(path.stem, _ParquetPictures(file, picture_column, root), keys, labels, names)


class _ParquetPictures:
    """The pictures of a Parquet file; one row group is in memory at a time."""

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


# --- tars ----------------------------------------------------------------------------------------


def read_tars(tars: list[Path]) -> StoredSet:
    """Read tars with samples of a picture and a label.

    The label is in a `.cls`, or under "label" in a `.json`: a number, a name or a list.

    Raises:
        EvaluationError: a tar is missing or damaged, or a sample has no picture or no label.
    """
    spans: list[tuple[int, int, int]] = []  # tar, offset, size
    keys: list[str] = []
    labels: list[Label] = []
    for shard, path in enumerate(tars):
        if not path.is_file():
            raise EvaluationError(path, "no such file", "give a tar, a pattern or a folder of tars")
        for key, members in _read_samples(path):
            suffixes = (suffix for suffix in PICTURE_EXTENSIONS if suffix in members)
            span = next((members[suffix] for suffix in suffixes), None)
            if span is None:
                reason, remedy = missing_picture(key, [*filter(is_dotted_picture, members)])
                raise EvaluationError(path, f"{key} {reason}", remedy)
            spans.append((shard, *span))
            keys.append(key)
            labels.append(_tar_label(path, key, members))
    names_file = tars[0].parent / CLASS_NAMES_FILE
    names = names_file.read_text(encoding="utf-8").splitlines() if names_file.is_file() else None
    name = tars[0].stem if len(tars) == 1 else str(tars[0].parent)
    return StoredSet(name, _TarPictures(tars, spans), unique_keys(keys), labels, names)


def _read_samples(path: Path) -> list[tuple[str, dict[str, Span]]]:
    """Return the key and {suffix: span} of each sample, whose members follow one another."""
    samples: list[tuple[str, dict[str, Span]]] = []
    try:
        for stem, suffix, offset, size in tar_members(path):
            key = stem.decode("utf-8", "replace")
            if not samples or samples[-1][0] != key:
                samples.append((key, {}))
            samples[-1][1][suffix] = offset, size
    except (tarfile.TarError, EOFError) as error:
        raise EvaluationError(
            path, f"damaged or cut short ({error})", "download it again"
        ) from None
    return samples


def _tar_label(path: Path, key: str, members: dict[str, Span]) -> Label:
    if "cls" in members:
        return _parse_label(_read_span(path, members["cls"]).strip(), path, key)
    if "json" not in members:
        raise EvaluationError(path, f"{key} has neither .json nor .cls", "add one to each sample")
    try:
        tree = json.loads(_read_span(path, members["json"]))
    except (ValueError, RecursionError):
        raise EvaluationError(
            path, f"the .json of {key} cannot be read", "write valid JSON"
        ) from None
    tree = tree if isinstance(tree, dict) else {}
    # Two classes of ImageNet are called "crane", but WordNet numbers are unique.
    return _parse_label(tree.get("wnid", tree.get("label")), path, key)


def _read_span(path: Path, span: Span) -> bytes:
    with path.open("rb") as file:
        file.seek(span[0])
        return file.read(span[1])


class _TarPictures:
    """The undecoded pictures of tars."""

    def __init__(self, tars: list[Path], spans: list[tuple[int, int, int]]) -> None:
        self._tars = tars
        self._spans = np.array(spans, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, number: int) -> Picture:
        shard, offset, size = self._spans[number].tolist()
        return _read_span(self._tars[shard], (offset, size))
