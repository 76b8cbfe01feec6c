"""Parse questions about all pictures of a library, such as "how many of my pictures show snow?"."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from twotower.asking.questions import normalize_question
from twotower.asking.statements import PICTURE
from twotower.errors import QuestionError

_PICTURES = rf"(?:(?:{PICTURE})s?\b)"
_SAW = r"(?:photograph(?:ed)?|see|saw|seen|shoot|shot|take|took|taken)\b"
_SHOW = "show|shows|contain|contains|have|has|depict|depicts|include|with|of|are of|is of"
_SHOWING = rf"(?:(?:that |which )?(?:{_SHOW}|are|were taken|was taken|taken)\b)"
_MONTHS = (
    "january february march april may june july august september october november december".split()
)

NEGATABLE = ("count", "whether", "show")  # kinds that can be about pictures without a thing
_NEGATION = re.compile(r"\b(?:no|not|none|nobody|nothing|never|neither|nor|without|except)\b|n't\b")

# Kinds of questions and their beginnings; the thing that they are about follows.
_FORMS = (
    ("count", rf"how many (?:of )?(?:my |the |our )?{_PICTURES}"),
    ("count", rf"how (?:often|many times) (?:did|have|do) i {_SAW}"),
    ("last", rf"when (?:did|have) i last {_SAW}"),
    ("last", rf"when was the last time (?:that )?i {_SAW}"),
    ("last", rf"(?:when|what) (?:was|is) (?:my|the) (?:last|latest|newest) {_PICTURES}"),
    ("first", rf"when did i first {_SAW}"),
    ("first", rf"when was the first time (?:that )?i {_SAW}"),
    ("first", rf"(?:when|what) (?:was|is) (?:my|the) (?:first|oldest|earliest) {_PICTURES}"),
    ("year", rf"(?:in )?(?:what|which) year did i (?:most often |mostly )?{_SAW}"),
    ("where", rf"where (?:did|do|have) i (?:last |mostly |usually )?{_SAW}"),
    ("where", rf"where (?:are|were) (?:my |the )?{_PICTURES}"),
    ("camera", rf"(?:what|which) camera (?:(?:did|do) i use|was used|made|{_SAW})(?: most)?"),
    ("whether", rf"(?:do|did) i (?:have|take|own) (?:any |a |some )?{_PICTURES}"),
    ("whether", rf"(?:are|is) there (?:any |a |some )?{_PICTURES}"),
    ("whether", rf"(?:have|did) i ever {_SAW}"),
    ("show", rf"(?:show|find|get|give|list)\b(?: me)?(?: all)?(?: my| the)?(?: {_PICTURES})?"),
    ("show", rf"(?:what|which)(?: of my| of the)? {_PICTURES}"),
)


@dataclass(frozen=True)
class LibraryQuestion:
    """A question about a library.

    Attributes:
        text: the question as it was typed.
        kind: "count", "whether", "last", "first", "where", "camera", "year" or "show".
        thing: what the pictures show; "" for all pictures.
        filters: filters of the search language that the question implies, such as "after:2021".
        negated: True if the question is about the pictures that do not show the thing.
    """

    text: str
    kind: str
    thing: str
    filters: str = ""
    negated: bool = False

    @property
    def query(self) -> str:
        """The question as a query of the search language."""
        return f'"{self.thing}" {self.filters}'.strip() if self.thing else self.filters


def parse_library_question(text: str) -> LibraryQuestion | None:
    """Parse a question about a library; returns None for one about single pictures.

    Raises:
        QuestionError: the text has no words, does not name a thing to look for, or has a
            negation that is not understood.
    """
    words, filters = _without_dates(normalize_question(text))
    for kind, form in _FORMS:
        if match := re.match(form, words):
            tail, negated = _without_negation(words[match.end() :])
            thing = _thing(tail)
            if not thing and re.search(rf"(?<! i) (?:{_SHOW})$", tail):
                raise QuestionError(
                    repr(text.strip()),
                    "does not name a thing to look for",
                    'ask, for example, "... show snow?"',
                )
            single = thing and not re.search(r",|\b(?:and|or|but)\b", thing)
            if _NEGATION.search(thing) or (negated and not (single and kind in NEGATABLE)):
                raise QuestionError(
                    repr(text.strip()),
                    "such a negation is not understood",
                    'ask, for example, "how many of my pictures do not show a cat?"',
                )
            return LibraryQuestion(text.strip(), kind, thing, filters, negated)
    return None


def is_about_library(text: str) -> bool:
    """Return whether a question can only be about a library: about "my" pictures, or what "I" did.

    "How many pictures are on the wall?" can be about a library or about a picture.

    Raises:
        QuestionError: the text has no words.
    """
    words = normalize_question(text)
    matches = filter(None, (re.match(form, words) for _, form in _FORMS))
    return any(
        re.search(r"\b(my|our)\b", match[0]) or re.search(r"\bi\b", words) for match in matches
    )


def library_question(text: str, has_library: bool) -> LibraryQuestion | None:
    """Parse a question that is asked of a library (`has_library`) or of single pictures.

    Returns:
        None if it is to be answered about single pictures, or has no words.

    Raises:
        QuestionError: the question can only be about a library, and there is none; or it cannot be
            parsed.
    """
    try:
        normalize_question(text)
    except QuestionError:  # reported with the answers to the other questions
        return None
    if has_library:
        return parse_library_question(text)
    if is_about_library(text):
        raise QuestionError(repr(text), "is about a library", "give one folder of pictures")
    return None


# --- the thing, its negation, and dates ----------------------------------------------------------


def _without_negation(tail: str) -> tuple[str, bool]:
    """` do not show a cat`, ` without a cat`, ` with no cat` -> without the "not", and True."""
    between = r"^((?: (?:do i have|did i take|are there|that|which|are|is|were))*"
    for pattern, replacement in (
        (rf"{between}) (?:do|does|did|are|is|were)(?: not|n'?t)\b", r"\1"),
        (rf"{between}) without(?: any)?\b", r"\1 with"),
        (rf"{between} (?:{_SHOW})) (?:no|not any)\b", r"\1"),
    ):
        positive, count = re.subn(pattern, replacement, tail)
        if count:
            return positive, True
    return tail, False


def _thing(tail: str) -> str:
    """` show a dog` -> `a dog`."""
    thing = re.sub(r"^ (?:for|to photograph|to take)\b", "", tail)
    thing = re.sub(rf"^ ?(?:my |any |some |a )?{_PICTURES}", "", thing).strip(" ,")
    thing = re.sub(r"^(?:do i have|are there|did i (?:take|make))\b ?", "", thing)
    thing = re.sub(rf"^{_SHOWING} ?", "", thing)
    ending = (
        r"(^| )(?:in my library|do i have|are there|did i take|in (?:them|it)|most(?: often)?)$"
    )
    return re.sub(ending, "", thing).strip()


def _without_dates(words: str) -> tuple[str, str]:
    """`... in 2021` -> the words without the date, and the date as filters of a search."""
    today = datetime.date.today()
    words = re.sub(r"\b(this year)\b", f"in {today.year}", words)
    words = re.sub(r"\b(last year)\b", f"in {today.year - 1}", words)
    months = "|".join(_MONTHS)
    if match := re.search(rf" (?:in|from|of|during) ({months}) (\d{{4}})$", words):
        month, year = _MONTHS.index(match[1]) + 1, int(match[2])
        following = f"{year + month // 12}-{month % 12 + 1:02}"
        return words[: match.start()], f"after:{year}-{month:02} before:{following}"
    if match := re.search(r" between (\d{4}) and (\d{4})$", words):
        return words[: match.start()], f"after:{match[1]} before:{int(match[2]) + 1}"
    if match := re.search(r" (?:in|from|of|during) (?:the year )?(\d{4})$", words):
        return words[: match.start()], f"after:{match[1]} before:{int(match[1]) + 1}"
    if match := re.search(r" (since|after|before|until) (\d{4})$", words):
        word, year = match[1], int(match[2])
        starts = {"since": year, "after": year + 1, "before": year, "until": year + 1}[word]
        key = "after" if word in ("since", "after") else "before"
        return words[: match.start()], f"{key}:{starts}"
    return words, ""
