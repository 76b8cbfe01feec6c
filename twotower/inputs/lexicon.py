"""Find the names of a lexicon in a text: "Two Hot-Dogs" holds "hot dog"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

MAX_WORDS = 3  # of a name
_WORD = re.compile(r"[^\W_]+")
_APOSTROPHES = str.maketrans("", "", "'\u2019")
# Endings of plurals and their replacements, in the order in which they are tried.
_ENDINGS = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man"))


class Lexicon:
    """Names of up to three words, each with its row.

    Args:
        names: as `split_words` leaves them, joined by single spaces, in the order of their rows.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._rows = dict(zip(names, range(len(names)), strict=True))

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, text: str) -> list[int]:
        """Return the rows of the names in a text, each once, in the order of the text.

        Names do not overlap: from left to right, the longest one at a word is taken. The last word
        of a name may be in the plural.
        """
        words, rows, start = split_words(text), dict[int, None](), 0
        while start < len(words):
            for count in range(min(MAX_WORDS, len(words) - start), 0, -1):
                row = self._row(" ".join(words[start : start + count]))
                if row is not None:
                    rows[row] = None
                    break
            start += count
        return list(rows)

    def _row(self, name: str) -> int | None:
        """Return the row of a name, or of its singular."""
        return next((self._rows[form] for form in _forms(name) if form in self._rows), None)


def read_lexicon(path: Path) -> Lexicon:
    """Read the names of a file, one on each line."""
    return Lexicon(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without accents, apostrophes and punctuation."""
    text = text.lower().translate(_APOSTROPHES)
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return _WORD.findall(text)


def _forms(name: str) -> Iterator[str]:
    """Yield the name unchanged, and without plural endings."""
    yield name
    for ending, replacement in _ENDINGS:
        if name.endswith(ending) and len(name) > len(ending) + 1:
            yield name.removesuffix(ending) + replacement
