"""Texts for images: cleaned, and left out if they say nothing about a picture."""

from __future__ import annotations

import re
import unicodedata

from twotower.pairs.candidates import Reason

MAX_CAPTION = 1000  # characters; longer texts are articles
_FILE_NAME = re.compile(
    r"\S+\.(?:jpe?g|png|gif|webp|avif|bmp|tiff?|svg|heic|jfif)"
    r"|(?:img|dsc[nf]?|dcim|pict?|screenshot)[-_ ]?\d[\d_-]*",
    re.IGNORECASE,
)
# Texts of page parts, of placeholders and of whoever wrote none.
_BOILERPLATE = re.compile(
    r"(?:an? |the |our |company |site |website |header |footer |main |default )?"
    r"(?:image|images|img|photo|photos|picture|pic|thumbnail|thumb|thumbs|icon|icons|logo|avatar|"
    r"profile (?:picture|photo|image)|user (?:avatar|image|picture)|featured image|post image|"
    r"article image|product image|image description|image title|alt text|banner|header|footer|"
    r"slide|slider|slideshow|placeholder|placeholder image|spacer|blank|transparent|pixel|"
    r"tracking pixel|loading|loader|spinner|untitled|no image|no photo|image not available|"
    r"image not found|broken image|null|none|undefined|nan|arrow|button|menu|search|close|next|"
    r"previous|prev|back|home|play|share|print|email|rss|facebook|twitter|instagram|linkedin|"
    r"youtube|pinterest|whatsapp|telegram|tiktok|advertisement|ad|ads)"
    r"(?: ?#?\d+)?[.:!…]*(?: image| placeholder)?",
    re.IGNORECASE,
)
_LAST_WORDS = frozenset(
    "logo logos logotype icon icons favicon avatar avatars gravatar sprite sprites".split()
)
_LONGEST_BOILERPLATE = 60  # characters
_LETTER = re.compile(r"[^\W\d_]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f\u200b\u2060\ufeff]")


def clean_caption(text: str) -> str:
    """Return a text in NFC with single spaces, without control characters."""
    text = " ".join(text.split())
    if text.isascii() and text.isprintable():
        return text
    return " ".join(unicodedata.normalize("NFC", _CONTROLS.sub("", text)).split())


def caption_fault(caption: str) -> Reason | None:
    """Return the reason to leave out a cleaned text, or None to keep it."""
    if len(caption) > MAX_CAPTION:
        return Reason.TEXT_TOO_LONG
    if not caption.isascii():
        if "\ufffd" in caption:
            return Reason.UNDECODED_TEXT
        try:
            caption.encode()
        except UnicodeEncodeError:  # half of a pair of surrogates, from JSON
            return Reason.UNDECODED_TEXT
    if not _LETTER.search(caption):
        return Reason.NO_LETTERS
    if (" " not in caption or caption[-1].isdigit()) and _FILE_NAME.fullmatch(caption):
        return Reason.FILE_NAME
    if caption.rpartition(" ")[2].lower() in _LAST_WORDS:
        return Reason.BOILERPLATE_TEXT
    if len(caption) <= _LONGEST_BOILERPLATE and _BOILERPLATE.fullmatch(caption):
        return Reason.BOILERPLATE_TEXT
    return None
