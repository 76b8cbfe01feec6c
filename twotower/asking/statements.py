"""From a yes/no question to what it claims, as a caption would say it, and to the contrary."""

from __future__ import annotations

import re

from twotower.asking.answer_types import vocabulary
from twotower.asking.english import is_plural, singular, with_article

AUXILIARY = "is|are|was|were|do|does|did|can|could|has|have|had|will|would|should|may|might|must|am"
PICTURE = "picture|photo|photograph|image|scene|pic|shot|snapshot"

# With these begins what is said of a thing: "the dog | running", "the man | on the roof".
_PREDICATE = re.compile(
    r"(in|on|at|under|behind|near|with|by|beside|between|above|below|over|inside|outside|left|"
    r"right|indoors|outdoors|next|to|from|through|a|an|the|very|made|taken|covered|\w+ing|\{\})$"
)
_DETERMINER = re.compile(r"(the|a|an|this|that|these|those|his|her|their|any|some|my)$")
_WHEN = {"day": "in the daytime", "daytime": "in the daytime", "night": "at night"}


def claim(asked: str) -> str:
    """A plain yes/no question as a statement.

    `is there X` claims "a photo of X", and a question about a thing keeps the thing before what
    is said of it: `is the car red` claims "the car is red".
    """
    auxiliary, rest = asked.split(maxsplit=1)
    rest = re.sub(rf"^(?:this|the|my) (?:{PICTURE})\b(?! of)", "it", rest)
    if match := re.fullmatch(
        r"(?:there|you see|we see|i see|(?:it|this|that) (?:show|contain|have|depict)s?) (.+)", rest
    ):
        return f"a photo of {_thing(match[1])}."
    if match := re.fullmatch(r"(he|she|they|it|this|that) (?!have |show |contain )(\w+)(.*)", rest):
        who, verb, tail = match.groups()
        if auxiliary in ("does", "do", "did") and who in ("he", "she", "they"):
            return f"a photo of someone who {verb}s{tail}."
        if auxiliary == "does" and verb in ("look", "seem", "appear"):
            return f"it {verb}s{tail}."
    if match := re.fullmatch(r"(?:this|it|that|they|these|those|he|she) (.+)", rest):
        return _of_picture(auxiliary, match[1])
    if match := re.fullmatch(r"(?:anyone|anybody|someone|somebody) (.+)", rest):
        return f"a photo of someone {match[1]}."
    if auxiliary in ("is", "are", "was", "were") and re.search(r" (present|visible)$", rest):
        return f"a photo of {rest.rsplit(maxsplit=1)[0]}."
    if auxiliary in ("is", "are", "was", "were"):
        return f"{_with_verb(rest, auxiliary)}."
    if auxiliary in ("does", "do", "did", "has", "have", "had"):
        with_something = re.sub(r"\bhave\b", "with", rest, count=1)
        if with_something != rest:
            return f"a photo of {with_something}."
    if auxiliary == "does" and (
        match := re.fullmatch(r"((?:the|a|this|that) \w+) (\w+)(.*)", rest)
    ):
        return f"{match[1]} {match[2]}s{match[3]}."
    return f"{rest}."


def contrary_of(statement: str) -> str:
    """The statement with the opposite of what it ends with; "" where none is known."""
    begin = statement.rstrip(".")
    for ending, opposite in vocabulary().contraries.items():
        if begin.endswith(f" {ending}"):
            return f"{begin.removesuffix(ending)}{opposite}."
    return ""


def rivals_of(statement: str) -> tuple[str, ...]:
    """What could be taken for what the statement names: for a dog, a photo of each other animal."""
    match = re.fullmatch(r"a photo of (?:an? )?(.+)\.", statement)
    if not match:
        return ()
    noun, types = singular(match[1]), vocabulary().types
    return tuple(
        f"a photo of {phrase}."
        for name in vocabulary().mistaken
        if noun in types[name]
        for one, phrase in types[name].items()
        if one != noun and one not in types.get(noun, ())  # an owl is no rival of a bird
    )


def _of_picture(auxiliary: str, predicate: str) -> str:
    """`is it a dog` -> "a photo of a dog", `is it raining` -> "it is raining"."""
    if match := re.fullmatch(rf"(?:a |the )?(?:{PICTURE}) of (.+)|of (.+)", predicate):
        return f"a photo of {_thing(match[1] or match[2])}."
    if re.match(r"(a|an|the|some|my)\b", predicate):
        return f"a photo of {predicate}."
    if re.match(r"(taken|made|shot) ", predicate):
        return f"a photo {predicate}."
    if re.match(r"(in|on|at|during|by|under|near|indoors?|outdoors?|inside|outside)\b", predicate):
        return f"a photo taken {predicate}."
    if predicate in _WHEN:
        return f"a photo taken {_WHEN[predicate]}."
    if auxiliary in ("does", "do", "did", "has", "have"):
        return f"a photo with {re.sub(r'^(have|show|contain) ', '', predicate)}."
    return f"a photo of {predicate}." if is_plural(predicate) else f"it is {predicate}."


def _with_verb(rest: str, auxiliary: str) -> str:
    """Put the verb behind its subject: before what can begin what is said of it, or the end."""
    words = rest.split()
    first = 2 if _DETERMINER.match(words[0]) else 1
    begins = (i for i in range(first, len(words)) if _PREDICATE.match(words[i]))
    place = next(begins, max(1, len(words) - 1))
    subject = re.sub(r"^(any|some) ", "", " ".join(words[:place]))
    return f"{subject} {auxiliary} {' '.join(words[place:])}".strip()


def _thing(noun: str) -> str:
    noun = re.sub(r"^(any|some) ", "", noun)
    return with_article(noun) if len(noun.split()) == 1 else noun
