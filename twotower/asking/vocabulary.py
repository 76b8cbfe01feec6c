"""Answers by type, as data (`answers.json`), and the little English that puts them in sentences."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NUMBERS = ("one", "two", "three", "four", "five")
_PLURALS = {
    "people": "person",
    "persons": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "leaves": "leaf",
    "knives": "knife",
    "wolves": "wolf",
    "sheep": "sheep",
    "fish": "fish",
    "deer": "deer",
}


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


@cache
def _without_article() -> frozenset[str]:
    tree = json.loads((Path(__file__).parent / "answers.json").read_text(encoding="utf-8"))
    return frozenset(tree["without_article"])


def with_article(noun: str) -> str:
    """`dog` -> `a dog`; what has an article, is a plural or cannot be counted stays as it is."""
    if re.match(r"(a|an|the|some|any|no|my|his|her|their|this|that|in|on|at|with) ", noun):
        return noun
    if noun in _without_article() or is_plural(noun):
        return noun
    if re.match(r"(one|uni|uku|eu|use)", noun) or not re.match(
        r"[aeiou]|hour", noun, re.IGNORECASE
    ):
        return f"a {noun}"
    return f"an {noun}"


def is_plural(noun: str) -> bool:
    """Whether a noun (phrase) speaks of several."""
    last = noun.split()[-1] if noun.split() else ""
    if last in _PLURALS:
        return _PLURALS[last] != last
    return bool(re.search(r"[^su]s$", last)) and last not in (
        "bus",
        "gas",
        "lens",
        "canvas",
        "tennis",
    )


def plural(noun: str) -> str:
    """The last word of a noun phrase as a plural, if it is none: `red bus` -> `red buses`."""
    if is_plural(noun) or noun.split()[-1] in _PLURALS:
        return noun
    return noun + ("es" if re.search(r"(ch|sh|s|x)$", noun) else "s")


def singular(noun: str) -> str:
    """The last word of a noun phrase without its plural: `red buses` -> `red bus`."""
    *before, last = noun.split()
    if last in _PLURALS:
        last = _PLURALS[last]
    elif re.search(r"[^aeiou]ies$", last) and len(last) > 4:
        last = last[:-3] + "y"
    elif re.search(r"(ch|sh|ss|x|us)es$", last):
        last = last[:-2]
    elif is_plural(last):
        last = last[:-1]
    return " ".join([*before, last])
