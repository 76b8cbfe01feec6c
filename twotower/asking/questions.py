"""Parse a question: its kind, and the statement that each possible answer makes.

"What colour is the car?" has the kind "colour", and its answers make the statements "a {} car",
which a model of pictures and words can score (Song et al. 2022, TAP-C). Rules are tried in order;
each is a function whose docstring has examples of the questions it accepts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from twotower.asking.answer_types import answer_types
from twotower.asking.english import NUMBERS, is_plural, plural, singular, with_article
from twotower.asking.statements import AUXILIARY, PICTURE, claim, opposite_of, rivals_of
from twotower.errors import QuestionError

INTERROGATIVE = "what|which|who|whose|whom|where|when|why|how"
MAX_LENGTH = 500  # characters of a question

PRONOUN = "this|it|that|they|these|those|there|he|she|you|we"
SMALL_WORDS = frozenset("a an the in on at with by during near under".split())
# Answers to when and where a picture was taken, as phrases in a statement.
TAKEN = {
    "day": "in the daytime",
    "indoors": "indoors",
    "outdoors": "outdoors",
    "inside": "indoors",
    "outside": "outdoors",
    **answer_types().answers["time of day"],
    **answer_types().answers["season"],
}

# Notes for readers of an answer.
COUNTING = "counting is weak: such models hardly tell two from four"
DOING = "what is done is weak: such models name things better than what happens to them"
READING = "such models read no text and know no names, dates or clock times"
RELATIONS = "relations between things are weak: such models see the things, not who is where"
NEGATION = "asked as its contrary: such models do not understand negation"
INNER_NEGATION = "such models do not understand a negation inside a statement"
IDENTITY = "it never says who somebody is, only what kind of person"
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

NONE_OR_ALL = "neither|none|nothing|both|all"  # as the last option of a choice: no statement

# The beginning of a choice that does not belong to its options.
_BEGIN = re.compile(rf"(?:(?:{AUXILIARY})\b ?)?(?:(?:{PRONOUN})\b ?)?(?:(?:show|contain)s? ?)?")


@dataclass(frozen=True)
class Question:
    """A parsed question.

    Attributes:
        kind: "yes/no", "choice", "count", a type of answers such as "colour" or "place", "object"
            or "open" for a question of no type, or "reason" for one that no statement answers.
        statement: a statement about the picture; {} stands for the answer.
        answers: each answer with its phrase in the statement.
        opposite: of a yes/no question, the opposite statement; "" if none is known.
        rivals: of a yes/no question, statements about things easily mistaken for the one named.
        negated: True if "yes" to a yes/no question means that the statement is false.
        noun: of a count, the things that are counted.
        notes: known weaknesses that affect the answer.
        weak: True if models of pictures and words are known to fail here, so no answer is sure.
        text: the question as it was typed.
    """

    kind: str
    statement: str
    answers: Mapping[str, str] = field(default_factory=dict)
    opposite: str = ""
    rivals: tuple[str, ...] = ()
    negated: bool = False
    noun: str = ""
    notes: tuple[str, ...] = ()
    weak: bool = False
    text: str = ""

    def statements(self) -> list[str]:
        """Return the statement of each answer."""
        return [self.statement.replace("{}", phrase) for phrase in self.answers.values()]


def parse_question(text: str, answers: Sequence[str] = ()) -> Question:
    """Parse a question.

    Args:
        answers: the answers to choose from, in place of those of the question's type.

    Raises:
        QuestionError: the text is not a question, or `answers` cannot be used.
    """
    words = normalize_question(text)
    question = next(filter(None, (rule(words) for rule in _RULES)), None)
    is_noun = not re.match(rf"({AUXILIARY}|{INTERROGATIVE}|or|and)\b", words)
    if question is None and text.strip().endswith("?") and not answers and is_noun:
        statement = f"a photo of {with_article(words)}."
        question = Question("yes/no", statement, rivals=rivals_of(statement))
    if question is None and not answers:
        raise QuestionError(
            repr(text.strip()[:80]),
            "not a question",
            'ask, for example, "is there a dog?" or "what colour is the car?"',
        )
    question = question or Question("choice", f"{words}: {{}}.")
    if answers:
        question = _with_answers(question, answers)
    for pattern, note in ((_RELATION, RELATIONS), (_TO_READ, READING)):
        if pattern.search(words):
            question = replace(question, notes=(*question.notes, note), weak=True)
    return replace(question, text=text.strip())


def normalize_question(text: str) -> str:
    """Normalise a question: lower case, contractions written out, "colour" and "grey", no frame.

    The frame are words without content of their own: "in this picture", "can you tell me".

    Raises:
        QuestionError: the text has no words, or is too long.
    """
    if len(text) > MAX_LENGTH:
        raise QuestionError(
            f"{text[:40]!r}...", f"longer than {MAX_LENGTH} characters", "ask a single question"
        )
    words = text.strip().lower().replace("’", "'")
    words = re.sub(r"\bcolor", "colour", words)
    words = re.sub(r"\bgray\b", "grey", words)
    words = re.sub(rf"\b({INTERROGATIVE}|there|it|that|he|she)'s\b", r"\1 is", words)
    words = re.sub(r"\b(they|what|you|we)'re\b", r"\1 are", words)
    words = re.sub(r"[^\w\s',/-]", " ", words.replace(":", ","))
    words = " ".join(words.split()).strip(" ,")
    words = re.sub(r"^(hey|hi|hello|please|well|so|and|now|ok|okay),? ", "", words)
    words = re.sub(
        rf"^(can|could|would) you (please )?(tell|show) me (?=if |whether |{INTERROGATIVE})",
        "",
        words,
    )
    words = re.sub(
        rf"^(please )?(tell me|do you know|i wonder),? (?=if |{INTERROGATIVE})", "", words
    )
    words = re.sub(rf"^in (this|the) ({PICTURE}),? ", "", words)
    words = re.sub(
        rf"(?<=\w) (shown |visible |seen |depicted |present )?(in|on|within) (this|the|my|that) "
        rf"({PICTURE})$",
        "",
        words,
    )
    words = re.sub(r"(?<=\w),? (please|here)$", "", words)
    if not re.search(r"[^\W\d_]", words):
        raise QuestionError(
            repr(text.strip()[:40]), "not a question", 'write one, such as "is there a dog?"'
        )
    return words


def _typed(name: str, statement: str, *notes: str) -> Question:
    return Question(name, statement, answer_types().answers[name], notes=notes)


def _with_answers(question: Question, answers: Sequence[str]) -> Question:
    """Replace the answers of a question by those of the caller."""
    typical = question.answers
    phrases = {}
    for answer in answers:
        answer = " ".join(answer.split())
        if not answer or answer in phrases:
            raise QuestionError("answers", f"{answer!r} is empty or repeated", "write each once")
        bare = any(phrase == word for word, phrase in typical.items())
        phrases[answer] = typical.get(answer) or (answer if bare else with_article(answer))
    if len(phrases) < 2:
        raise QuestionError(
            "answers", "a choice needs at least two", "write, for example, --answers red,blue"
        )
    statement = question.statement
    if question.kind in ("yes/no", "reason", "choice") and "{}" not in statement:
        statement = f"{statement.rstrip('.')}, {{}}."
    return replace(question, kind="choice", statement=statement, answers=phrases)


# --- rules: each takes a normalised question, and returns None for one of another form -----------


def _choice(text: str) -> Question | None:
    """Parse a choice: `is it a cat or a dog`, `is the car red, blue or green`, `cat or dog`.

    The words that the options share stand before the first option. That starts with the same small
    word as the last option, or else has as many words, without the verb and pronouns.
    """
    if match := re.fullmatch(rf"(.+?),? or (?:{NONE_OR_ALL})", text):
        beginning, comma, final = match[1].rpartition(", ")
        question = _choice(f"{beginning} or {final}" if comma else match[1])
        return replace(question, notes=(ONE_OF,), weak=True) if question else None
    match = re.fullmatch(rf"(?:(?:{INTERROGATIVE}) .*?, )?(.+?),? or (.+)", text)
    if not match or re.fullmatch(r"not|no", match[2]) or text.startswith("how many"):
        return None
    begin, *options = [option.strip() for option in match[1].split(",")]
    options.append(match[2])
    words = begin.split()
    start = _start_of_option(words, options[-1])
    if start and words[start - 1] in ("a", "an") and re.match(r"(a|an) ", options[0]):
        start -= 1  # the article belongs to the option, as that of the next one does
    begin = " ".join(words[:start])
    options.insert(0, " ".join(words[start:]))
    if _BEGIN.fullmatch(begin):
        return _choose_among(options)
    answers = {_without_article(option): option for option in options}
    return Question("choice", claim(f"{begin} {{}}"), answers) if len(answers) > 1 else None


def _start_of_option(words: Sequence[str], option: str) -> int:
    """Return where in `words` the option begins that corresponds to the last `option`."""
    small = option.split()[0]
    least = len(_BEGIN.match(" ".join(words))[0].split())  # type: ignore[index]
    if small in words[least:] and small in SMALL_WORDS:
        return len(words) - 1 - words[::-1].index(small)
    if small in ("a", "an") and {"a", "an"} & set(words[least:]):
        return max(i for i, word in enumerate(words) if word in ("a", "an"))
    return max(len(words) - len(option.split()), min(least, len(words) - 1))


def _choose_among(options: Sequence[str]) -> Question | None:
    """Return a choice about the picture itself, in the statement of the options' common type."""
    names = [_without_article(option) for option in options]
    if len(set(names)) < 2:
        return None
    if all(name in TAKEN for name in names):
        return Question("choice", "a photo taken {}.", {name: TAKEN[name] for name in names})
    for kind, answers in answer_types().answers.items():
        if all(name in answers for name in names):
            return Question("choice", _of_kind(kind, ""), {name: answers[name] for name in names})
    if all(name.split()[0].endswith("ing") for name in names):
        return Question("choice", "a photo of someone {}.", {name: name for name in names})
    phrases = {name: with_article(option) for name, option in zip(names, options, strict=True)}
    return Question("choice", "a photo of {}.", phrases)


