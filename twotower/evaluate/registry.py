"""Sets that are known by name: their classes, templates and size, and where to obtain them.

Nothing is ever downloaded from here; `sets.json` holds facts, each with its source.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from twotower.encode.prompts import TEMPLATES
from twotower.errors import EvaluationError

SETS = Path(__file__).parent / "sets.json"


@dataclass(frozen=True)
class KnownSet:
    """A published set.

    Attributes:
        key: its name on the command line. pictures: how many its test split has.
        measure: the one that is published for it: "top1", "mean_per_class", "map" (its classes
            overlap) or "text_to_image".
        obtain: where its owners give it away.
        classes: the names of each class, in the order of its labels; none for captions.
        folders: what the classes' folders are called, where that is not their name (ImageNet).
    """

    key: str
    title: str
    pictures: int
    measure: str
    obtain: str
    templates: tuple[str, ...] = ()
    classes: tuple[tuple[str, ...], ...] = ()
    folders: tuple[str, ...] = ()

    def how_to_obtain(self, command: str) -> str:
        """One line for a person who has only the name."""
        return (
            f"{self.key}: {self.title}, {self.pictures} test pictures, is not shipped and never "
            f"downloaded; get it from {self.obtain} and run: "
            f"twotower evaluate {command} FOLDER --as {self.key}"
        )


@cache
def known_sets() -> dict[str, KnownSet]:
    """All known sets by name."""
    trees = json.loads(SETS.read_text(encoding="utf-8"))["sets"]
    sets = {}
    for key, tree in trees.items():
        whole = trees[tree.pop("classes_of")] if "classes_of" in tree else tree
        classes, folders = whole.get("classes", []), tree.get("folders") or whole.get("folders", [])
        if len(folders) != len(classes) and folders:  # a variant with some of the classes
            name = dict(zip(whole["folders"], classes, strict=True))
            classes = [name[folder] for folder in folders]
        named = tree.pop("templates", [])
        templates = TEMPLATES[named] if isinstance(named, str) else tuple(named)
        tree |= {
            "templates": templates,
            "classes": tuple((one,) if isinstance(one, str) else tuple(one) for one in classes),
            "folders": tuple(folders),
        }
        sets[key] = KnownSet(key, **tree)
    return sets


def find_set(key: str) -> KnownSet:
    """The known set of that name.

    Raises:
        UnknownSetError: with the nearest name.
    """
    sets = known_sets()
    if key not in sets:
        close = difflib.get_close_matches(key, sets, 1)
        meant = f"did you mean {close[0]!r}?" if close else "list them: twotower evaluate sets"
        raise EvaluationError(f"no known set {key!r}; {meant}")
    return sets[key]


def recognise(names: Iterable[str], pictures: int) -> KnownSet | None:
    """The known set with exactly these classes (names or folders); of several, by its size."""
    wanted = set(map(plain, names))
    alike = [one for one in known_sets().values() if wanted in _spellings(one.key)]
    return min(alike, key=lambda one: one.pictures != pictures, default=None)


def set_title(name: str, known: KnownSet | None) -> str:
    """What a set is called: as it was published, or as its file or folder is."""
    return known.title if known else Path(name).resolve().name


@cache
def _spellings(key: str) -> tuple[set[str], set[str]]:
    known = known_sets()[key]
    return {plain(names[0]) for names in known.classes}, {plain(name) for name in known.folders}


def plain(name: str) -> str:
    """A class name without what spelling adds: "Baby_back-ribs" and "baby back ribs" are one."""
    return " ".join(re.findall(r"\w+", name.replace("_", " ").lower()))
