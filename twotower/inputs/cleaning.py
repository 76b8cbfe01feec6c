"""Text cleaning before tokenization, by the name of the tokenizer that expects it."""

from __future__ import annotations

import html
import re
import string
import unicodedata
from collections.abc import Callable
from typing import Literal

Cleaning = Literal["openai", "huggingface", "canonicalize", "lower_no_punctuation", "lower", "none"]


# --- cleaning ----------------------------------------------------------------------------------


def _openai(text: str) -> str:
    """Repair encodings, undo HTML entities twice, collapse white space, lower-case.

    Printable ASCII without an ampersand has nothing to repair (ftfy changes escapes, control
    characters, entities and what is beyond ASCII), so the rest is all it needs.
    """
    if not (text.isascii() and text.isprintable() and "&" not in text):
        text = repair(text)
    return " ".join(text.split()).lower()


def repair(text: str) -> str:
    """Repair wrong encodings and typographic characters as ftfy does; undo HTML entities twice."""
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _huggingface(text: str) -> str:
    """transformers' CLIP tokenizer: NFC, collapse white space, lower-case letter by letter.

    Rust lower-cases without context, so a final sigma stays a sigma.
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.split()).lower()
    text = re.sub(r"[^\S\x1c-\x1f]+", " ", unicodedata.normalize("NFC", _whole(text)))
    return "".join(character.lower() for character in text.strip(" "))


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _canonicalize(text: str) -> str:
    """open_clip's SigLIP: repair, underscores to spaces, no ASCII punctuation, lower-case."""
    text = repair(text).replace("_", " ").translate(_NO_PUNCTUATION).lower()
    return " ".join(text.split())


def _lower_no_punctuation(text: str) -> str:
    """transformers' SigLIP: lower-case, no ASCII punctuation (underscores vanish)."""
    return " ".join(_whole(text).lower().translate(_NO_PUNCTUATION).split())


def _lower(text: str) -> str:
    return _whole(text).lower()


def _whole(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs, which no encoding can hold."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


CLEANERS: dict[Cleaning, Callable[[str], str]] = {
    "openai": _openai,
    "huggingface": _huggingface,
    "canonicalize": _canonicalize,
    "lower_no_punctuation": _lower_no_punctuation,
    "lower": _lower,
    "none": _whole,
}
