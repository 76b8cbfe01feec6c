import asyncio

import pytest

from twotower.serve.tasks import gather_or_cancel


def test_results_are_in_order() -> None:
    async def delayed(value: int) -> int:
        await asyncio.sleep(0.01 * (3 - value))
        return value

    assert asyncio.run(gather_or_cancel(map(delayed, range(3)))) == [0, 1, 2]


def test_a_failure_cancels_the_others() -> None:
    cancelled = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    async def run() -> None:
        with pytest.raises(ValueError, match="broken"):
            await gather_or_cancel([wait(), fail()])
        await asyncio.wait_for(cancelled.wait(), 5)

    asyncio.run(run())
