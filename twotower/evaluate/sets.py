"""Labelled pictures on disk, read one by one: folders, tars, tables, arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.errors import EvaluationError
from twotower.evaluate.registry import KnownSet, find_set, known_sets, plain, recognise
from twotower.evaluate.set_readers import (
    Label,
    Pictures,
    _Raw,
    _read_folders,
    _read_labelled_table,
    _read_npz,
    _read_tars,
)
from twotower.inputs.pictures import Picture
from twotower.pairs.tars import find_tars


@dataclass(frozen=True)
class LabelledSet:
    """Pictures and what they show.

    Attributes:
        keys: a name for each picture. labels: [n], numbers of classes; or bool [n, classes] where a
            picture may show several.
        classes: the names of each class.
        known: the published set that this is, or is a part of.
        whole: how many pictures there are where this was drawn from, as far as is known.
    """

    name: str
    pictures: Pictures
    keys: Sequence[str]
    labels: NDArray[Any]
    classes: tuple[tuple[str, ...], ...]
    known: KnownSet | None
    whole: int

    @property
    def multi_label(self) -> bool:
        """Whether a picture may have several classes."""
        return self.labels.ndim == 2

    @property
    def classnames(self) -> list[str]:
        """One name for each class."""
        return [names[0] for names in self.classes]

    @property
    def namesakes(self) -> NDArray[np.int64] | None:
        """[classes], equal where names are, as of two "sunglasses"; None where all differ."""
        distinct, numbers = np.unique(
            [" ".join(names) for names in self.classes], return_inverse=True
        )
        return numbers if len(distinct) < len(self.classes) else None

    def fingerprint(self) -> str:
        """Of keys and labels in their order: equal for two runs that may be compared."""
        digest = hashlib.sha256("\n".join(self.keys).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()[:16]

    def __iter__(self) -> Iterator[Picture]:
        """The pictures in order, each read when its turn comes."""
        return (self.pictures[number] for number in range(len(self.keys)))

    def take(self, numbers: NDArray[np.int64]) -> LabelledSet:
        """Only these pictures, all classes."""
        return replace(
            self,
            pictures=_Some(self.pictures, numbers),
            keys=[self.keys[number] for number in numbers],
            labels=self.labels[numbers],
        )

    def sample(self, count: int, seed: int = 0) -> LabelledSet:
        """At most `count` pictures drawn at random, in their order."""
        drawn = np.random.default_rng(seed).permutation(len(self.keys))[:count]
        return self.take(np.sort(drawn))


@dataclass(frozen=True)
class _Some:
    pictures: Pictures
    numbers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> Picture:
        return self.pictures[int(self.numbers[number])]


def open_set(
    location: str | Path,
    classes: Sequence[str] | None = None,
    known: str | None = None,
    root: Path | None = None,
) -> LabelledSet:
    """Labelled pictures at a path.

    Args:
        location: a folder of class folders; tars (one, a pattern, or a folder of them) with `.json`
            (`label`) or `.cls`; a `.csv`, `.tsv` or `.parquet` table; a `.npz` with images, labels
            and class_names; or the name of a known set, for how to obtain it.
        classes: names for the labels, in order; or all words to choose from, the labels among them.
        known: the published set that this is (`--as`); otherwise recognised by its classes.
        root: where the paths of a table start; by default beside it.

    Raises:
        SetError: nothing is there, it holds no pictures, or labels and classes do not fit.
    """
    path = Path(location)
    if str(location).endswith((".csv", ".tsv", ".parquet")):
        raw = _read_labelled_table(path, root or path.parent)
    elif path.suffix == ".npz":
        raw = _read_npz(path)
    elif tars := find_tars(str(location)):
        raw = _read_tars([Path(tar) for tar in tars])
    elif path.is_dir():
        raw = _read_folders(path)
    elif str(location) in known_sets():
        raise EvaluationError(find_set(str(location)).how_to_obtain("zero-shot"))
    else:
        raise EvaluationError(
            f"{location}: no such set; give a folder of class folders, tars, a .csv, .tsv, "
            ".parquet or .npz file, or a name of: twotower evaluate sets"
        )
    return _name_classes(raw, classes, find_set(known) if known else None)


def _name_classes(raw: _Raw, given: Sequence[str] | None, known: KnownSet | None) -> LabelledSet:
    if not len(raw.keys):
        raise EvaluationError(f"{raw.name}: holds no pictures")
    flat = [one for label in raw.labels for one in (label if isinstance(label, list) else [label])]
    if not flat:
        raise EvaluationError(f"{raw.name}: no picture has a label")
    words = isinstance(flat[0], str)
    found = sorted(set(map(str, flat))) if words else raw.names
    if known is None and given is None and found:
        known = recognise(found, len(raw.keys))
    if given is not None:
        classes, number = _given_classes(raw, found if words else None, flat, given)
    elif known is not None and known.classes:
        classes, number = _known_classes(raw, found, flat, known)
    elif found is None:
        raise EvaluationError(
            f"{raw.name}: its labels are numbers; name them with --classes FILE (a class on each "
            "line, in their order) or --as SET"
        )
    else:
        classes = tuple((name.replace("_", " "),) for name in found)
        number = {name: place for place, name in enumerate(found)}
    if not words and max(map(int, flat)) >= len(classes):
        raise EvaluationError(
            f"{raw.name}: a label is {max(map(int, flat))} but there are {len(classes)} classes"
        )
    labels = _numbers(raw.labels, number if words else None, len(classes))
    whole = known.pictures if known else len(raw.keys)
    return LabelledSet(raw.name, raw.pictures, raw.keys, labels, classes, known, whole)


def _given_classes(
    raw: _Raw, words: list[str] | None, flat: list[Any], given: Sequence[str]
) -> tuple[tuple[tuple[str, ...], ...], dict[str, int]]:
    """Names of a class file: by spelling if every label is among them, else by order."""
    classes = tuple((name.strip(),) for name in given)
    if words is None:
        there = max(map(int, flat)) + 1
        if raw.names:
            there = len(raw.names)
        if there != len(classes):
            raise EvaluationError(
                f"{raw.name}: {len(classes)} classes are given but its labels go to {there}"
            )
        return classes, {}
    place = {plain(name): number for number, name in enumerate(given)}
    if all(plain(word) in place for word in words):
        return classes, {word: place[plain(word)] for word in words}
    if len(words) != len(classes):
        missing = next(word for word in words if plain(word) not in place)
        raise EvaluationError(
            f"{raw.name}: {len(classes)} classes are given for {len(words)} labels, and "
            f"{missing!r} is not among them; give one for each in order, or all of them by name"
        )
    return classes, {word: number for number, word in enumerate(words)}


def _known_classes(
    raw: _Raw, found: list[str] | None, flat: list[Any], known: KnownSet
) -> tuple[tuple[tuple[str, ...], ...], dict[str, int]]:
    """A published set's names: by spelling, or for bare numbers by order."""
    spelled = {plain(names[0]): number for number, names in enumerate(known.classes)}
    folders = {plain(name): number for number, name in enumerate(known.folders)}
    if found is None:  # numbers without names: the published order
        if max(map(int, flat)) >= len(known.classes):
            raise EvaluationError(
                f"{raw.name}: a label is {max(map(int, flat))} but {known.key} has "
                f"{len(known.classes)} classes"
            )
        return known.classes, {}
    for place in (folders, spelled):
        if all(plain(word) in place for word in found):
            if isinstance(flat[0], str):
                return known.classes, {word: place[plain(word)] for word in found}
            return tuple(known.classes[place[plain(word)]] for word in found), {}
    strange = next(word for word in found if plain(word) not in spelled)
    raise EvaluationError(
        f"{raw.name}: {strange!r} is no class of {known.key}; name them with --classes"
    )


def _numbers(
    labels: Sequence[Label], number: dict[str, int] | None, classes: int
) -> NDArray[np.int64] | NDArray[np.bool_]:
    """[n], or [n, classes] where a picture has a list."""

    def one(label: Any) -> int:
        return int(label) if number is None else number[label]

    if not any(isinstance(label, list) for label in labels):
        return np.array([one(label) for label in labels], np.int64)
    matrix = np.zeros((len(labels), classes), np.bool_)
    for row, label in zip(matrix, labels, strict=True):
        row[[one(each) for each in (label if isinstance(label, list) else [label])]] = True
    return matrix