def _without_article(option: str) -> str:
    return re.sub(r"^(a|an|the) ", "", option)


def _count(text: str) -> Question | None:
    """Parse `how many dogs are there`, `how many wheels does the car have`, `count the dogs`."""
    match = re.fullmatch(
        r"(?:how many|(?:what is )?the number of|what number of|count(?: the| all)*) (.+)", text
    )
    if not match:
        return None
    noun, tail = match[1], ""
    if match := re.match(rf"(.+?) (?:{AUXILIARY}) ?\b(.*)", noun):
        noun, tail = match.groups()
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


def _colour(text: str) -> Question | None:
    """Parse a question about a colour.

    Such as `what colour is the car`, `what is the colour of it`, `what colour shirt is he wearing`.
    """
    if match := re.fullmatch(
        r"(?:what|which)(?: is| are)? (?:the )?(?:main )?colours? (?:is|are|was|were|of|has) (.+)",
        text,
    ):
        return _typed("colour", _coloured(match[1]))
    if match := re.fullmatch(r"(?:what|which) colour (\w+) (?:is|are) (?:it|this|that|they)", text):
        return _typed("colour", _coloured(f"the {match[1]}"))
    if match := re.fullmatch(r"(?:what|which) colour (the .+) is", text):
        return _typed("colour", _coloured(match[1]))
    if match := re.fullmatch(
        r"(?:what|which) colours? (?:of )?(.+?) (?:is|are|does|do) (.+?) (\w+)", text
    ):
        noun, subject, verb = match.groups()
        verb = f"is {verb}" if verb.endswith("ing") else {"have": "has"}.get(verb, verb + "s")
        return _typed("colour", f"{subject} {verb} {with_article('{} ' + noun)}.")
    if match := re.fullmatch(r"(?:what|which) colours? (?:does|do) (.+?) have", text):
        return _typed("colour", _coloured(match[1]))
    if re.fullmatch(
        r"(?:what|which) (?:is the )?colours?(?: (?:is|are) (?:it|this|that|they))?", text
    ):
        return _typed("colour", "a photo of something {}.")
    return None


