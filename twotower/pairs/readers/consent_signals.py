"""Refusals of a page in its own response: robots directives, Content-Usage and TDMRep.

Pure parsers of the values; robots.txt and other files of a host are read when images are fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

AGENT = "twotower"
# `noindex` and `none` forbid to collect a page, the others its images, or training on them.
REFUSALS = frozenset(("noindex", "none", "noimageindex", "noai", "noimageai"))
# Directives with a value, which is no list for an agent.
_VALUED = frozenset(
    ("max-snippet", "max-image-preview", "max-video-preview", "unavailable_after", "crawl-delay")
)
_TRAIN_AI = re.compile(
    r"(?:^|,)\s*train-(?:gen)?ai\s*=\s*(?:n\b|no\b|\?0)|(?:^|,)\s*ai-train\s*=\s*no?\b"
)


def robots_refuse(values: Iterable[str]) -> bool:
    """Return True if robots directives refuse that a page's images are collected.

    Args:
        values: of each header X-Robots-Tag, or the content of `<meta name="robots">`. A value for
            another agent, such as "googlebot: noindex", is not obeyed.
    """
    return any(_refuses(value.lower()) for value in values)


def _refuses(value: str) -> bool:
    agent = ""
    for directive in value.split(","):
        name, colon, value_of_name = directive.partition(":")
        if colon and name.strip() not in _VALUED:
            agent, directive = name.strip(), value_of_name
        if agent in ("", "*", AGENT) and REFUSALS.intersection(directive.split()):
            return True
    return False


def usage_refuses(values: Iterable[str]) -> bool:
    """Return True if a header Content-Usage (AIPREF) refuses training: `train-ai=n`."""
    return any(_TRAIN_AI.search(value.lower()) for value in values)


def mining_is_reserved(values: Iterable[str]) -> bool:
    """Return True if `tdm-reservation` (TDMRep) of a header or a page is 1."""
    return any(value.strip() == "1" for value in values)


def response_refuses(headers: Sequence[tuple[str, str]]) -> bool:
    """Return True if a response's headers refuse that its images are collected for training."""

    def values(name: str) -> list[str]:
        return [value for key, value in headers if key.lower() == name]

    return (
        robots_refuse(values("x-robots-tag"))
        or usage_refuses(values("content-usage"))
        or mining_is_reserved(values("tdm-reservation"))
    )


def metas_refuse(metas: Iterable[Mapping[str, str | None]]) -> bool:
    """Return True if `<meta name="robots">`, or that of TDMRep, refuses collection.

    Args:
        metas: the attributes of each `<meta>`.
    """
    for meta in metas:
        name, content = (meta.get("name") or "").strip().lower(), meta.get("content") or ""
        if name in ("robots", AGENT) and robots_refuse([content]):
            return True
        if name == "tdm-reservation" and mining_is_reserved([content]):
            return True
    return False
