"""Labelled sets: pictures on disk, read one by one, with the names of their classes."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import BoolArray, Int64Array
from twotower.errors import EvaluationError
from twotower.evaluate.registry import (
    PublicSet,
    find_set,
    normalize_name,
    public_sets,
    recognize_set,
)
from twotower.evaluate.set_readers import (
    Label,
    PictureSequence,
    StoredSet,
    read_folders,
    read_labelled_table,
    read_npz,
    read_tars,
)
from twotower.inputs.pictures import Picture
from twotower.pairs.tars import find_tars

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")

ClassNames: TypeAlias = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class LabelledSet:
    """Pictures with the classes that they show.

    Attributes:
        keys: a name for each picture.
        labels: numbers of classes [n], or bool [n, classes] where a picture may have several.
        classes: the names of each class.
        public_set: the published set that this is, entirely or in part.
        full_size: the number of pictures in the set that this was drawn from.
    """

    name: str
    pictures: PictureSequence
    keys: Sequence[str]
    labels: NDArray[Any]
    classes: ClassNames
    public_set: PublicSet | None
    full_size: int

    @property
    def multi_label(self) -> bool:
        """True if a picture may have several classes."""
        return self.labels.ndim == 2

    @property
    def classnames(self) -> list[str]:
        """The main name of each class."""
        return [names[0] for names in self.classes]

    @property
    def namesakes(self) -> Int64Array | None:
        """Numbers [classes], equal for classes with the same names; None if all names differ."""
        distinct, numbers = np.unique(
            [" ".join(names) for names in self.classes], return_inverse=True
        )
        return numbers if len(distinct) < len(self.classes) else None

    def fingerprint(self) -> str:
        """Return a hash of keys and labels in order; results can be compared if it is equal."""
        digest = hashlib.sha256("\n".join(self.keys).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()[:16]

    def __iter__(self) -> Iterator[Picture]:
        """Yield the pictures in order, each read when it is needed."""
        return (self.pictures[number] for number in range(len(self.keys)))

    def take(self, numbers: Int64Array) -> LabelledSet:
        """Return the set of these pictures, with all classes."""
        return replace(
            self,
            pictures=_Selection(self.pictures, numbers),
            keys=[self.keys[number] for number in numbers],
            labels=self.labels[numbers],
        )

    def sample(self, count: int, seed: int = 0) -> LabelledSet:
        """Return at most `count` pictures, drawn at random and kept in order."""
        drawn = np.random.default_rng(seed).permutation(len(self.keys))[:count]
        return self.take(np.sort(drawn))


@dataclass(frozen=True)
class _Selection:
    pictures: PictureSequence
    numbers: Int64Array

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> Picture:
        return self.pictures[int(self.numbers[number])]


def open_set(
    location: str | Path,
    classes: Sequence[str] | None = None,
    set_key: str | None = None,
    root: Path | None = None,
) -> LabelledSet:
    """Open labelled pictures.

    Args:
        location: a folder of class folders; tars (one, a pattern, or a folder of them) with `.json`
            (`label`) or `.cls`; a `.csv`, `.tsv` or `.parquet` table; or a `.npz` with images,
            labels and class_names. The name of a public set raises an error with its address.
        classes: names for the labels, in order; or all names to choose from, with the labels among
            them. They are matched by name if any label is among them.
        set_key: the public set that this is (`--as`); by default it is recognised by its classes.
        root: the folder that the paths of a table are relative to; by default, the table's.

    Raises:
        EvaluationError: nothing is there, it holds no pictures, or labels and classes do not fit.
    """
    stored = _read_set(location, root)
    return _name_classes(stored, classes, find_set(set_key) if set_key else None)


def _read_set(location: str | Path, root: Path | None) -> StoredSet:
    path = Path(location)
    if str(location).endswith((".csv", ".tsv", ".parquet")):
        return read_labelled_table(path, root or path.parent)
    if path.suffix == ".npz":
        return read_npz(path)
    if tars := find_tars(str(location)):
        return read_tars([Path(tar) for tar in tars])
    if path.is_dir():
        return read_folders(path)
    if str(location) in public_sets():
        raise find_set(str(location)).not_shipped("zero-shot")
    raise EvaluationError(
        location,
        "no such set",
        "give a folder of class folders, tars, a .csv, .tsv, .parquet or .npz file, or the name of "
        "a public set (list them: twotower evaluate sets)",
    )


# --- names of classes ----------------------------------------------------------------------------


def _name_classes(
    stored: StoredSet, names: Sequence[str] | None, public_set: PublicSet | None
) -> LabelledSet:
    """Give each class its names: from `--classes`, from a public set, or from the labels."""
    stored = replace(stored, labels=_unify_labels(stored))
    labels = _flatten_labels(stored.labels)
    words = isinstance(labels[0], str)
    label_names = sorted(set(labels)) if words else stored.class_names
    numbers: dict[str, int] = {}  # the class of each name, if the labels have names
    if public_set is None and names is None and label_names:
        public_set = recognize_set(label_names, len(stored.keys))
    if names is not None:
        classes, numbers = _names_from_user(stored, label_names, labels, names)
    elif public_set is not None and public_set.classes:
        classes, numbers = _names_from_public_set(stored, label_names, labels, public_set)
    elif label_names is None:
        raise EvaluationError(
            stored.name,
            "its labels are numbers",
            "name them with --classes FILE (a class on each line, in their order) or --as SET",
        )
    else:
        classes = tuple((name.replace("_", " "),) for name in label_names)
        numbers = {name: number for number, name in enumerate(label_names)} if words else {}
    if not words:
        _check_numbers(stored, labels, len(label_names or classes))
    order = [numbers[name] for name in label_names] if label_names and numbers else None
    class_numbers = numbers if words else order
    matrix = _label_array(stored.labels, class_numbers, len(classes))
    full_size = public_set.pictures if public_set else len(stored.keys)
    return LabelledSet(
        stored.name, stored.pictures, stored.keys, matrix, classes, public_set, full_size
    )


def _unify_labels(stored: StoredSet) -> list[Label]:
    """Return all labels as numbers if all state numbers, as pandas' "3.0" does; else as words.

    Raises:
        EvaluationError: there are no pictures, or no labels; or a number is negative or not whole.
    """
    if not len(stored.keys):
        raise EvaluationError(stored.name, "holds no pictures", "add pictures with labels")
    values = set(_flatten_labels(stored.labels))
    if not values:
        raise EvaluationError(stored.name, "no picture has a label", "label its pictures")
    if not all(isinstance(value, int | float) or _NUMBER.fullmatch(value) for value in values):
        return _map_labels(stored.labels, str)
    wrong = [value for value in values if not float(value).is_integer() or float(value) < 0]
    if wrong:
        raise EvaluationError(
            stored.name,
            f"a label is {min(wrong, key=str)}",
            "number the classes 0, 1, 2, ..., and leave out pictures without a class",
        )
    return _map_labels(stored.labels, lambda value: int(float(value)))


def _map_labels(labels: Sequence[Label], function: Callable[[Any], Any]) -> list[Label]:
    """Apply a function to every label of every picture."""
    return [
        [function(value) for value in label] if isinstance(label, list) else function(label)
        for label in labels
    ]


def _flatten_labels(labels: Sequence[Label]) -> list[Any]:
    """Return every label of every picture."""
    return [value for label in labels for value in (label if isinstance(label, list) else [label])]


def _check_numbers(stored: StoredSet, labels: list[int], classes: int) -> None:
    if max(labels) >= classes:
        raise EvaluationError(
            stored.name,
            f"a label is {max(labels)} but there are {classes} classes",
            "number the classes from 0, and name them all",
        )


def _names_from_user(
    stored: StoredSet, label_names: list[str] | None, labels: list[Any], names: Sequence[str]
) -> tuple[ClassNames, dict[str, int]]:
    """Match labels with the names of `--classes`: by spelling, or by order if none is a label.

    Args:
        label_names: the distinct labels if these are words, or the stored names of numbers.
        labels: every label.

    Returns:
        The classes, and the number of the class of each name; empty for numbers in their order.
    """
    classes = tuple((name.strip(),) for name in names)
    if label_names is None:
        count = max(labels) + 1
        if count != len(classes):
            raise EvaluationError(
                stored.name,
                f"{len(classes)} classes are given but its labels go to {count}",
                f"give {count} classes",
            )
        return classes, {}
    numbers = _match_names(label_names, names)
    if len(numbers) == len(set(label_names)):
        return classes, numbers
    spelt = set(map(normalize_name, label_names)) & set(map(normalize_name, names))
    if not spelt and len(label_names) == len(classes):
        return classes, {word: number for number, word in enumerate(label_names)}
    missing = next(word for word in label_names if word not in numbers)
    raise EvaluationError(
        stored.name,
        f"{len(classes)} classes are given for {len(label_names)} labels, and {missing!r} is "
        "not among them",
        "give all labels by name, or, if none has its name, a class for each in order",
    )


def _match_names(label_names: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Return the number of the name that is each label; spellings count unless ambiguous."""
    exact = {name.strip(): number for number, name in reversed(list(enumerate(names)))}
    if all(name in exact for name in label_names):
        return {name: exact[name] for name in label_names}
    spellings = {normalize_name(name): number for name, number in exact.items()}
    counts = Counter(map(normalize_name, set(label_names)))
    return {
        name: spellings[spelling]
        for name in label_names
        if counts[spelling := normalize_name(name)] == 1 and spelling in spellings
    }