def _coloured(thing: str) -> str:
    """Return the statement about a thing's colour.

    `the car` becomes `a photo of a {} car.`; a longer phrase becomes a sentence.
    """
    if re.fullmatch(r"it|this|that|they|these|those|the (picture|photo|image)", thing):
        return "a photo of something {}."
    match = re.fullmatch(r"(?:the|this|that|a|an|these|those|his|her) (\w+(?: \w+)?)", thing)
    if match and not re.search(r"\b(of|in|on|at|is|with|that)\b", match[1]):
        noun = match[1]
        return f"a photo of {{}} {noun}." if is_plural(noun) else f"a photo of a {{}} {noun}."
    return f"{thing} is {{}}."


def _time_taken(text: str) -> Question | None:
    """Parse a question about the time of day, the season or the weather.

    Such as `when was this taken`, `what season is it`, `how is the weather`.
    """
    if re.search(r"\bweather\b", text) and re.match(rf"(?:{INTERROGATIVE})", text):
        return _typed("weather", "a photo taken in {} weather.")
    if re.search(r"\bseason\b", text) and re.match(r"what|which", text):
        return _typed("season", "a photo taken {}.")
    if re.match(r"(what|which) (time|part|hour)\b", text) or re.match(
        rf"when (was|were|is|did) (this|it|the ({PICTURE})|that)", text
    ):
        return _typed("time of day", "a photo taken {}.")
    return None


