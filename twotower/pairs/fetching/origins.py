"""The documents in which an origin states its rules: robots.txt, tdmrep.json and RSL licences."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urljoin

from twotower.pairs.fetching.addresses import WebUrl, parse_url
from twotower.pairs.fetching.consent import (
    Consent,
    RslContent,
    TdmRule,
    decide_rsl,
    matching_tdm_rule,
    parse_rsl,
    parse_tdmrep,
)
from twotower.pairs.fetching.politeness import MAX_WAIT, HostGates
from twotower.pairs.fetching.robots import MAX_ROBOTS_BYTES, Robots
from twotower.pairs.fetching.web_client import FetchError, Response, WebClient, status_failure

_ATTEMPTS = 3  # with pauses of 1 and 2 seconds, or as `Retry-After` asks
_MAX_PAUSE = 30.0  # seconds
_MAX_LICENSES = 5  # of an origin
_MAX_CACHE_CHARACTERS = 2**25  # of all documents in the cache
_POLICY_COST = 2000  # characters that an origin without documents counts

StoreDocument = Callable[[str, str, str], None]
"""Keeps a document: its SHA-256, URL and text."""


@dataclass
class OriginPolicy:
    """The rules of an origin.

    Attributes:
        robots_state: "present", "absent" or "unreachable".
        failure: the fault of the network that made robots.txt unreachable.
        licenses: the contents of each licence by its URL; None if it cannot be read.
        documents: the SHA-256 of each document by its URL.
        cost: the characters of the documents.
    """

    robots_state: str = "absent"
    robots: Robots | None = None
    failure: FetchError | None = None
    tdm_rules: list[TdmRule] = field(default_factory=list)
    licenses: dict[str, list[RslContent] | None] = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)
    cost: int = _POLICY_COST

    def consent(self, url: WebUrl) -> Consent:
        """Return the statements about a URL, before its headers are known."""
        consent = Consent(robots=self.robots_state, documents=dict(self.documents))
        if self.robots is not None:
            consent.robots = "allowed" if self.robots.allows(url.text) else "denied"
            usage = self.robots.content_usage(url.target)
            if usage is not None:
                consent.content_usage["robots.txt"] = usage
        rule = matching_tdm_rule(self.tdm_rules, url.target)
        if rule is not None:
            consent.tdm_reservation, consent.tdm_policy = rule.reservation, rule.policy
        consent.rsl = list(self.licenses)
        consent.rsl_decision = self._rsl_decision(url)
        return consent

    def _rsl_decision(self, url: WebUrl) -> str:
        """Return the strictest decision of all licences."""
        decisions = {
            "unreadable" if contents is None else decide_rsl(contents, url.text)
            for contents in self.licenses.values()
        }
        for decision in ("denied", "unreadable", "permitted"):
            if decision in decisions:
                return decision
        return ""


class Origins:
    """A cache of the policies of origins; each is requested once.

    Args:
        store_document: called with every document read.
    """

    def __init__(self, client: WebClient, gates: HostGates, store_document: StoreDocument) -> None:
        self._client, self._gates, self._store_document = client, gates, store_document
        self._policies: OrderedDict[str, asyncio.Task[OriginPolicy]] = OrderedDict()
        self._cost = 0

    async def policy(self, url: WebUrl) -> OriginPolicy:
        """Return the policy of the origin of a URL."""
        task = self._policies.get(url.origin)
        if task is None:
            task = asyncio.create_task(self._read_policy(url))
            self._policies[url.origin] = task
        self._policies.move_to_end(url.origin)
        return await task

    async def _read_policy(self, url: WebUrl) -> OriginPolicy:
        policy = OriginPolicy()
        await self._read_robots(url, policy)
        delay = policy.robots.crawl_delay if policy.robots else 0.0
        if policy.robots_state != "unreachable" and delay <= MAX_WAIT:
            await self._read_tdmrep(url, policy)
            await self._read_licenses(url, policy)
        self._bound_cache(policy.cost)
        return policy

    async def _read_robots(self, url: WebUrl, policy: OriginPolicy) -> None:
        """Read robots.txt.

        A client error but 429 allows all; a server error, 429 or a fault of the network denies all.
        """
        address = f"{url.origin}/robots.txt"
        try:
            response = await self._request(address, MAX_ROBOTS_BYTES)
        except FetchError as failure:
            if failure.reason in ("too_many_redirects", "bad_redirect"):
                return  # RFC 9309, 2.3.1.2: unavailable
            policy.robots_state, policy.failure = "unreachable", failure
            return
        if response.status == 200:
            policy.robots_state = "present"
            policy.robots = Robots(self._text(address, response, policy))
            gate = self._gates[url.authority]
            gate.interval = max(gate.interval, min(policy.robots.crawl_delay, MAX_WAIT))
        elif response.status == 429 or response.status >= 500:
            policy.robots_state = "unreachable"

    async def _read_tdmrep(self, url: WebUrl, policy: OriginPolicy) -> None:
        address = f"{url.origin}/.well-known/tdmrep.json"
        try:
            response = await self._request(address, MAX_ROBOTS_BYTES)
        except FetchError:
            return
        if response.status == 200:
            policy.tdm_rules = parse_tdmrep(self._text(address, response, policy))

    async def _read_licenses(self, url: WebUrl, policy: OriginPolicy) -> None:
        robots = policy.robots
        for location in robots.licenses[:_MAX_LICENSES] if robots else ():
            address = _absolute(url.origin, location)
            policy.licenses[address] = None
            try:
                response = await self._request(address, MAX_ROBOTS_BYTES)
            except FetchError:
                continue
            if response.status == 200:
                policy.licenses[address] = parse_rsl(self._text(address, response, policy))

    async def _request(self, address: str, max_bytes: int) -> Response:
        """Request a document, again while its host has a fault that can heal."""
        url = parse_url(address)
        if url is None:
            raise FetchError("bad_url", address[:200])
        gate = self._gates[url.authority]
        for attempt in range(_ATTEMPTS):
            is_last = attempt == _ATTEMPTS - 1
            try:
                async with gate:
                    response = await self._client.get_document(url, max_bytes)
                failure = status_failure(response)
                if is_last or not failure.healable:
                    return response
            except FetchError as error:
                if is_last or not error.healable:
                    raise
                failure = error
            gate.pause(min(failure.retry_after or 2**attempt, _MAX_PAUSE))
        raise AssertionError  # the loop returns or raises

    def _text(self, address: str, response: Response, policy: OriginPolicy) -> str:
        """Return the text of a document, and keep it with its hash."""
        digest = hashlib.sha256(response.body).hexdigest()
        text = response.body.decode("utf-8", "replace").replace("\0", "\ufffd")
        policy.documents[address] = digest
        policy.cost += len(text)
        self._store_document(digest, address, text)
        return text

    def _bound_cache(self, cost: int) -> None:
        self._cost += cost
        while self._cost > _MAX_CACHE_CHARACTERS and len(self._policies) > 1:
            origin, task = next(iter(self._policies.items()))
            if not task.done():
                self._policies.move_to_end(origin)
                break
            del self._policies[origin]
            self._cost -= task.result().cost


def _absolute(origin: str, location: str) -> str:
    """Return a URL relative to an origin; a malformed one as it is, which no request accepts."""
    try:
        return urljoin(origin, location)
    except ValueError:
        return location
