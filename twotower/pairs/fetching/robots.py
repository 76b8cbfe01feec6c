"""robots.txt (RFC 9309), with the lines of AIPREF (`Content-Usage`) and RSL (`License`)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from twotower.pairs.directives import PRODUCT
from twotower.version import __version__

if TYPE_CHECKING:
    from protego import Protego

MAX_ROBOTS_BYTES = 500 * 1024  # RFC 9309, 2.5: a parser must read at least 500 kibibytes


def user_agent(contact: str = "") -> str:
    """Return the `User-Agent` header: product, version, purpose and contact."""
    purpose = "collects image-text pairs for training"
    return f"{PRODUCT}/{__version__} ({'; '.join(filter(None, (purpose, contact)))})"


class UsageRule(NamedTuple):
    """A `Content-Usage` line: a pattern of paths, and the preferences for them."""

    pattern: str
    preferences: str


class Robots:
    """The rules of a robots.txt for this crawler.

    Attributes:
        text: the file.
        licenses: the URLs of its `License` lines, in any group.
        crawl_delay: seconds between two requests that it asks for, or 0.
    """

    def __init__(self, text: str) -> None:
        from protego import Protego

        self.text = text
        self._rules: Protego = Protego.parse(text)
        delay = float(self._rules.crawl_delay(PRODUCT) or 0)
        self.crawl_delay = 0.0 if math.isnan(delay) else max(0.0, delay)
        lines = list(_lines(text))
        self.licenses = [value for field, value in lines if field == "license" and value]
        self._usage = _usage_rules(lines)

    def allows(self, url: str) -> bool:
        """Return True if this crawler may request a URL."""
        return self._rules.can_fetch(url, PRODUCT)

    def content_usage(self, target: str) -> str | None:
        """Return the preferences of the longest `Content-Usage` pattern that matches a path."""
        return longest_match(self._usage, target)


def longest_match(rules: Sequence[tuple[str, str]], target: str) -> str | None:
    """Return the value of the longest pattern that matches, or None.

    Args:
        rules: (pattern, value); a pattern can have `*` and a final `$`, as in RFC 9309, 2.2.3.
        target: a path with its query.
    """
    matches = [rule for rule in rules if matches_pattern(rule[0], target)]
    return max(matches, key=lambda rule: len(rule[0]))[1] if matches else None


def matches_pattern(pattern: str, target: str) -> bool:
    """Return True if a path begins with a pattern of robots.txt."""
    anchored = pattern.endswith("$")
    pieces = (pattern[:-1] if anchored else pattern).split("*")
    position = len(pieces[0])
    if not target.startswith(pieces[0]):
        return False
    for piece in pieces[1:]:  # leftmost matches suffice, and take linear time
        start = target.find(piece, position)
        if start < 0:
            return False
        position = start + len(piece)
    if not anchored or position == len(target):
        return True
    return len(pieces) > 1 and target.endswith(pieces[-1])


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Yield the (field, value) of each line, the field in lower case."""
    for line in text.lstrip("\ufeff").splitlines():
        field, separator, value = line.partition("#")[0].partition(":")
        if separator:
            yield field.strip().lower(), value.strip()


def _usage_rules(lines: Sequence[tuple[str, str]]) -> list[UsageRule]:
    """Return the rules of the groups that name this crawler, or else of those for all (`*`)."""
    groups: dict[str, list[UsageRule]] = {}
    agents: list[str] = ["*"]  # lines before the first group are for all
    in_header = False
    for field, value in lines:
        if field == "user-agent":
            if not in_header:
                agents = []
            agents.append(_product_token(value))
            in_header = True
            groups.setdefault(agents[-1], [])
            continue
        in_header = False
        if field == "content-usage":
            rule = _usage_rule(value)
            for agent in agents:
                groups.setdefault(agent, []).append(rule)
    return groups.get(PRODUCT, groups.get("*", []))


def _product_token(value: str) -> str:
    token = re.match(r"[a-zA-Z_-]+|\*", value)
    return token[0].lower() if token else ""


def _usage_rule(value: str) -> UsageRule:
    """Parse `train-ai=n` or `/path train-ai=n`."""
    if value.startswith(("/", "*")):
        pattern, _, preferences = value.partition(" ")
        return UsageRule(pattern, preferences.strip())
    return UsageRule("/", value)