def _location(text: str) -> Question | None:
    """Parse `where is this`, `where was the photo taken`, `where is the dog`, `where are they`."""
    match = re.fullmatch(r"where(?: (?:is|are|was|were|did|does|do|has) ?(.*))?", text)
    if not match:
        return None
    thing = re.sub(r" (taken|made|shot|located|found|standing|sitting)$", "", match[1] or "this")
    if re.fullmatch(rf"this|it|that|they|we|you|(?:this|the|my) (?:{PICTURE})", thing):
        return _typed("place", "a photo taken {}.")
    return _typed("place", f"{thing} {{}}.")


def _kind_of(text: str) -> Question | None:
    """Parse `what animal is this`, `what kind of fruit is on the table`, `what is the man's job`.

    The word for the type decides which answers are possible.
    """
    types = answer_types().names
    match = re.fullmatch(
        r"(?:what|which)(?: (?:is|are) the)? (?:(?:kind|sort|type|breed|species)s? of )?"
        rf"(.+?)(?: (?:{AUXILIARY})\b ?(.*)| ((?:of|in|on|at) .+))?",
        text,
    )
    if not match:
        return None
    name = re.sub(r"^.*'s ", "", match[1])
    kind = types.get(name) or types.get(singular(name))
    return _typed(kind, _of_kind(kind, match[2] or match[3] or "")) if kind else None


def _of_kind(kind: str, tail: str) -> str:
    """Return the statement for answers of a type; `tail` follows the verb of the question."""
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


def _person(text: str) -> Question | None:
    """Parse `who is this`, `who is riding the horse`, `who wears a hat`."""
    match = re.fullmatch(r"who (?:(?:is|are|was|were) )?(.+)", text)
    if not match:
        return None
    tail = re.sub(rf"^(this|it|that|there|they|in (the|this) ({PICTURE}))\b ?", "", match[1])
    return _typed("person", f"a photo of {{}} {tail}".strip() + ".", IDENTITY)


def _doing(text: str) -> Question | None:
    """Parse `what is the man doing`, `what are they doing`, `what is happening`."""
    if match := re.fullmatch(r"what (?:is|are|was|were) (.+?) doing\b.*", text):
        subject = "someone" if re.fullmatch(r"he|she|it|they|this|that", match[1]) else match[1]
        return _typed("activity", f"{subject} {{}}.", DOING)
    if re.fullmatch(r"what (?:is|was) (?:happening|going on|being done)\b.*", text):
        return _typed("activity", "a photo of someone {}.", DOING)
    return None


def _object_of(text: str) -> Question | None:
    """Parse `what is the man holding`, `what does she wear`, `what is the dog playing with`."""
    match = re.fullmatch(r"what (?:is|are|was|were) (.+?) (\w+ing)( \w+)?", text)
    if match and match[1] != "there":
        subject, verb, particle = match.groups()
        statement = f"{subject} is {verb}{particle or ''} {{}}."
    elif match := re.fullmatch(r"what (?:does|do|did) (.+?) (\w+)", text):
        subject, verb = match.groups()
        if re.fullmatch(rf"(this|the|my)? ?({PICTURE})|you|we|i|it", subject):
            return None
        statement = f"{subject} {'has' if verb == 'have' else verb + 's'} {{}}."
        stem = verb[:-1] if verb.endswith("e") else verb
        verb = f"{stem}ing"
    else:
        return None
    kind = answer_types().verbs.get(verb)
    return _typed(kind, statement) if kind else _open(statement)


