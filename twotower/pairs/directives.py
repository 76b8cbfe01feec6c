"""Directives of a response or page about its use: X-Robots-Tag, AIPREF and TDMRep.

The parsers are used for pages, when candidates are collected, and for pictures, when they are
fetched. The files of a host (robots.txt, tdmrep.json, licences) are read by `fetching`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

PRODUCT = "twotower"  # the product token that robots.txt and X-Robots-Tag can name
# `noai` and `noimageai` were introduced by DeviantArt; the others are Google's.
_DENYING_TAGS = frozenset(("noai", "noimageai", "noindex", "noimageindex", "none"))
_TAGS_WITH_VALUE = frozenset(
    ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview", "crawl-delay")
)
# AIPREF, and the names that its drafts and Cloudflare's content signals have for training.
_TRAINING = ("train-ai", "train-genai", "ai-train")
_WIDER_CATEGORIES = ("ai", "tdm", "bots", "all")  # of the drafts, for where training is not stated
_PREFERENCES = {"n": False, "no": False, "?0": False, "y": True, "yes": True, "?1": True}


def denied_by_tags(lines: Iterable[str]) -> bool:
    """Return True if robots directives deny the use, for all crawlers or for this one.

    Args:
        lines: values of `X-Robots-Tag` or `<meta name="robots">`; `agent: tag, tag` limits the
            tags that follow to an agent.
    """
    return any(map(_line_denies, lines))


def _line_denies(line: str) -> bool:
    agent = ""
    for item in line.lower().split(","):
        name, colon, tags = item.partition(":")
        if not colon or name.strip() in _TAGS_WITH_VALUE:
            tags = name
        else:
            agent = name.strip()
        if agent in ("", "*", PRODUCT) and _DENYING_TAGS.intersection(tags.split()):
            return True
    return False


def denies_training(preferences: str) -> bool:
    """Return True if AIPREF preferences, such as `train-ai=n`, deny training.

    A denial of any kind of training decides, then the most specific of the wider categories if
    training is not stated. Parameters (`;`) have no meaning.
    """
    stated = {}
    for item in preferences.lower().split(","):
        category, _, value = item.partition(";")[0].partition("=")
        if value.strip() in _PREFERENCES:
            stated[category.strip()] = _PREFERENCES[value.strip()]
    training = [stated[category] for category in _TRAINING if category in stated]
    wider = [stated[category] for category in _WIDER_CATEGORIES if category in stated]
    return not all(training or wider[:1])


def parse_reservation(value: str) -> int | None:
    """Return the value of `tdm-reservation` (TDMRep), or None if it is neither 0 nor 1."""
    return {"0": 0, "1": 1}.get(value.strip())


def response_refuses(headers: Sequence[tuple[str, str]]) -> bool:
    """Return True if a response's headers refuse that its images are collected for training."""

    def values(name: str) -> list[str]:
        return [value for key, value in headers if key.lower() == name]

    return (
        denied_by_tags(values("x-robots-tag"))
        or any(map(denies_training, values("content-usage")))
        or 1 in map(parse_reservation, values("tdm-reservation"))
    )


def metas_refuse(metas: Iterable[Mapping[str, str | None]]) -> bool:
    """Return True if `<meta name="robots">`, or that of TDMRep, refuses collection.

    Args:
        metas: the attributes of each `<meta>`.
    """
    for meta in metas:
        name, content = (meta.get("name") or "").strip().lower(), meta.get("content") or ""
        if name in ("robots", PRODUCT) and denied_by_tags([content]):
            return True
        if name == "tdm-reservation" and parse_reservation(content) == 1:
            return True
    return False
