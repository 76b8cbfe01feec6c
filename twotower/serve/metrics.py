"""Prometheus metrics of the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from twotower.serve.batcher import Batcher

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


@dataclass
class Outcome:
    """The HTTP status of a request, once it is known."""

    status: int = 500


class Metrics:
    """Counters of requests, and of the batchers that are added."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "twotower_requests",
            "Requests by endpoint, method and status.",
            ("endpoint", "method", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "twotower_request_seconds",
            "Seconds from the head of a request to the head of its response.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=self._registry,
        )

    def add_batchers(self, batchers: Sequence[Batcher[Any, Any]]) -> None:
        """Report the queues and towers of batchers, also of those added to the list later."""
        self._registry.register(_BatcherCollector(batchers))

    def add_counter(self, name: str, documentation: str, count: Callable[[], int]) -> None:
        """Report a counter that is read when metrics are."""
        self._registry.register(_FunctionCollector(name, documentation, count))

    @contextmanager
    def measure(self, endpoint: str, method: str) -> Iterator[Outcome]:
        """Count and time a request; its body sets the status."""
        outcome, started = Outcome(), time.perf_counter()
        try:
            yield outcome
        finally:
            self._requests.labels(endpoint, method, str(outcome.status)).inc()
            self._seconds.labels(endpoint).observe(time.perf_counter() - started)

    def expose(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _BatcherCollector(Collector):
    def __init__(self, batchers: Sequence[Batcher[Any, Any]]) -> None:
        self._batchers = batchers

    def collect(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily(
            "twotower_waiting_items", "Items that wait for a tower.", labels=("tower",)
        )
        counters = {
            name: CounterMetricFamily(f"twotower_tower_{name}", text, labels=("tower",))
            for name, text in (
                ("batches", "Batches."),
                ("items", "Items that passed through a tower."),
                ("rejected", "Requests that were answered with 429."),
                ("seconds", "Seconds that a tower was busy."),
            )
        }
        for batcher in self._batchers:
            waiting.add_metric([batcher.name], batcher.waiting)
            for name, counter in counters.items():
                counter.add_metric([batcher.name], getattr(batcher.statistics, name))
        yield waiting
        yield from counters.values()


class _FunctionCollector(Collector):
    def __init__(self, name: str, documentation: str, count: Callable[[], int]) -> None:
        self._name, self._documentation, self._count = name, documentation, count

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(self._name, self._documentation, value=self._count())
