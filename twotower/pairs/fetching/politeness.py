"""Politeness: limits on the rate and the number of requests to a host."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from types import TracebackType

MAX_WAIT = 600.0  # seconds; a host that asks for longer pauses is left alone for the run
_MAX_GATES = 20_000  # hosts whose pace is remembered


class HostGate:
    """A gate that requests to a host pass.

    `async with gate:` waits until fewer than `connections` are inside and `interval` seconds
    have passed since the start of the previous request.

    Attributes:
        interval: seconds.
    """

    def __init__(self, connections: int, interval: float) -> None:
        self.interval = interval
        self._slots = asyncio.Semaphore(connections)
        self._users = 0
        self._opens = 0.0  # of time.monotonic

    async def __aenter__(self) -> None:
        self._users += 1
        try:
            await self._slots.acquire()
        except BaseException:
            self._users -= 1
            raise
        try:
            await self._wait_for_turn()
        except BaseException:
            self._release()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._release()

    @property
    def is_idle(self) -> bool:
        """True if nobody is inside or waits, and no pause is left."""
        return not self._users and time.monotonic() >= self._opens

    def pause(self, seconds: float) -> None:
        """Let no request start for some seconds, as `Retry-After` asks."""
        self._opens = max(self._opens, time.monotonic() + seconds)

    async def _wait_for_turn(self) -> None:
        while (delay := self._opens - time.monotonic()) > 0:  # `pause` can prolong the wait
            await asyncio.sleep(delay)
        self._opens = time.monotonic() + self.interval

    def _release(self) -> None:
        self._users -= 1
        self._slots.release()


class HostGates:
    """The gates of all hosts.

    Args:
        connections: concurrent requests to a host.
        interval: seconds between the starts of two requests to a host.
    """

    def __init__(self, connections: int, interval: float) -> None:
        self.connections, self.interval = connections, interval
        self._gates: OrderedDict[str, HostGate] = OrderedDict()

    def __getitem__(self, authority: str) -> HostGate:
        gate = self._gates.get(authority)
        if gate is None:
            gate = self._gates[authority] = HostGate(self.connections, self.interval)
            self._forget_idle_gates()
        self._gates.move_to_end(authority)
        return gate

    def _forget_idle_gates(self) -> None:
        if len(self._gates) > _MAX_GATES:
            authority, oldest = next(iter(self._gates.items()))
            if oldest.is_idle:
                del self._gates[authority]
