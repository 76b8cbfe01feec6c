"""Answer types: colours, places, activities and the words that each allows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from twotower.asking.english import with_article


@dataclass(frozen=True)
class Vocabulary:
    """What is in `answers.json`.

    Attributes:
        types: name of a type -> its answers, each with the phrase that says it in a statement.
        called: what a question may call a type -> its name.
        open: the types that answer a question of no type.
        mistaken: the types whose answers are easily taken for each other.
        scenes: answers that are added to those.
        verbs: a verb -> the type of what is done with it, such as "eating" -> "food".
        contraries: a word -> its opposite, both ways.
    """

    types: dict[str, dict[str, str]]
    called: dict[str, str]
    open: tuple[str, ...]
    mistaken: tuple[str, ...]
    scenes: tuple[str, ...]
    verbs: dict[str, str]
    contraries: dict[str, str]

    def everything(self) -> dict[str, str]:
        """All answers to a question of no type, with their phrases."""
        phrases: dict[str, str] = {}
        for name in self.open:
            phrases.update(self.types[name])
        return phrases | {scene: with_article(scene) for scene in self.scenes}


ADJECTIVES = frozenset(
    ("colour", "weather", "mood", "age", "material", "sport", "activity", "play")
)


@cache
def vocabulary() -> Vocabulary:
    """The shipped vocabulary."""
    tree = json.loads((Path(__file__).parent / "answers.json").read_text(encoding="utf-8"))
    types, called = {}, {}
    for name, entry in tree["types"].items():
        answers = entry["answers"]
        if isinstance(answers, list):
            bare = name in ADJECTIVES
            answers = {one: one if bare else with_article(one) for one in answers}
        types[name] = answers
        called.update(dict.fromkeys([name, *entry["called"]], name))
    contraries: dict[str, str] = {}
    for one, other in tree["contraries"]:
        contraries.setdefault(one, other)
        contraries.setdefault(other, one)
    return Vocabulary(
        types,
        called,
        tuple(tree["open"]),
        tuple(tree["mistaken"]),
        tuple(tree["scenes"]),
        tree["verbs"],
        contraries,
    )
