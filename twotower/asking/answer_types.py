"""Types of answers, such as colours, places and activities, and the words of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from twotower.asking.english import ANSWERS_FILE, with_article

# Types whose answers stand in a statement without an article.
ADJECTIVES = frozenset(
    ("colour", "weather", "mood", "age", "material", "sport", "activity", "play")
)


@dataclass(frozen=True)
class AnswerTypes:
    """The contents of `answers.json`.

    Attributes:
        answers: type -> answer -> the phrase for it in a statement.
        names: a word for a type in questions -> the type.
        general: types whose answers suit a question of no type.
        confusable: types whose answers are easily mistaken for each other.
        scenes: further answers to a question of no type.
        verbs: a verb -> the type of its object, such as "eating" -> "food".
        opposites: a word -> its opposite, in both directions.
    """

    answers: dict[str, dict[str, str]]
    names: dict[str, str]
    general: tuple[str, ...]
    confusable: tuple[str, ...]
    scenes: tuple[str, ...]
    verbs: dict[str, str]
    opposites: dict[str, str]

    def general_answers(self) -> dict[str, str]:
        """Return the answers to a question of no type, with their phrases."""
        phrases: dict[str, str] = {}
        for name in self.general:
            phrases.update(self.answers[name])
        return phrases | {scene: with_article(scene) for scene in self.scenes}


@cache
def answer_types() -> AnswerTypes:
    """Read the shipped types."""
    tree = json.loads(ANSWERS_FILE.read_text(encoding="utf-8"))
    answers_by_type, names = {}, {}
    for name, entry in tree["types"].items():
        answers = entry["answers"]
        if isinstance(answers, list):
            bare = name in ADJECTIVES
            answers = {word: word if bare else with_article(word) for word in answers}
        answers_by_type[name] = answers
        names.update(dict.fromkeys([name, *entry["called"]], name))
    opposites: dict[str, str] = {}
    for word, opposite in tree["contraries"]:
        opposites.setdefault(word, opposite)
        opposites.setdefault(opposite, word)
    return AnswerTypes(
        answers_by_type,
        names,
        tuple(tree["open"]),
        tuple(tree["mistaken"]),
        tuple(tree["scenes"]),
        tree["verbs"],
        opposites,
    )