def _object(text: str) -> Question | None:
    """Parse a question about the thing shown.

    Such as `what is this`, `what do you see`, `what is on the table`, `what does the picture show`.
    """
    if re.fullmatch(
        r"what (is|are|was) (this|that|it|these|those|there|shown|visible|they)"
        r"( a (picture|photo|image) of)?"
        rf"|what (does|do|did) (it|this|the ({PICTURE})|this ({PICTURE})) (show|contain|depict)"
        r"|what (can|do|could) (you|we|i) see|what can be seen"
        r"|what (is|are) (shown|the (subject|object|thing))"
        r"|what objects? (is|are) (this|there|in it)",
        text,
    ):
        return _open("a photo of {}.", noted=False)
    if match := re.fullmatch(
        r"what (?:is|are|was|were) ((?:on|in|under|near|behind|at|next) .+)", text
    ):
        return _open(f"a photo of {{}} {match[1]}.", noted=False)
    if match := re.fullmatch(r"what (?:is|are) the (\w+) (?:shape|thing|object)", text):
        kind = "shape" if text.endswith("shape") else None
        return _typed(kind, f"a {match[1]} {{}}.") if kind else _open(f"a {match[1]} {{}}.")
    return None


def _yes_no(text: str) -> Question | None:
    """Parse `is there a dog`, `is the car red`, `does the man wear a hat`, `is it not raining`.

    "Isn't it red?" expects "yes" if it is red, so "n't" at the beginning is no negation.
    """
    clause = re.sub(r"^(if|whether) ", "is ", text)
    clause = re.sub(r"^(\w+)n't\b", _without_not, clause)
    clause = re.sub(rf",? or (not|no|{NONE_OR_ALL})$", "", clause)
    if not re.match(rf"({AUXILIARY}) (?!({PRONOUN})$)\w", clause):
        return None
    negation = _NEGATION.search(clause)
    inner = negation and re.match(_BEFORE_INNER_NEGATION, clause[: negation.start()])
    if negation and not inner:
        positive = _POSITIVE.get(negation[0], "")
        clause = clause[: negation.start()] + positive + clause[negation.end() :]
        clause = " ".join(clause.split())
    statement = claim(clause)
    question = Question("yes/no", statement, {}, opposite_of(statement), rivals_of(statement))
    if inner:
        return replace(question, notes=(INNER_NEGATION,), weak=True)
    return replace(question, negated=True, notes=(NEGATION,)) if negation else question


_NEGATION = re.compile(r"\b(not|never|no one|nobody|nothing|no|without)\b")
_POSITIVE = {
    "without": "with",
    "nobody": "somebody",
    "no one": "somebody",
    "nothing": "something",
}
# Words before a negation that belongs to a thing in the statement, not to the whole statement.
_BEFORE_INNER_NEGATION = r"(is|are|was|were) there (an?|any|some|the|\w+s)\b|.*\b(that|which|who)\b"


def _without_not(match: re.Match[str]) -> str:
    return {"can't": "can", "won't": "will"}.get(match[0], match[0].removesuffix("n't"))


def _interrogative(text: str) -> Question | None:
    """Parse the remaining questions with a question word.

    `why is it red` and `how does it work` have no answer; `which ...` is open.
    """
    if re.match(r"how old\b", text):
        return _typed("age", "a photo of a person who is a {}.")
    if re.match(r"(why|how|whose|when|whom)\b", text):
        return Question("reason", "")
    if match := re.fullmatch(r"(?:what|which) (.+)", text):
        topic = re.sub(rf"\b(?:{AUXILIARY})\b ?", "", match[1]).strip()
        return _open(f"a photo of {{}}, {topic}." if topic else "a photo of {}.")
    return None


def _open(statement: str, noted: bool = True) -> Question:
    notes = (OPEN,) if noted else ()
    kind = "open" if noted else "object"
    return Question(kind, statement, answer_types().general_answers(), notes=notes)


_RULES: tuple[Callable[[str], Question | None], ...] = (
    _choice,
    _count,
    _colour,
    _time_taken,
    _location,
    _doing,
    _kind_of,
    _person,
    _object,
    _object_of,
    _yes_no,
    _interrogative,
)
