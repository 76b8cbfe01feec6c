"""A question to what it asks for: its kind, and the statement that each answer would make of it.

"What colour is the car?" is taken for a question of the kind "colour", and its answers make
statements "a {} car", which a model of pictures and words can judge (Song et al. 2022, TAP-C). The
rules are few, tried in order, and each is a function with the forms that it takes in its docstring.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from twotower.asking.answer_types import vocabulary
from twotower.asking.english import NUMBERS, is_plural, plural, singular, with_article
from twotower.asking.statements import AUXILIARY, PICTURE, claim, contrary_of, rivals_of
from twotower.errors import QuestionError

INTERROGATIVE = "what|which|who|whose|whom|where|when|why|how"
LONGEST = 500  # characters; more is no question

PRONOUN = "this|it|that|they|these|those|there|he|she|you|we"
SMALL_WORDS = frozenset("a an the in on at with by during near under".split())
# Answers about how a picture was taken, which stand in a statement as phrases.
TAKEN = {
    "day": "in the daytime",
    "indoors": "indoors",
    "outdoors": "outdoors",
    "inside": "indoors",
    "outside": "outdoors",
    **vocabulary().types["time of day"],
    **vocabulary().types["season"],
}

COUNTING = "counting is weak: such models hardly tell two from four"
DOING = "what is done is weak: such models name things better than what happens to them"
READING = "such models read no text and know no names, dates or clock times"
RELATIONS = "relations between things are weak: such models see the things, not who is where"
NEGATION = "asked as its contrary: such models do not understand negation"
INNER_NEGATION = "such models do not understand a negation inside a statement"
WHO = "it never says who somebody is, only what kind of person"
ONE_OF = "it is always one of those named; ask of each whether it is there"
OPEN = "taken for a question of no known type; answered from all everyday words"
_RELATION = re.compile(
    r"\b(left|right|behind|front of|under|underneath|beneath|(?<!from )above|below|beside|next to|"
    r"near|nearer|nearest|between|on top of|facing|more than|fewer than|"
    r"(?:clos|bigg|small|larg|tall|short|long|high|low|fast|heavi|old|young)(?:er|est)|"
    r"farther|farthest|further|furthest)\b"
)
_TO_READ = re.compile(
    r"\b(says?|spells?|written|names?|named)\b|^who (is|are|was|were) \w+$|"
    r"^(what|which) ((is|are|was) )?(the )?(texts?|words?|letters?|city|town|country|brand|title|"
    r"price|year|date|hour|day|(time|numbers?)(?! of))\b"
)

NONE_OR_ALL = "neither|none|nothing|both|all"  # at the end of a choice: no statement

# What a question begins with that is no part of its options.
_BEGIN = re.compile(rf"(?:(?:{AUXILIARY})\b ?)?(?:(?:{PRONOUN})\b ?)?(?:(?:show|contain)s? ?)?")


@dataclass(frozen=True)
class Question:
    """What a question asks for.

    Attributes:
        kind: "yes/no", "choice", "count", or a type of answers, such as "colour" or "place", or
            "open" for a question of no type, or "reason" for what no statement can answer.
        statement: what is claimed of the picture; the place of the answer, if it has one, is {}.
        answers: each answer with the phrase that stands for it in the statement.
        contrary: of a yes/no question, the opposite statement, where words for it are known.
        rivals: of a yes/no question, what its thing is easily taken for, as statements.
        negated: whether a yes/no question denies: its "yes" says that the statement is wrong.
        noun: of a count, what is counted.
        notes: what a reader of the answer should know.
        weak: whether such models are known to be bad at it, so that no answer is sure.
        text: as it was typed.
    """

    kind: str
    statement: str
    answers: Mapping[str, str] = field(default_factory=dict)
    contrary: str = ""
    rivals: tuple[str, ...] = ()
    negated: bool = False
    noun: str = ""
    notes: tuple[str, ...] = ()
    weak: bool = False
    text: str = ""

    def statements(self) -> list[str]:
        """The statement of each answer."""
        return [self.statement.replace("{}", phrase) for phrase in self.answers.values()]


def parse_question(text: str, answers: Sequence[str] = ()) -> Question:
    """Understand a question.

    Args:
        answers: those among which to choose, whatever the question's type.

    Raises:
        QuestionError: it is no question.
    """
    said = plain(text)
    question = None
    for rule in _RULES:
        question = rule(said)
        if question:
            break
    begins = re.match(rf"({AUXILIARY}|{INTERROGATIVE}|or|and)\b", said)
    if question is None and text.strip().endswith("?") and not answers and not begins:
        statement = f"a photo of {with_article(said)}."
        question = Question("yes/no", statement, rivals=rivals_of(statement))
    if question is None and not answers:
        raise QuestionError(
            f'{text.strip()[:80]!r} is no question; ask, for example, "is there a dog?" or '
            '"what colour is the car?"'
        )
    question = question or Question("choice", f"{said}: {{}}.")
    if answers:
        question = _among(question, answers)
    for asked, note in ((_RELATION, RELATIONS), (_TO_READ, READING)):
        if asked.search(said):
            question = replace(question, notes=(*question.notes, note), weak=True)
    return replace(question, text=text.strip())


def plain(text: str) -> str:
    """Lower case, British spelling of colour and grey, contractions written out, no frame.

    The frame is what only says that a picture is meant: "in this picture", "can you tell me".

    Raises:
        QuestionError: no words, or far too many.
    """
    if len(text) > LONGEST:
        raise QuestionError(f"{text[:40]!r}... is longer than {LONGEST} characters; ask one thing")
    said = text.strip().lower().replace("’", "'")
    said = re.sub(r"\bcolor", "colour", said)
    said = re.sub(r"\bgray\b", "grey", said)
    said = re.sub(rf"\b({INTERROGATIVE}|there|it|that|he|she)'s\b", r"\1 is", said)
    said = re.sub(r"\b(they|what|you|we)'re\b", r"\1 are", said)
    said = re.sub(r"[^\w\s',/-]", " ", said.replace(":", ","))
    said = " ".join(said.split()).strip(" ,")
    said = re.sub(r"^(hey|hi|hello|please|well|so|and|now|ok|okay),? ", "", said)
    said = re.sub(
        rf"^(can|could|would) you (please )?(tell|show) me (?=if |whether |{INTERROGATIVE})",
        "",
        said,
    )
    said = re.sub(rf"^(please )?(tell me|do you know|i wonder),? (?=if |{INTERROGATIVE})", "", said)
    said = re.sub(rf"^in (this|the) ({PICTURE}),? ", "", said)
    said = re.sub(
        rf"(?<=\w) (shown |visible |seen |depicted |present )?(in|on|within) (this|the|my|that) "
        rf"({PICTURE})$",
        "",
        said,
    )
    said = re.sub(r"(?<=\w),? (please|here)$", "", said)
    if not re.search(r"[^\W\d_]", said):
        raise QuestionError(
            f'{text.strip()[:40]!r} is no question; write one, such as "is there a dog?"'
        )
    return said


def _typed(name: str, statement: str, *notes: str) -> Question:
    return Question(name, statement, vocabulary().types[name], notes=notes)


def _among(question: Question, answers: Sequence[str]) -> Question:
    """The question with a person's own answers instead of the vocabulary's."""
    known = question.answers
    phrases = {}
    for answer in answers:
        answer = " ".join(answer.split())
        if not answer or answer in phrases:
            raise QuestionError(f"{answer!r} among the answers is empty or given twice")
        bare = any(phrase == word for word, phrase in known.items())
        phrases[answer] = known.get(answer) or (answer if bare else with_article(answer))
    if len(phrases) < 2:
        raise QuestionError("a choice needs two answers at least; write --answers red,blue")
    statement = question.statement
    if question.kind in ("yes/no", "reason", "choice") and "{}" not in statement:
        statement = f"{statement.rstrip('.')}, {{}}."
    return replace(question, kind="choice", statement=statement, answers=phrases)


# --- the rules: each takes a plain question and gives None if it is not of its forms ------------


def _choice(said: str) -> Question | None:
    """`is it a cat or a dog`, `is the car red, blue or green`, `cat or dog`.

    What the options have in common stands before the first one, which begins with the same small
    word as the last, or else has as many words, but is not the verb or a pronoun.
    """
    if named := re.fullmatch(rf"(.+?),? or (?:{NONE_OR_ALL})", said):
        first, comma, last = named[1].rpartition(", ")
        question = _choice(f"{first} or {last}" if comma else named[1])
        return replace(question, notes=(ONE_OF,), weak=True) if question else None
    match = re.fullmatch(rf"(?:(?:{INTERROGATIVE}) .*?, )?(.+?),? or (.+)", said)
    if not match or re.fullmatch(r"not|no", match[2]) or said.startswith("how many"):
        return None
    first, *middle = [one.strip() for one in match[1].split(",")]
    last = match[2]
    words, small = first.split(), last.split()[0]
    least = len(_BEGIN.match(first)[0].split())  # type: ignore[index]
    if small in words[least:] and small in SMALL_WORDS:
        start = len(words) - 1 - words[::-1].index(small)
    elif small in ("a", "an") and {"a", "an"} & set(words[least:]):
        start = max(i for i, word in enumerate(words) if word in ("a", "an"))
    else:
        start = max(len(words) - len(last.split()), min(least, len(words) - 1))
    if start and words[start - 1] in ("a", "an") and re.match(r"(a|an) ", (*middle, last)[0]):
        start -= 1  # the article belongs to the option, as that of the next one does
    begin = " ".join(words[:start])
    options = [" ".join(words[start:]), *middle, last]
    if _BEGIN.fullmatch(begin):
        return _choose_among(options)
    answers = {_shorn(one): one for one in options}
    return Question("choice", claim(f"{begin} {{}}"), answers) if len(answers) > 1 else None


def _choose_among(options: Sequence[str]) -> Question | None:
    """Options that are of the picture itself, put as the type to which they all belong is put."""
    names = [_shorn(one) for one in options]
    if len(set(names)) < 2:
        return None
    if all(name in TAKEN for name in names):
        return Question("choice", "a photo taken {}.", {name: TAKEN[name] for name in names})
    for kind, known in vocabulary().types.items():
        if all(name in known for name in names):
            return Question("choice", _of_kind(kind, ""), {name: known[name] for name in names})
    if all(name.split()[0].endswith("ing") for name in names):
        return Question("choice", "a photo of someone {}.", {name: name for name in names})
    phrases = {name: with_article(one) for name, one in zip(names, options, strict=True)}
    return Question("choice", "a photo of {}.", phrases)


def _shorn(option: str) -> str:
    return re.sub(r"^(a|an|the) ", "", option)


def _count(said: str) -> Question | None:
    """`how many dogs are there`, `how many wheels does the car have`, `count the dogs`."""
    match = re.fullmatch(
        r"(?:how many|(?:what is )?the number of|what number of|count(?: the| all)*) (.+)", said
    )
    if not match:
        return None
    rest = match[1]
    parts = re.match(rf"(.+?) (?:{AUXILIARY}) ?\b(.*)", rest)
    noun, tail = (parts[1], parts[2]) if parts else (rest, "")
    noun = re.sub(r"^(of )?(the|these|those) ", "", noun)
    tail = re.sub(
        r"^(there|you see|we see|i see|be seen|you count|be counted|visible|shown)\b ?", "", tail
    )
    have = re.fullmatch(r"((?:the|a|this|that|his|her|it|he|she|they)\b.*) (have|has)", tail)
    inside = re.fullmatch(r"((?:the|a|this|that)\b.*) (\w+ing)", tail)
    if have:
        statement = f"{have[1]} has {{}}."
    elif inside:
        statement = f"{inside[1]} is {inside[2]} {{}}."
    else:
        statement = f"a photo of {{}} {tail}".strip() + "."
    answers = {
        str(number): f"{word} {singular(noun) if number == 1 else plural(noun)}"
        for number, word in enumerate(NUMBERS, 1)
    }
    noun = f"{noun} {tail}".strip()
    return Question("count", statement, answers, noun=noun, notes=(COUNTING,), weak=True)


def _colour(said: str) -> Question | None:
    """`what colour is the car`, `what is the colour of it`, `what colour shirt is he wearing`."""
    if match := re.fullmatch(
        r"(?:what|which)(?: is| are)? (?:the )?(?:main )?colours? (?:is|are|was|were|of|has) (.+)",
        said,
    ):
        return _typed("colour", _coloured(match[1]))
    if match := re.fullmatch(r"(?:what|which) colour (\w+) (?:is|are) (?:it|this|that|they)", said):
        return _typed("colour", _coloured(f"the {match[1]}"))
    if match := re.fullmatch(r"(?:what|which) colour (the .+) is", said):
        return _typed("colour", _coloured(match[1]))
    if match := re.fullmatch(
        r"(?:what|which) colours? (?:of )?(.+?) (?:is|are|does|do) (.+?) (\w+)", said
    ):
        noun, who, verb = match.groups()
        verb = f"is {verb}" if verb.endswith("ing") else {"have": "has"}.get(verb, verb + "s")
        return _typed("colour", f"{who} {verb} {with_article('{} ' + noun)}.")
    if match := re.fullmatch(r"(?:what|which) colours? (?:does|do) (.+?) have", said):
        return _typed("colour", _coloured(match[1]))
    if re.fullmatch(
        r"(?:what|which) (?:is the )?colours?(?: (?:is|are) (?:it|this|that|they))?", said
    ):
        return _typed("colour", "a photo of something {}.")
    return None


def _coloured(thing: str) -> str:
    """`the car` -> `a {} car.`; what is longer stays a sentence."""
    if re.fullmatch(r"it|this|that|they|these|those|the (picture|photo|image)", thing):
        return "a photo of something {}."
    match = re.fullmatch(r"(?:the|this|that|a|an|these|those|his|her) (\w+(?: \w+)?)", thing)
    if match and not re.search(r"\b(of|in|on|at|is|with|that)\b", match[1]):
        noun = match[1]
        return f"a photo of {{}} {noun}." if is_plural(noun) else f"a photo of a {{}} {noun}."
    return f"{thing} is {{}}."


def _time(said: str) -> Question | None:
    """`what time of day is it`, `when was this taken`, `what season is it`, `how is the weather`"""
    if re.search(r"\bweather\b", said) and re.match(rf"(?:{INTERROGATIVE})", said):
        return _typed("weather", "a photo taken in {} weather.")
    if re.search(r"\bseason\b", said) and re.match(r"what|which", said):
        return _typed("season", "a photo taken {}.")
    if re.match(r"(what|which) (time|part|hour)\b", said) or re.match(
        rf"when (was|were|is|did) (this|it|the ({PICTURE})|that)", said
    ):
        return _typed("time of day", "a photo taken {}.")
    return None


def _where(said: str) -> Question | None:
    """`where is this`, `where was the photo taken`, `where is the dog`, `where are they`."""
    match = re.fullmatch(r"where(?: (?:is|are|was|were|did|does|do|has) ?(.*))?", said)
    if not match:
        return None
    thing = re.sub(r" (taken|made|shot|located|found|standing|sitting)$", "", match[1] or "this")
    if re.fullmatch(rf"this|it|that|they|we|you|(?:this|the|my) (?:{PICTURE})", thing):
        return _typed("place", "a photo taken {}.")
    return _typed("place", f"{thing} {{}}.")


def _kind_of(said: str) -> Question | None:
    """`what animal is this`, `what kind of fruit is on the table`, `what is the man's job`.

    What a type is called decides which answers are possible.
    """
    called = vocabulary().called
    match = re.fullmatch(
        r"(?:what|which)(?: (?:is|are) the)? (?:(?:kind|sort|type|breed|species)s? of )?"
        rf"(.+?)(?: (?:{AUXILIARY})\b ?(.*)| ((?:of|in|on|at) .+))?",
        said,
    )
    if not match:
        return None
    name = re.sub(r"^.*'s ", "", match[1])
    kind = called.get(name) or called.get(singular(name))
    return _typed(kind, _of_kind(kind, match[2] or match[3] or "")) if kind else None


def _of_kind(kind: str, tail: str) -> str:
    """The statement for a typed answer; `tail` is what follows the verb of the question."""
    framed = {
        "place": "a photo taken {}.",
        "room": "a photo taken {}.",
        "season": "a photo taken {}.",
        "time of day": "a photo taken {}.",
        "weather": "a photo taken in {} weather.",
        "colour": "a photo of something {}.",
        "activity": "a photo of someone {}.",
        "sport": "a photo of {}.",
        "mood": "a photo of someone who looks {}.",
        "age": "a photo of a person who is a {}.",
        "material": "a photo of something made of {}.",
        "picture": "{}.",
    }
    if kind in framed:
        return framed[kind]
    if match := re.fullmatch(
        r"((?:the|a|an)\b.*?|he|she|they|people) (\w+ing)(?: with| on)?", tail
    ):
        return f"{match[1]} is {match[2]} {{}}."
    tail = re.sub(rf"^({PRONOUN}|shown|(the|this) ({PICTURE}))\b ?", "", tail)
    tail = re.sub(r"^((you|we) )?(see|have|show|contain|be seen|seen)$", "", tail)
    if re.fullmatch(r"(the|this|that|these|those) \w+", tail):
        return f"{tail} is {{}}."
    return f"a photo of {{}} {tail}".strip() + "."


def _who(said: str) -> Question | None:
    """`who is this`, `who is riding the horse`, `who wears a hat`."""
    match = re.fullmatch(r"who (?:(?:is|are|was|were) )?(.+)", said)
    if not match:
        return None
    tail = re.sub(rf"^(this|it|that|there|they|in (the|this) ({PICTURE}))\b ?", "", match[1])
    return _typed("person", f"a photo of {{}} {tail}".strip() + ".", WHO)


def _doing(said: str) -> Question | None:
    """`what is the man doing`, `what are they doing`, `what is happening`."""
    if match := re.fullmatch(r"what (?:is|are|was|were) (.+?) doing\b.*", said):
        who = "someone" if re.fullmatch(r"he|she|it|they|this|that", match[1]) else match[1]
        return _typed("activity", f"{who} {{}}.", DOING)
    if re.fullmatch(r"what (?:is|was) (?:happening|going on|being done)\b.*", said):
        return _typed("activity", "a photo of someone {}.", DOING)
    return None


def _object_of(said: str) -> Question | None:
    """`what is the man holding`, `what does she wear`, `what is the dog playing with`."""
    match = re.fullmatch(r"what (?:is|are|was|were) (.+?) (\w+ing)( \w+)?", said)
    if match and match[1] != "there":
        who, verb, particle = match.groups()
        statement = f"{who} is {verb}{particle or ''} {{}}."
    elif match := re.fullmatch(r"what (?:does|do|did) (.+?) (\w+)", said):
        who, verb = match.groups()
        if re.fullmatch(rf"(this|the|my)? ?({PICTURE})|you|we|i|it", who):
            return None
        statement = f"{who} {'has' if verb == 'have' else verb + 's'} {{}}."
        stem = verb[:-1] if verb.endswith("e") else verb
        verb = f"{stem}ing"
    else:
        return None
    kind = vocabulary().verbs.get(verb)
    return _typed(kind, statement) if kind else _open(statement)


def _what(said: str) -> Question | None:
    """`what is this`, `what do you see`, `what is on the table`, `what does the picture show`."""
    if re.fullmatch(
        r"what (is|are|was) (this|that|it|these|those|there|shown|visible|they)"
        r"( a (picture|photo|image) of)?"
        rf"|what (does|do|did) (it|this|the ({PICTURE})|this ({PICTURE})) (show|contain|depict)"
        r"|what (can|do|could) (you|we|i) see|what can be seen"
        r"|what (is|are) (shown|the (subject|object|thing))"
        r"|what objects? (is|are) (this|there|in it)",
        said,
    ):
        return _open("a photo of {}.", noted=False)
    if match := re.fullmatch(
        r"what (?:is|are|was|were) ((?:on|in|under|near|behind|at|next) .+)", said
    ):
        return _open(f"a photo of {{}} {match[1]}.", noted=False)
    if match := re.fullmatch(r"what (?:is|are) the (\w+) (?:shape|thing|object)", said):
        kind = "shape" if said.endswith("shape") else None
        return _typed(kind, f"a {match[1]} {{}}.") if kind else _open(f"a {match[1]} {{}}.")
    return None


def _yes_no(said: str) -> Question | None:
    """`is there a dog`, `is the car red`, `does the man wear a hat`, `is it not raining`.

    "Isn't it red?" expects a yes where it is red, so only a "not" by itself is a denial.
    """
    asked = re.sub(r"^(if|whether) ", "is ", said)
    asked = re.sub(r"^(\w+)n't\b", _without_not, asked)
    asked = re.sub(rf",? or (not|no|{NONE_OR_ALL})$", "", asked)
    if not re.match(rf"({AUXILIARY}) (?!({PRONOUN})$)\w", asked):
        return None
    denial = re.search(r"\b(not|never|no one|nobody|nothing|no|without)\b", asked)
    inner = denial and re.match(_STATED, asked[: denial.start()])
    if denial and not inner:
        instead = {"without": "with", "nobody": "somebody", "no one": "somebody"}
        instead["nothing"] = "something"
        asked = asked[: denial.start()] + instead.get(denial[0], "") + asked[denial.end() :]
        asked = " ".join(asked.split())
    statement = claim(asked)
    contrary, rivals = contrary_of(statement), rivals_of(statement)
    question = Question("yes/no", statement, {}, contrary, rivals)
    if inner:
        return replace(question, notes=(INNER_NEGATION,), weak=True)
    return replace(question, negated=True, notes=(NEGATION,)) if denial else question


# what is before a denial that is of something in the statement, not of the statement
_STATED = r"(is|are|was|were) there (an?|any|some|the|\w+s)\b|.*\b(that|which|who)\b"


def _without_not(match: re.Match[str]) -> str:
    return {"can't": "can", "won't": "will"}.get(match[0], match[0].removesuffix("n't"))


def _other(said: str) -> Question | None:
    """Every other question word: reasons and manners cannot be answered, the rest is open."""
    if re.match(r"how old\b", said):
        return _typed("age", "a photo of a person who is a {}.")
    if re.match(r"(why|how|whose|when|whom)\b", said):
        return Question("reason", "")
    if match := re.fullmatch(r"(?:what|which) (.+)", said):
        rest = re.sub(rf"\b(?:{AUXILIARY})\b ?", "", match[1]).strip()
        return _open(f"a photo of {{}}, {rest}." if rest else "a photo of {}.")
    return None


def _open(statement: str, noted: bool = True) -> Question:
    notes = (OPEN,) if noted else ()
    kind = "open" if noted else "object"
    return Question(kind, statement, vocabulary().everything(), notes=notes)


_RULES: tuple[Callable[[str], Question | None], ...] = (
    _choice,
    _count,
    _colour,
    _time,
    _where,
    _doing,
    _kind_of,
    _who,
    _what,
    _object_of,
    _yes_no,
    _other,
)
