"""The language of searches: words, pictures, what shall not be there, and filters.

"beach at sunset" - "people" + photo.jpg^0.5 after:2021 folder:trips
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower.errors import QueryError
from twotower.inputs.media import MEDIA_SUFFIXES
from twotower.search.filters import FILTERS, Near, _conditions


@dataclass(frozen=True)
class Term:
    """Something to look for, or with `wanted` False something that shall not be there.

    Either words (`text`) or a picture (`picture`); the weight says how much it counts.
    """

    text: str = ""
    picture: Path | None = None
    weight: float = 1.0
    wanted: bool = True


@dataclass(frozen=True)
class Query:
    """A parsed search. `where` and `parameters` are the filters, as `Catalog.select` takes them.

    A circle cannot be said in SQL alone: of what `where` leaves, `near` has to hold as well.
    """

    text: str
    terms: tuple[Term, ...]
    where: str = "1"
    parameters: tuple[Any, ...] = ()
    near: tuple[Near, ...] = ()

    @property
    def words(self) -> str:
        """All the words that are looked for, for file names and keywords."""
        return " ".join(term.text for term in self.terms if term.wanted and term.text)


def parse_query(text: str, find_picture: Callable[[str], Path | None] | None = None) -> Query:
    """Understand what a person typed.

    Words that stand together are one description. A term may be in quotes, `+` starts another that
    must hold too, `-` one that must not, `^2` makes it count double. `key:value` is a filter.

    Args:
        find_picture: says which file a term that looks like a path means, if any; by default a
            path from the working directory.

    Raises:
        QueryError: naming the token that makes no sense.
    """
    find_picture = find_picture or _existing
    terms: list[Term] = []
    filters: dict[str, list[str]] = {}
    words: list[str] = []
    wanted, signed = True, ""  # of the next term; the + or - that stands just before, if one does

    def end_words() -> None:
        nonlocal wanted
        if words:
            terms.append(_term(" ".join(words), wanted))
            words.clear()
            wanted = True

    for token in _tokens(text):
        if token in ("+", "-"):
            end_words()
            if signed:
                raise QueryError(_nothing_behind(signed))
            wanted, signed = token == "+", token
            continue
        if match := re.fullmatch(r'([+-]?)"(.*)"(\^\S*)?', token, re.DOTALL):
            end_words()
            sign, quoted, weight = match.groups()
            terms.append(_term(quoted + (weight or ""), _sign(sign, wanted)))
            wanted = True
        elif condition := _filter(token, signed):
            end_words()
            key, value = condition
            filters.setdefault(key, []).append(value)
        elif picture := _picture(token, find_picture, signed):
            end_words()
            path, weight = picture
            sign = token[0] if token[0] in "+-" else ""
            terms.append(Term(picture=path, weight=weight, wanted=_sign(sign, wanted)))
            wanted = True
        elif re.fullmatch(r"[+-][^\W\d_].*", token):
            end_words()
            terms.append(_term(token[1:], token[0] == "+"))
            wanted = True
        else:
            words.append(token)
        signed = ""
    end_words()
    _check(text, terms, filters)
    if signed:
        raise QueryError(_nothing_behind(signed))
    where, parameters, near = _conditions(filters)
    return Query(text, tuple(terms), where, parameters, near)


def _tokens(text: str) -> list[str]:
    """Split at spaces, but not inside quotes.

    Raises:
        QueryError: a quote that is not closed.
    """
    text = text.replace("“", '"').replace("”", '"').replace("„", '"')
    if text.count('"') % 2:
        start = text.rindex('"')
        raise QueryError(f'the quote at {text[start : start + 20]!r} is not closed; add a "')
    return re.findall(r'(?:[^\s"]|"[^"]*")+', text)


def _sign(sign: str, wanted: bool) -> bool:
    return sign == "+" if sign else wanted


def _term(text: str, wanted: bool) -> Term:
    words, weight = _split_weight(text)
    if not words.strip():
        raise QueryError(f"{text!r} has no words; write what to look for between the quotes")
    return Term(" ".join(words.split()), weight=weight, wanted=wanted)


def _split_weight(text: str) -> tuple[str, float]:
    """`beach^2` -> ("beach", 2.0). Raises `QueryError` for a weight that is no number above 0."""
    words, mark, number = text.rpartition("^")
    if not mark:
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = 0.0
    if not 0 < weight <= 100:
        raise QueryError(
            f'{mark}{number} is no weight; write a number above 0 after ^, as in "beach"^2'
        )
    return words, weight


def _filter(token: str, signed: str) -> tuple[str, str] | None:
    """The key and the value of a filter; None for words, such as `star wars: a hope`.

    Raises:
        QueryError: no such filter, nothing behind the colon, or a sign before it.
    """
    match = re.fullmatch(r"([+-]?)([A-Za-z]+):(.*)", token, re.DOTALL)
    if not match:
        return None
    sign, key, value = match[1], match[2].lower(), match[3].strip('"')
    if key not in FILTERS:
        if sign or not value:
            return None
        raise QueryError(_unknown_filter(key, token))
    if sign or signed:
        raise QueryError(f"{key}:{value} is a filter and takes no + or -; leave that out")
    if not value.strip():
        raise QueryError(
            f"{key}: has nothing behind it; write {key}:{FILTERS[key]} without a space, "
            f'or as words: "{key}:"'
        )
    return key, value


def _nothing_behind(sign: str) -> str:
    return f'{sign} has nothing behind it; write words, or put it in quotes: "{sign}"'


def _picture(
    token: str, find_picture: Callable[[str], Path | None], signed: str
) -> tuple[Path, float] | None:
    """The file that a token means and its weight; None for words.

    Raises:
        QueryError: it can only mean a file, and there is none.
    """
    name, weight = _split_weight(token.lstrip("+-")) if "^" in token else (token.lstrip("+-"), 1.0)
    if Path(name).suffix.lower() not in MEDIA_SUFFIXES:
        return None
    path = find_picture(name)
    if path is not None:
        return path, weight
    if os.sep in name or token[0] in "+-" or signed:
        raise QueryError(f"{name}: there is no such picture; check the path")
    return None  # a file's name, to be looked for among the words


def _existing(name: str) -> Path | None:
    path = Path(name).expanduser()
    return path if path.is_file() else None


def _unknown_filter(key: str, token: str) -> str:
    close = difflib.get_close_matches(key, FILTERS, 1)
    if close:
        return f"{token!r}: no filter {key!r}; did you mean {close[0]}:{token.split(':', 1)[1]}?"
    names = ", ".join(f"{name}:" for name in FILTERS)
    return f'{token!r}: no filter {key!r}; there are {names} or put it in quotes: "{token}"'


def _check(text: str, terms: list[Term], filters: dict[str, list[str]]) -> None:
    if not terms and not filters:
        raise QueryError('nothing to look for; write some words, such as "beach at sunset"')
    if terms and not any(term.wanted for term in terms):
        raise QueryError(
            f"{text!r} only says what shall not be there; add what to look for before the minus"
        )
