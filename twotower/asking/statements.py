"""The statement that a yes/no question makes, its opposite, and its rivals."""

from __future__ import annotations

import re

from twotower.asking.answer_types import answer_types
from twotower.asking.english import is_plural, singular, with_article

AUXILIARY = "is|are|was|were|do|does|did|can|could|has|have|had|will|would|should|may|might|must|am"
PICTURE = "picture|photo|photograph|image|scene|pic|shot|snapshot"

# Words that begin a predicate: "the dog | running", "the man | on the roof".
_PREDICATE = re.compile(
    r"(in|on|at|under|behind|near|with|by|beside|between|above|below|over|inside|outside|left|"
    r"right|indoors|outdoors|next|to|from|through|a|an|the|very|made|taken|covered|\w+ing|\{\})$"
)
_DETERMINER = re.compile(r"(the|a|an|this|that|these|those|his|her|their|any|some|my)$")
_TIMES = {"day": "in the daytime", "daytime": "in the daytime", "night": "at night"}
_TO_BE = ("is", "are", "was", "were")
_TO_DO = ("do", "does", "did")
_TO_HAVE = ("has", "have", "had")


def claim(question: str) -> str:
    """Turn a yes/no question, as `normalize_question` returns it, into a statement.

    "is there X" becomes "a photo of X". Otherwise the subject stays before the predicate: "is the
    car red" becomes "the car is red".
    """
    auxiliary, clause = question.split(maxsplit=1)
    clause = re.sub(rf"^(?:this|the|my) (?:{PICTURE})\b(?! of)", "it", clause)
    if match := re.fullmatch(
        r"(?:there|you see|we see|i see|(?:it|this|that) (?:show|contain|have|depict)s?) (.+)",
        clause,
    ):
        return f"a photo of {_noun_phrase(match[1])}."
    if statement := _about_pronoun(auxiliary, clause):
        return statement
    if auxiliary in _TO_BE:
        if re.search(r" (present|visible)$", clause):
            return f"a photo of {clause.rsplit(maxsplit=1)[0]}."
        return f"{_with_verb(clause, auxiliary)}."
    if auxiliary in _TO_DO + _TO_HAVE:
        with_object = re.sub(r"\bhave\b", "with", clause, count=1)
        if with_object != clause:
            return f"a photo of {with_object}."
    if auxiliary == "does" and (
        match := re.fullmatch(r"((?:the|a|this|that) \w+) (\w+)(.*)", clause)
    ):
        return f"{match[1]} {match[2]}s{match[3]}."
    return f"{clause}."


def opposite_of(statement: str) -> str:
    """Replace the last word or words by their opposite; returns "" if none is known."""
    begin = statement.rstrip(".")
    for ending, opposite in answer_types().opposites.items():
        if begin.endswith(f" {ending}"):
            return f"{begin.removesuffix(ending)}{opposite}."
    return ""


def names_thing(statement: str) -> bool:
    """Return whether a statement only names a thing: a photo of a dog, but not of a brown dog."""
    match = re.fullmatch(r"a photo of (?:an? )?(\w+)(?: (?!\w+ing\b)\w+)?\.", statement)
    return match is not None and match[1] not in answer_types().answers["colour"]


def rivals_of(statement: str) -> tuple[str, ...]:
    """Return statements about things easily mistaken for the one named: for a dog, each other
    animal.
    """
    match = re.fullmatch(r"a photo of (?:an? )?(.+)\.", statement)
    if not match:
        return ()
    noun, types = singular(match[1]), answer_types()
    return tuple(
        f"a photo of {phrase}."
        for name in types.confusable
        if noun in types.answers[name]
        for word, phrase in types.answers[name].items()
        if word != noun and word not in types.answers.get(noun, ())  # an owl is a bird, no rival
    )


def _about_pronoun(auxiliary: str, clause: str) -> str | None:
    """Return the statement of a question about "it", "she", "anyone" and the like."""
    if match := re.fullmatch(
        r"(he|she|they|it|this|that) (?!have |show |contain )(\w+)(.*)", clause
    ):
        pronoun, verb, tail = match.groups()
        if auxiliary in _TO_DO and pronoun in ("he", "she", "they"):
            return f"a photo of someone who {verb}s{tail}."
        if auxiliary == "does" and verb in ("look", "seem", "appear"):
            return f"it {verb}s{tail}."
    if match := re.fullmatch(r"(?:this|it|that|they|these|those|he|she) (.+)", clause):
        return _about_picture(auxiliary, match[1])
    if match := re.fullmatch(r"(?:anyone|anybody|someone|somebody) (.+)", clause):
        return f"a photo of someone {match[1]}."
    return None


def _about_picture(auxiliary: str, predicate: str) -> str:
    """`is it a dog` -> "a photo of a dog", `is it raining` -> "it is raining"."""
    if match := re.fullmatch(rf"(?:a |the )?(?:{PICTURE}) of (.+)|of (.+)", predicate):
        return f"a photo of {_noun_phrase(match[1] or match[2])}."
    if re.match(r"(a|an|the|some|my)\b", predicate):
        return f"a photo of {predicate}."
    if re.match(r"(taken|made|shot) ", predicate):
        return f"a photo {predicate}."
    if re.match(r"(in|on|at|during|by|under|near|indoors?|outdoors?|inside|outside)\b", predicate):
        return f"a photo taken {predicate}."
    if predicate in _TIMES:
        return f"a photo taken {_TIMES[predicate]}."
    if auxiliary in (*_TO_DO, "has", "have"):
        return f"a photo with {re.sub(r'^(have|show|contain) ', '', predicate)}."
    return f"a photo of {predicate}." if is_plural(predicate) else f"it is {predicate}."


def _with_verb(clause: str, auxiliary: str) -> str:
    """Insert the verb after the subject: before a word that begins a predicate, or the last."""
    words = clause.split()
    start = 2 if _DETERMINER.match(words[0]) else 1
    starts = (i for i in range(start, len(words)) if _PREDICATE.match(words[i]))
    position = next(starts, max(1, len(words) - 1))
    subject = re.sub(r"^(any|some) ", "", " ".join(words[:position]))
    return f"{subject} {auxiliary} {' '.join(words[position:])}".strip()


def _noun_phrase(noun: str) -> str:
    noun = re.sub(r"^(any|some) ", "", noun)
    return with_article(noun) if len(noun.split()) == 1 else noun
