"""Public sets: their classes, templates and sizes, and the addresses to obtain them from.

Nothing is downloaded. `sets.json` holds the facts, each with its source.
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from twotower.encode.prompts import TEMPLATES
from twotower.errors import EvaluationError

SETS = Path(__file__).parent / "sets.json"


@dataclass(frozen=True)
class PublicSet:
    """A published set.

    Attributes:
        key: its name on the command line.
        pictures: number of pictures in its test split.
        measure: the measure that is published for it: "top1", "mean_per_class", "map" (its classes
            overlap) or "text_to_image".
        obtain: the address where its owners distribute it.
        classes: the names of each class, in the order of its labels; empty for sets of captions.
        folders: names of the classes' folders, if they differ from the class names (ImageNet).
    """

    key: str
    title: str
    pictures: int
    measure: str
    obtain: str
    templates: tuple[str, ...] = ()
    classes: tuple[tuple[str, ...], ...] = ()
    folders: tuple[str, ...] = ()

    def not_shipped(self, command: str) -> EvaluationError:
        """Return the error for a set that was given by name alone, with its address."""
        return EvaluationError(
            self.key,
            f"{self.title}, {self.pictures} test pictures, is not shipped and never downloaded",
            f"get it from {self.obtain} and run: "
            f"twotower evaluate {command} FOLDER --as {self.key}",
        )


@cache
def public_sets() -> dict[str, PublicSet]:
    """Return all public sets by key."""
    trees = json.loads(SETS.read_text(encoding="utf-8"))["sets"]
    return {key: _parse_set(key, tree, trees) for key, tree in trees.items()}


def _parse_set(key: str, tree: dict[str, Any], trees: dict[str, dict[str, Any]]) -> PublicSet:
    fields = {name: value for name, value in tree.items() if name != "classes_of"}
    parent = trees[tree["classes_of"]] if "classes_of" in tree else tree
    classes, folders = parent.get("classes", []), tree.get("folders") or parent.get("folders", [])
    if folders and len(folders) != len(classes):  # a variant with a subset of the classes
        names_of_folders = dict(zip(parent["folders"], classes, strict=True))
        classes = [names_of_folders[folder] for folder in folders]
    templates = tree.get("templates", [])
    fields |= {
        "templates": TEMPLATES[templates] if isinstance(templates, str) else tuple(templates),
        "classes": tuple((names,) if isinstance(names, str) else tuple(names) for names in classes),
        "folders": tuple(folders),
    }
    return PublicSet(key, **fields)


def find_set(key: str) -> PublicSet:
    """Return the public set of that name.

    Raises:
        EvaluationError: the name is unknown; the message suggests the most similar name.
    """
    sets = public_sets()
    if key not in sets:
        similar = difflib.get_close_matches(key, sets, 1)
        remedy = f"did you mean {similar[0]!r}?" if similar else "list them: twotower evaluate sets"
        raise EvaluationError(f"set {key!r}", "no public set of that name", remedy)
    return sets[key]


def recognize_set(names: Iterable[str], pictures: int) -> PublicSet | None:
    """Return the public set with exactly these classes or folders.

    Of several sets with these classes, the one with that number of pictures is returned.
    """
    spellings = set(map(normalize_name, names))
    matches = [
        public_set
        for public_set in public_sets().values()
        if spellings in _spellings(public_set.key)
    ]
    return min(matches, key=lambda match: match.pictures != pictures, default=None)


def set_title(name: str, public_set: PublicSet | None) -> str:
    """Return the published title of a set, or the name of its file or folder."""
    return public_set.title if public_set else Path(name).resolve().name


@cache
def _spellings(key: str) -> tuple[set[str], set[str]]:
    """Return the normalized class names and folder names of a set."""
    public_set = public_sets()[key]
    return (
        {normalize_name(names[0]) for names in public_set.classes},
        {normalize_name(folder) for folder in public_set.folders},
    )


def normalize_name(name: str) -> str:
    """Return a class name in lower case and composed form, its words separated by single spaces.

    "Baby_back-ribs" and "baby back ribs" become equal, and so do folders of macOS (NFD) and others.
    """
    composed = unicodedata.normalize("NFC", name.replace("_", " ").lower())
    return " ".join(re.findall(r"\w+", composed))
