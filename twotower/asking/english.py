"""Articles, plurals and singulars of English nouns."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

ANSWERS_FILE = Path(__file__).with_name("answers.json")
NUMBERS = ("one", "two", "three", "four", "five")
_SINGULARS = {
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
_SINGULARS_IN_S = ("bus", "gas", "lens", "canvas", "tennis")


@cache
def _uncountable() -> frozenset[str]:
    tree = json.loads(ANSWERS_FILE.read_text(encoding="utf-8"))
    return frozenset(tree["without_article"])


def with_article(noun: str) -> str:
    """Add an article: `dog` -> `a dog`.

    A noun phrase with an article, a plural, and an uncountable noun stay as they are.
    """
    if re.match(r"(a|an|the|some|any|no|my|his|her|their|this|that|in|on|at|with) ", noun):
        return noun
    if noun in _uncountable() or is_plural(noun):
        return noun
    if re.match(r"(one|uni|uku|eu|use)", noun) or not re.match(
        r"[aeiou]|hour", noun, re.IGNORECASE
    ):
        return f"a {noun}"
    return f"an {noun}"


def is_plural(noun: str) -> bool:
    """Return whether the last word of a noun phrase is a plural."""
    word = noun.split()[-1] if noun.split() else ""
    if word in _SINGULARS:
        return _SINGULARS[word] != word
    return bool(re.search(r"[^su]s$", word)) and word not in _SINGULARS_IN_S


def plural(noun: str) -> str:
    """Make the last word of a noun phrase plural: `red bus` -> `red buses`."""
    if is_plural(noun) or noun.split()[-1] in _SINGULARS:
        return noun
    return noun + ("es" if re.search(r"(ch|sh|s|x)$", noun) else "s")


def singular(noun: str) -> str:
    """Make the last word of a noun phrase singular: `red buses` -> `red bus`."""
    *words, word = noun.split()
    if word in _SINGULARS:
        word = _SINGULARS[word]
    elif re.search(r"[^aeiou]ies$", word) and len(word) > 4:
        word = word[:-3] + "y"
    elif re.search(r"(ch|sh|ss|x|us)es$", word):
        word = word[:-2]
    elif is_plural(word):
        word = word[:-1]
    return " ".join([*words, word])