def _names_from_public_set(
    stored: StoredSet, label_names: list[str] | None, labels: list[Any], public_set: PublicSet
) -> tuple[ClassNames, dict[str, int]]:
    """Match labels with the classes of a public set: by spelling, or bare numbers by order.

    Args:
        label_names: the distinct labels if these are words, or the stored names of numbers.
        labels: every label.

    Returns:
        The classes, and the number of the class of each word.
    """
    if label_names is None:
        if max(labels) >= len(public_set.classes):
            raise EvaluationError(
                stored.name,
                f"a label is {max(labels)} but {public_set.key} has "
                f"{len(public_set.classes)} classes",
                "leave out --as, or choose another set",
            )
        return public_set.classes, {}
    by_folder = {normalize_name(name): number for number, name in enumerate(public_set.folders)}
    by_name = {normalize_name(names[0]): i for i, names in enumerate(public_set.classes)}
    for numbers in (by_folder, by_name):
        if all(normalize_name(word) in numbers for word in label_names):
            if isinstance(labels[0], str):
                words = {word: numbers[normalize_name(word)] for word in label_names}
                return public_set.classes, words
            order = [numbers[normalize_name(word)] for word in label_names]
            return tuple(public_set.classes[number] for number in order), {}
    unknown = next(word for word in label_names if normalize_name(word) not in by_name)
    raise EvaluationError(
        stored.name, f"{unknown!r} is no class of {public_set.key}", "name them with --classes"
    )


def _label_array(
    labels: Sequence[Label], numbers: Mapping[str, int] | Sequence[int] | None, classes: int
) -> Int64Array | BoolArray:
    """Return numbers of classes [n], or bool [n, classes] if a label is a list.

    Args:
        numbers: the class of each label, a word or number; None if labels are numbers of classes.
    """
    mapped: Sequence[Any] = labels
    if numbers is not None:
        mapped = _map_labels(labels, numbers.__getitem__)
    if not any(isinstance(label, list) for label in mapped):
        return np.array(mapped, np.int64)
    matrix = np.zeros((len(mapped), classes), np.bool_)
    for row, label in zip(matrix, mapped, strict=True):
        row[label] = True
    return matrix
