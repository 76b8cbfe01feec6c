"""The text of a pair by itself: quality, contacts, language, and a form for comparing texts."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import regex

from twotower.errors import PairsError
from twotower.pairs.filters.settings import KEPT, FilterSettings, code

MAX_CHARACTERS = 5000  # a limit of the time that hostile texts take

# Scripts that are written without spaces: each character counts as a word.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
_WORD = regex.compile(rf"{_UNSPACED}|(?:(?!{_UNSPACED})[\p{{L}}\p{{M}}\p{{N}}'’])+")
_LETTER = regex.compile(r"[\p{L}\p{M}]")

_MARKUP = regex.compile(
    r"""</?[a-z][^<>]{0,200}>            # a tag
    | &(?:\#x?[0-9a-f]{1,6}|[a-z]{2,8}); # an entity
    | \[/?[a-z_]+(?:\s[^\]]*=[^\]]*)?\]  # a shortcode, or a tag of BBCode
    | \{\{|\}\}|<%|%>|\$\{|\{%           # a template
    | \{[^{}]*:[^{}]*;?\s*\}             # a rule of CSS, or JSON
    | %\w+%|%[sd]\b                      # a placeholder of a template
    | \bfunction\s*\(|=&gt;|\b(?:undefined|null)\b\s*$
    """,
    regex.IGNORECASE | regex.VERBOSE,
)
_SUFFIX = r"\.(?:jpe?g|jfif|png|gif|webp|avif|bmp|tiff?|svg|heic|ico|pdf|mp4|mov|php|html?)"
_FILE_NAME = regex.compile(
    rf"""\S*{_SUFFIX}(?:\?\S*)?          # photo-1.jpg
    | .{{0,80}}{_SUFFIX}                 # holiday in rome.jpg
    | [a-z]{{3,4}}[_-]?\d{{4,}}.{{0,12}}     # IMG_1234, DSC01234: the design rule for camera files
    | (?=.*\d)(?:image|photo|picture|screenshot|screen\ shot|scan|untitled|unnamed|download|file)
      [\s_-]*[\d\s_.:x×()#-]*(?:at[\s\d.:]+(?:am|pm)?)?
    | [0-9a-f]{{8}}(?:-?[0-9a-f]{{4}}){{3}}-?[0-9a-f]{{12}}  # a UUID
    | [0-9a-f]{{16,}}
    | (?:https?://|www\.)\S+
    | [^\s]+(?:[_-][^\s_-]+){{3,}}       # words joined to one
    """,
    regex.IGNORECASE | regex.VERBOSE,
)
_ADDRESS = regex.compile(r"https?://|\bwww\.\w", regex.IGNORECASE)

# Texts and stems of what content systems and shops write where no description exists. The idea and
# the phrases "click to enlarge picture" and "stock photo" are from Conceptual Captions (Sharma et
# al. 2018, section 3.2).
_THING = r"(?:image|photo|picture|pic|img|photograph|graphic|illustration|thumbnail|icon|logo)s?"
_BOILERPLATE = regex.compile(
    rf"""(?:the\s)?(?:{_THING}|banner|avatar|placeholder|spacer|untitled|alt\stext|no\stitle)
      (?:\s(?:of|for|from)?\s?(?:post|page|article|product|blog|news|site|website|the\spost))?
      (?:\s\d+)?
    | (?:please\s)?(?:click|tap|press)\s(?:here|on|to|for|the|image|photo|picture)\b.*
    | .*\b(?:click|tap)\s(?:here|to|(?:on\s)?(?:the\s)?(?:image|photo|picture)\sto)\s?
      (?:enlarge|view|see|zoom|expand|read|download|learn|open)?\b.{{0,40}}
    | (?:view|see|open|show|download|share|save|zoom|enlarge)\s
      (?:the\s|this\s|a\s|full\s|large\w*\s)*(?:size\s)?{_THING}(?:\s.{{0,30}})?
    | (?:{_THING}\s)?(?:is\s)?(?:not|un)\s?(?:available|found)(?:\s.{{0,20}})?
    | (?:no|missing|default|sample|dummy|stock|broken|featured?|main|cover|header|background|hero
      |profile|user|product|author|site|company|post|gallery|article|related|loading|error)
      \s(?:{_THING}|avatar)(?:\s(?:is\s)?(?:available|here|yet|placeholder|\d+|for\s.{{0,30}}))?
    | (?:{_THING})\smay\scontain\b.*
    | (?:{_THING})\s(?:coming\ssoon|unavailable|placeholder|gallery|credit|source|by)
      (?::.{{0,40}}|\s(?:soon|here|getty\simages))?
    | (?:home|back|next|previous|read|learn|load|show|view|see)\s?(?:page|more|all|less|details)?
      (?:\s(?:here|now|about.{{0,30}}))?
    | (?:facebook|twitter|instagram|linkedin|pinterest|youtube|whatsapp|share|follow)
      (?:\s(?:us|on|icon|logo|this|share|link|button|facebook|twitter|instagram|pinterest|x))*
    | (?:add\sto\s(?:cart|basket|wishlist|bag)|buy\snow|shop\snow|sign\sup|log\sin|subscribe)
      (?:\s.{{0,20}})?
    | (?:all\srights\sreserved|copyright\b.{{0,60}}|loading.{{0,10}}|advertisement)
    """,
    regex.IGNORECASE | regex.VERBOSE,
)

_EMAIL = regex.compile(
    r"""[\p{L}\p{N}._%+-]+\s?(?:@|\(at\)|\[at\])\s?[\p{L}\p{N}-]+
        (?:\s?(?:\.|\(dot\)|\[dot\])\s?[\p{L}\p{N}-]+)*\s?(?:\.|\(dot\)|\[dot\])\s?\p{L}{2,}
    | \b[\w.+-]+\sat\s[\w-]+\sdot\s[a-z]{2,6}\b""",
    regex.IGNORECASE | regex.VERBOSE,
)
# E.164 (ITU-T): at most 15 digits after "+". Without "+" or a word before it, only the grouping
# 3-3-4 of North America counts, so that sizes, prices, dates and years do not.
_PHONE = regex.compile(
    r"""(?<![\d+])(?:\+|\b00)\s?[1-9](?:[\s().\/-]{0,3}\d){7,14}(?!\d)
    | (?<![\d.,/-])(?:1[\s.-])?(?:\(\d{3}\)\s?|\d{3}[-.\s])\d{3}[-.\s]\d{4}(?![\d-])
    | \b(?:tel|telephone|tél|telefon|telefono|teléfono|phone|call|fax|mobile|mob|cell
      |whatsapp|handy)[\s.:()+#-]{0,6}\d(?:[\s().\/-]{0,2}\d){5,14}(?!\d)""",
    regex.IGNORECASE | regex.VERBOSE,
)


def words_of(text: str) -> list[str]:
    """Return the words of a text; each character of a script without spaces is a word."""
    return _WORD.findall(text)


def normal_form(text: str) -> str:
    """Return a text for comparisons: NFKC, lower case, words alone, single spaces."""
    return " ".join(words_of(unicodedata.normalize("NFKC", text).casefold()))


def text_key(text: str) -> int:
    """Return a 64-bit hash that equal texts share: those with the same `normal_form`."""
    return content_key(normal_form(text))


def content_key(*values: str) -> int:
    """Return a 64-bit hash of texts (BLAKE2b), the same on every machine."""
    content = "\0".join(values).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def text_reasons(texts: Sequence[str], settings: FilterSettings) -> list[int]:
    """Return for each text the code of the earliest reason to remove it, or `KEPT`."""
    restricted = settings.languages and settings.applies("language")
    identify = language_identifier() if restricted else None
    return [_text_reason(text, settings, identify) for text in texts]


def _text_reason(text: str, settings: FilterSettings, identify: Any) -> int:
    if not text.strip():
        return code("readable", "no caption")
    if identify and _is_foreign(text, settings, identify):
        return code("language", "not in a selected language")
    if settings.applies("text") and (fault := text_fault(text, settings)):
        return code("text", fault)
    if settings.applies("contact") and (fault := contact_fault(text)):
        return code("contact", fault)
    return KEPT


def _is_foreign(text: str, settings: FilterSettings, identify: Any) -> bool:
    return language_ratio(text, settings.languages, identify) < settings.min_language_ratio


def text_fault(text: str, settings: FilterSettings) -> str:
    """Return the fault of a text's quality, or "" if it has none."""
    stripped = text.strip()
    words = words_of(stripped[:MAX_CHARACTERS])
    if len(words) > settings.max_words or len(stripped) > MAX_CHARACTERS:
        return "too long"
    if _FILE_NAME.fullmatch(stripped) or _ADDRESS.search(stripped):
        return "file name or address"
    if _BOILERPLATE.fullmatch(" ".join(words)):
        return "boilerplate"
    if _MARKUP.search(stripped):
        return "markup"
    if len(words) < settings.min_words or len(stripped) < settings.min_characters:
        return "too short"
    characters = "".join(stripped.split())
    if len(_LETTER.findall(characters)) < settings.min_letters * len(characters):
        return "few letters"
    distinct = len({word.casefold() for word in words})
    if len(words) >= 4 and distinct < settings.min_distinct * len(words):
        return "repeated words" if not _is_unspaced(stripped) else ""
    return ""


def _is_unspaced(text: str) -> bool:
    """Return True for a text in a script without spaces, whose characters recur by nature."""
    return regex.search(_UNSPACED, text) is not None


def contact_fault(text: str) -> str:
    """Return "e-mail address" or "phone number" if a text has one, else ""."""
    text = text[:MAX_CHARACTERS]
    if ("@" in text or "at" in text.casefold()) and _EMAIL.search(text):
        return "e-mail address"
    if any(character.isdigit() for character in text) and _PHONE.search(text):
        return "phone number"
    return ""


# --- languages ----------------------------------------------------------------------------------


@cache
def language_identifier() -> Any:
    """Return py3langid's identifier of 97 languages, with calibrated probabilities.

    Raises:
        PairsError: py3langid is not installed.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise PairsError(
            "languages", "the package 'py3langid' is missing", "pip install twotower[web]"
        ) from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def check_languages(languages: Sequence[str]) -> None:
    """Raise `PairsError` for a code that py3langid does not identify."""
    if not languages:
        return
    labels = language_identifier().labels
    for language in languages:
        if language not in labels:
            raise PairsError(
                language, "no language that can be identified", f"choose from {', '.join(labels)}"
            )


def language_ratio(text: str, languages: Sequence[str], identifier: Any) -> float:
    """Return the probability of the likeliest of the languages, relative to that of the likeliest.

    Short texts are in no language with a high probability; the ratio is low only for evidence of
    another language.
    """
    probabilities = dict(identifier.rank(text))
    selected = max(probabilities.get(language, 0.0) for language in languages)
    return float(selected / max(probabilities.values()))


def identify_language(text: str) -> str:
    """Return the likeliest ISO 639-1 code of a text."""
    identify: Callable[[str], tuple[str, float]] = language_identifier().classify
    return identify(text)[0]
