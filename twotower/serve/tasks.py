"""Concurrent steps of one request."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

Result = TypeVar("Result")


async def gather_or_cancel(steps: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run steps at the same time; the first that fails cancels the others.

    Raises:
        Exception: the exception of that step.
    """
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
