"""Batching: nothing is lost, mixed up or left behind."""

import asyncio
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.serve.batcher import Batcher
from twotower.serve.errors import OverloadedError, RequestError


def make_batcher(
    encode: object, *, max_batch: int = 4, max_queue: int = 100, max_wait: float = 0.001
) -> Batcher[int, int]:
    return Batcher(
        encode,  # type: ignore[arg-type]
        name="test",
        max_batch=max_batch,
        max_wait=max_wait,
        max_queue=max_queue,
    )


@given(
    requests=st.lists(st.lists(st.integers(), min_size=1, max_size=9), max_size=12),
    max_batch=st.integers(1, 7),
)
@settings(max_examples=40, deadline=None)
def test_every_request_gets_its_own_results_in_order(
    requests: list[list[int]], max_batch: int
) -> None:
    sizes: list[int] = []

    def double(items: list[int]) -> list[int]:
        sizes.append(len(items))
        return [2 * item for item in items]

    async def run() -> list[list[int]]:
        batcher = make_batcher(double, max_batch=max_batch)
        results = await asyncio.gather(*map(batcher.submit, requests))
        await batcher.close()
        return results

    assert asyncio.run(run()) == [[2 * item for item in request] for request in requests]
    assert all(size <= max_batch for size in sizes)
    assert sum(sizes) == sum(map(len, requests))


def test_concurrent_requests_share_a_batch() -> None:
    batches: list[list[int]] = []

    def record(items: list[int]) -> list[int]:
        batches.append(list(items))
        return items

    async def run() -> None:
        batcher = make_batcher(record, max_batch=8, max_wait=0.05)
        await asyncio.gather(*(batcher.submit([number]) for number in range(6)))
        await batcher.close()

    asyncio.run(run())
    assert batches == [[0, 1, 2, 3, 4, 5]]


class Gate:
    """An encoder that waits until the test opens it."""

    def __init__(self) -> None:
        self.opened, self.entered = threading.Event(), threading.Event()
        self.encoded: list[int] = []

    def __call__(self, items: list[int]) -> Sequence[int]:
        self.entered.set()
        assert self.opened.wait(30)
        self.encoded += items
        return items


def test_a_full_queue_rejects_and_recovers() -> None:
    gate = Gate()

    async def run() -> None:
        batcher = make_batcher(gate, max_batch=1, max_queue=2)
        busy = asyncio.create_task(batcher.submit([0]))
        await asyncio.to_thread(gate.entered.wait, 30)
        waiting = [asyncio.create_task(batcher.submit([number])) for number in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as caught:
            await batcher.submit([3])
        assert caught.value.status == 429
        assert int(caught.value.headers["Retry-After"]) >= 1
        assert batcher.statistics.rejected == 1
        gate.opened.set()
        assert await asyncio.gather(busy, *waiting) == [[0], [1], [2]]
        assert await batcher.submit([4]) == [4]
        await batcher.close()

    asyncio.run(run())


def test_items_of_a_cancelled_request_are_not_encoded() -> None:
    gate = Gate()

    async def run() -> None:
        batcher = make_batcher(gate, max_batch=1)
        busy = asyncio.create_task(batcher.submit([0]))
        await asyncio.to_thread(gate.entered.wait, 30)
        leaving = asyncio.create_task(batcher.submit([1, 2, 3]))
        staying = asyncio.create_task(batcher.submit([4]))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        gate.opened.set()
        assert await busy == [0] and await staying == [4]
        await batcher.close()

    asyncio.run(run())
    assert gate.encoded == [0, 4]


def test_closing_answers_what_waits_and_refuses_the_rest() -> None:
    gate = Gate()

    async def run() -> None:
        batcher = make_batcher(gate, max_batch=2)
        requests = [asyncio.create_task(batcher.submit([number])) for number in range(5)]
        await asyncio.to_thread(gate.entered.wait, 30)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="shutting down"):
            await batcher.submit([9])
        gate.opened.set()
        await closing
        assert await asyncio.gather(*requests) == [[number] for number in range(5)]

    asyncio.run(run())


def test_a_failed_batch_fails_its_own_requests_alone() -> None:
    def refuse_seven(items: list[int]) -> list[int]:
        if 7 in items:
            raise ValueError("seven")
        return items

    async def run() -> None:
        batcher = make_batcher(refuse_seven, max_batch=1)
        outcomes = await asyncio.gather(
            batcher.submit([1]), batcher.submit([7]), batcher.submit([2]), return_exceptions=True
        )
        assert outcomes[0] == [1] and outcomes[2] == [2]
        assert isinstance(outcomes[1], ValueError)
        await batcher.close()

    asyncio.run(run())
