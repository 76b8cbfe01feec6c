"""Answers by type, as data (`answers.json`), and the little English that puts them in sentences."""

from __future__ import annotations

import json
import re
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
