"""Consent: the statements of a host about the use of a picture, and the decision that follows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from twotower.pairs.directives import denied_by_tags, denies_training, parse_reservation
from twotower.pairs.fetching.addresses import parse_url
from twotower.pairs.fetching.robots import matches_pattern

CONVENTIONS = ("robots", "x-robots-tag", "content-usage", "tdmrep", "rsl")

# RSL 1.0: the tokens that include training, in the recommendation and in its drafts.
_RSL_TRAINING = frozenset(("all", "ai-all", "ai-train", "train-ai", "ai-use"))


@dataclass
class Consent:
    """The statements about a URL at the time of its request.

    Attributes:
        robots: "allowed", "denied", "absent" (a client error, so all is allowed) or "unreachable".
        x_robots_tag: the values of the header, each line one value.
        content_usage: the preferences of AIPREF, by source ("header", "robots.txt").
        tdm_reservation: 1 if text and data mining is reserved, 0 if not, None without a statement.
        tdm_policy: the URL of the policy of TDMRep, or "".
        rsl: the URLs of the licences of RSL.
        rsl_decision: "permitted", "denied", "unreadable", or "" without a licence for this URL.
        documents: the SHA-256 of robots.txt, tdmrep.json and licences by URL, kept in the ledger.
    """

    robots: str = ""
    x_robots_tag: list[str] = field(default_factory=list)
    content_usage: dict[str, str] = field(default_factory=dict)
    tdm_reservation: int | None = None
    tdm_policy: str = ""
    rsl: list[str] = field(default_factory=list)
    rsl_decision: str = ""
    documents: dict[str, str] = field(default_factory=dict)

    def denials(self) -> list[str]:
        """Return the conventions, of `CONVENTIONS`, that deny the use of the picture."""
        denied = {
            "robots": self.robots in ("denied", "unreachable"),
            "x-robots-tag": denied_by_tags(self.x_robots_tag),
            "content-usage": any(map(denies_training, self.content_usage.values())),
            "tdmrep": self.tdm_reservation == 1,
            "rsl": self.rsl_decision in ("denied", "unreadable"),
        }
        return [convention for convention in CONVENTIONS if denied[convention]]

    def to_json(self) -> dict[str, Any]:
        """Return the statements that were made, without the empty fields."""
        return {
            name: value for name, value in vars(self).items() if value not in ("", [], {}, None)
        }


@dataclass(frozen=True)
class TdmRule:
    """A rule of `/.well-known/tdmrep.json`: a pattern of paths, and the reservation for them."""

    location: str
    reservation: int
    policy: str


def parse_tdmrep(text: str) -> list[TdmRule]:
    """Return the rules of a tdmrep.json; none if it is malformed."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return []
    rules = []
    for entry in tree if isinstance(tree, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("location"), str):
            continue
        reservation = parse_reservation(str(entry.get("tdm-reservation", "")))
        if reservation is not None:
            policy = entry.get("tdm-policy")
            rules.append(
                TdmRule(entry["location"], reservation, policy if isinstance(policy, str) else "")
            )
    return rules


def matching_tdm_rule(rules: Sequence[TdmRule], target: str) -> TdmRule | None:
    """Return the rule with the longest location that matches a path."""
    matches = [rule for rule in rules if matches_pattern(rule.location, target)]
    return max(matches, key=lambda rule: len(rule.location), default=None)


@dataclass(frozen=True)
class RslContent:
    """A `content` element of an RSL document.

    Attributes:
        pattern: a path pattern, or a URL with one.
        permitted: True if a licence of it permits training without payment and registration.
    """

    pattern: str
    permitted: bool


def parse_rsl(text: str) -> list[RslContent] | None:
    """Return the contents of an RSL document, or None if it cannot be read.

    A document with a document type is refused: its entities could expand without limit.
    """
    if re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        return None
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError):
        return None
    if _local_name(root) != "rsl":
        return None
    return [
        RslContent(element.get("url") or "/", _content_permits(element))
        for element in root.iter()
        if _local_name(element) == "content"
    ]


def decide_rsl(contents: Sequence[RslContent], url: str) -> str:
    """Return "permitted" or "denied" by the longest matching pattern, or "" if none matches."""
    parsed = parse_url(url)
    assert parsed is not None
    matches = [
        content
        for content in contents
        if matches_pattern(
            content.pattern, parsed.target if content.pattern.startswith("/") else parsed.text
        )
    ]
    if not matches:
        return ""
    length = max(len(content.pattern) for content in matches)
    longest = [content for content in matches if len(content.pattern) == length]
    return "permitted" if all(content.permitted for content in longest) else "denied"


def _content_permits(content: ElementTree.Element) -> bool:
    # With a licence server, a client must obtain even a free licence first.
    if content.get("server"):
        return False
    licenses = [child for child in content if _local_name(child) == "license"]
    return not licenses or any(map(_license_permits, licenses))


def _license_permits(license_element: ElementTree.Element) -> bool:
    permits = _usage_tokens(license_element, "permits")
    prohibits = _usage_tokens(license_element, "prohibits") or set()
    payments = [child for child in license_element if _local_name(child) == "payment"]
    free = all(payment.get("type", "free").lower() == "free" for payment in payments)
    allowed = permits is None or bool(permits & _RSL_TRAINING)
    return free and allowed and not prohibits & _RSL_TRAINING


def _usage_tokens(license_element: ElementTree.Element, name: str) -> set[str] | None:
    """Return the usage tokens of `permits` or `prohibits` elements; None without such elements."""
    elements = [
        child
        for child in license_element
        if _local_name(child) == name and child.get("type", "usage").lower() == "usage"
    ]
    if not elements:
        return None
    return {token for child in elements for token in re.split(r"[\s,]+", child.text or "") if token}


def _local_name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2].lower() if isinstance(element.tag, str) else ""
