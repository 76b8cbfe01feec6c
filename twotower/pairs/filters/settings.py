"""The settings of all filters, and the reasons for which a pair is removed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from twotower.errors import PairsError


class Reason(NamedTuple):
    """A reason for removing a pair: the filter that does it, and the fault."""

    filter: str
    fault: str


REASONS = (
    Reason("readable", "picture cannot be read"),
    Reason("readable", "no caption"),
    Reason("language", "not in a selected language"),
    Reason("text", "too short"),
    Reason("text", "too long"),
    Reason("text", "few letters"),
    Reason("text", "repeated words"),
    Reason("text", "markup"),
    Reason("text", "file name or address"),
    Reason("text", "boilerplate"),
    Reason("contact", "e-mail address"),
    Reason("contact", "phone number"),
    Reason("size", "too small"),
    Reason("size", "too elongated"),
    Reason("size", "blank"),
    Reason("evaluation", "picture of an evaluation set"),
    Reason("placeholder", "picture with many texts"),
    Reason("duplicate-picture", "better copy exists"),
    Reason("duplicate-text", "same text and picture"),
    Reason("duplicate-text", "text of many pictures"),
    Reason("score", "low CLIP score"),
    Reason("balance", "no query matches"),
    Reason("balance", "queries are frequent"),
)
"""In the order in which the filters are applied. A pair has the reason of the earliest."""

KEPT = 0
CODES = {reason: number for number, reason in enumerate(REASONS, 1)}
FILTERS = tuple(dict.fromkeys(reason.filter for reason in REASONS))


def code(name: str, fault: str) -> int:
    """Return the number by which columns store a reason; 0 is `KEPT`."""
    return CODES[Reason(name, fault)]


@dataclass(frozen=True)
class FilterSettings:
    """The settings of the filters. The source of each default is in docs/pairs-filter.md.

    Attributes:
        skipped: names of filters that are not applied.
        languages: ISO 639-1 codes of the languages to keep; all if empty.
        min_language_ratio: probability of the likeliest of them relative to the likeliest of all.
        min_words, max_words: words of a text (DataComp, baselines: more than 2; CC12M, section
            2.2: at most 256). A character of a script without spaces counts as a word.
        min_characters: of a text (DataComp, baselines: more than 5).
        min_letters: share of letters among the characters that are no spaces.
        min_distinct: share of distinct words in a text of at least 4 words.
        min_side: of a picture, in pixels (DataComp, baselines; ALIGN, section 3).
        max_aspect: longer side over shorter side (DataComp, baselines; ALIGN, section 3).
        min_contrast: standard deviation of the grey levels (0-255) of a picture.
        placeholder_texts: distinct texts of a picture, in all its copies, above which it is a
            placeholder.
        picture_distance: bits of 256 in which the hashes of copies may differ.
        text_similarity: Jaccard similarity of the character 5-grams of equal texts (Lee et al.
            2022, section 4.2).
        text_copies: pairs with equal texts to keep (ALIGN, section 3: texts of more than 10
            pictures are removed).
        score_share: share of the pairs to keep, by CLIP score (DataComp, baselines: 30 %).
        query_limit: pairs of a query to keep (MetaCLIP, section 3.4: 20 000).
        seed: of the random choice by queries.
    """

    skipped: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    min_language_ratio: float = 0.5
    min_words: int = 3
    max_words: int = 256
    min_characters: int = 6
    min_letters: float = 0.5
    min_distinct: float = 0.5
    min_side: int = 200
    max_aspect: float = 3.0
    min_contrast: float = 4.0
    placeholder_texts: int = 10
    picture_distance: int = 56
    text_similarity: float = 0.8
    text_copies: int = 10
    score_share: float = 0.3
    query_limit: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = set(self.skipped) - set(FILTERS)
        if unknown:
            raise PairsError(min(unknown), "no such filter", f"choose from {', '.join(FILTERS)}")
        if not 0 < self.score_share <= 1:
            raise PairsError(
                "score share", f"is {self.score_share}", "give a share above 0 and at most 1"
            )

    def applies(self, name: str) -> bool:
        """Return True unless the filter is skipped."""
        return name not in self.skipped

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
