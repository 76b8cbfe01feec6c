"""Balance by queries, as MetaCLIP does: pairs of frequent queries are kept with a probability.

A query with more than t matching texts is in the head; each of its texts has the chance t / matches
(Xu et al. 2023, "Demystifying CLIP Data", section 3.4 and algorithm 1). Of other languages than
English, t is chosen so that their tail has the same share of all matches ("Meta CLIP 2", Chuang et
al. 2025, section 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float64Array, Int64Array
from twotower.errors import PairsError
from twotower.pairs.filters.texts import normal_form

ALL_LANGUAGES = ""
REFERENCE = "en"  # the language whose limit is given


class QueryList:
    """Queries of a language, found in texts as runs of whole words."""

    def __init__(self, queries: Iterable[str]) -> None:
        forms = dict.fromkeys(form for query in queries if (form := normal_form(query)))
        self._numbers = {form: number for number, form in enumerate(forms)}
        self._longest = max((form.count(" ") + 1 for form in forms), default=0)

    def __len__(self) -> int:
        return len(self._numbers)

    def match(self, text: str) -> list[int]:
        """Return the numbers of the queries in a text, each once, in ascending order."""
        words = normal_form(text).split()
        runs = (
            " ".join(words[start : start + length])
            for start in range(len(words))
            for length in range(1, min(self._longest, len(words) - start) + 1)
        )
        return sorted({self._numbers[run] for run in runs if run in self._numbers})


def read_queries(path: Path) -> dict[str, QueryList]:
    """Read queries: a text file with one on each line, or a folder of files `LANGUAGE.txt`.

    Returns:
        The queries of each language; those of a file are for `ALL_LANGUAGES`.

    Raises:
        PairsError: there are none.
    """
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    lists = {}
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise PairsError(file, f"cannot be read ({error})", "give a text in UTF-8") from None
        queries = QueryList(lines)
        if len(queries):
            lists[file.stem if path.is_dir() else ALL_LANGUAGES] = queries
    if not lists:
        raise PairsError(path, "holds no queries", "write one on each line")
    return lists


@dataclass(frozen=True)
class Balance:
    """The thinning of the pairs of a language.

    Attributes:
        limit: t, the matches above which a query is in the head.
        tail_share: share of all matches that belong to queries of the tail.
        probabilities: to keep a pair for each of its queries [queries].
    """

    limit: int
    tail_share: float
    probabilities: Float64Array


class QueryBalance:
    """Counts of matches by language, and the decisions that follow from them.

    Call `add` for all texts, then `decide`, and `keep` for each text again.
    """

    def __init__(self, lists: dict[str, QueryList]) -> None:
        self._lists = lists
        self._counts = {
            language: np.zeros(len(queries), np.int64) for language, queries in lists.items()
        }
        self.balances: dict[str, Balance] = {}

    @property
    def by_language(self) -> bool:
        """True if each language has queries of its own."""
        return ALL_LANGUAGES not in self._lists

    def add(self, texts: Sequence[str], languages: Sequence[str]) -> None:
        """Count the matches of texts."""
        for text, language in zip(texts, languages, strict=True):
            group = self._group(language)
            if group is not None:
                self._counts[group][self._lists[group].match(text)] += 1

    def decide(self, limit: int) -> None:
        """Choose the limit of each language, and the probabilities.

        Args:
            limit: of English, or, without a list for it, of the language with the most matches.
        """
        totals = {language: int(counts.sum()) for language, counts in self._counts.items()}
        reference = REFERENCE if REFERENCE in totals else max(totals, key=lambda key: totals[key])
        share = tail_share(self._counts[reference], limit)
        for language, counts in self._counts.items():
            own_limit = limit if language == reference else limit_of_share(counts, share)
            self.balances[language] = Balance(
                own_limit,
                tail_share(counts, own_limit),
                own_limit / np.maximum(counts, own_limit),
            )

    def probabilities(self, texts: Sequence[str], languages: Sequence[str]) -> Float64Array:
        """Return the probability to keep each text [n]; 0 for texts without a query."""
        return np.array(
            [self._probability(*pair) for pair in zip(texts, languages, strict=True)], np.float64
        )

    def _probability(self, text: str, language: str) -> float:
        group = self._group(language)
        if group is None:
            return 0.0
        chances = self.balances[group].probabilities[self._lists[group].match(text)]
        return float(1 - np.prod(1 - chances))

    def _group(self, language: str) -> str | None:
        group = language if self.by_language else ALL_LANGUAGES
        return group if group in self._lists else None


def tail_share(counts: Int64Array, limit: int) -> float:
    """Return the share of matches that belong to queries with fewer than `limit`."""
    total = int(counts.sum())
    return float(counts[counts < limit].sum() / total) if total else 1.0


def limit_of_share(counts: Int64Array, share: float) -> int:
    """Return the limit of a language at which its tail has a share closest to `share`."""
    limits = np.unique(counts[counts > 0])
    if not len(limits):
        return 1
    limits = np.append(limits, limits[-1] + 1)  # above all counts: every query is in the tail
    ordered = np.sort(counts)
    sums = np.concatenate([[0], np.cumsum(ordered)])
    shares = sums[np.searchsorted(ordered, limits)] / sums[-1]
    return int(limits[np.abs(shares - share).argmin()])


def chances(ranks: NDArray[np.uint64], seed: int) -> Float64Array:
    """Return a number in [0, 1) for each rank, the same in any order (splitmix64)."""
    values = ranks + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return (values >> np.uint64(11)).astype(np.float64) / 2.0**53
