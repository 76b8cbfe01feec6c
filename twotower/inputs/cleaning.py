"""Text cleaning before tokenization, by the name of the tokenizer that expects it."""

from __future__ import annotations

import html
import re
import string
import unicodedata
from collections.abc import Callable
from typing import Literal

Cleaning = Literal["openai", "huggingface", "canonicalize", "lower_no_punctuation", "lower", "none"]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _openai(text: str) -> str:
    """Clean as OpenAI's CLIP: repair, collapse white space, lower-case.

    Printable ASCII without an ampersand needs no repair: ftfy changes escapes, control characters,
    entities, and characters beyond ASCII.
    """
    if not (text.isascii() and text.isprintable() and "&" not in text):
        text = repair(text)
    return " ".join(text.split()).lower()


def repair(text: str) -> str:
    """Repair wrong encodings and typographic characters by ftfy; undo HTML entities twice."""
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _huggingface(text: str) -> str:
    """Clean as transformers' CLIP: NFC, collapse white space, lower-case each letter by itself.

    Rust lower-cases without context, so a final sigma stays a sigma.
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.split()).lower()
    text = unicodedata.normalize("NFC", _without_surrogates(text))
    text = re.sub(r"[^\S\x1c-\x1f]+", " ", text)
    return "".join(character.lower() for character in text.strip(" "))


def _canonicalize(text: str) -> str:
    """Clean as open_clip's SigLIP: repair, no underscores or ASCII punctuation, lower-case.

    An underscore becomes a space.
    """
    text = repair(text).replace("_", " ").translate(_NO_PUNCTUATION).lower()
    return " ".join(text.split())


def _lower_no_punctuation(text: str) -> str:
    """Clean as transformers' SigLIP: lower-case, no ASCII punctuation (underscores vanish)."""
    return " ".join(_without_surrogates(text).lower().translate(_NO_PUNCTUATION).split())


def _lower(text: str) -> str:
    return _without_surrogates(text).lower()


def _without_surrogates(text: str) -> str:
    """Replace unpaired surrogates, which no encoding can represent, by U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


CLEANERS: dict[Cleaning, Callable[[str], str]] = {
    "openai": _openai,
    "huggingface": _huggingface,
    "canonicalize": _canonicalize,
    "lower_no_punctuation": _lower_no_punctuation,
    "lower": _lower,
    "none": _without_surrogates,
}
