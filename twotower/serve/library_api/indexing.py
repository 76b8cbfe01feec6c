"""Endpoints for indexing: its state, as events too, and its start."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from twotower.serve.endpoint import Call, Endpoint
from twotower.serve.library_api.answers import TAG, library_of, require_writes, to_json

if TYPE_CHECKING:
    from twotower.serve.indexer import Indexer, IndexState

EVENT_SECONDS = 15.0  # between two events without a change


class IndexAnswer(BaseModel):
    """The state of indexing; `done`, `total` and `failed` count pictures."""

    state: Literal["idle", "running", "failed"]
    stage: str
    done: int
    total: int
    failed: int
    message: str | None


def to_answer(state: IndexState) -> IndexAnswer:
    """Return a state as an answer."""
    return IndexAnswer(**asdict(state))


async def state_of(call: Call) -> Response:
    """Return the state of indexing."""
    return to_json(to_answer(library_of(call).indexer.state))


async def start(call: Call) -> Response:
    """Start indexing unless it runs."""
    require_writes(call)
    library = library_of(call)
    library.start_indexing()
    return to_json(to_answer(library.indexer.state), 202)


async def events(call: Call) -> Response:
    """Send the state of indexing as server-sent events until either side closes."""
    indexer, closing = library_of(call).indexer, call.server.closing
    return StreamingResponse(
        _events(indexer, closing),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(indexer: Indexer, closing: asyncio.Event) -> AsyncIterator[str]:
    changes = indexer.changes(EVENT_SECONDS)
    stopped = asyncio.ensure_future(closing.wait())
    state: asyncio.Task[IndexState] | None = None
    try:
        while not stopped.done():
            state = asyncio.ensure_future(anext(changes))
            await asyncio.wait((state, stopped), return_when=asyncio.FIRST_COMPLETED)
            if state.done():
                yield f"event: index\ndata: {json.dumps(asdict(state.result()))}\n\n"
    finally:
        for task in filter(None, (state, stopped)):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await task
        await changes.aclose()  # type: ignore[attr-defined]


ENDPOINTS = (
    Endpoint("/api/index", ("GET",), state_of, TAG, "The state of indexing.", answer=IndexAnswer),
    Endpoint(
        "/api/index", ("POST",), start, TAG, "Start indexing.", answer=IndexAnswer, status=202
    ),
    Endpoint(
        "/api/index/events",
        ("GET",),
        events,
        TAG,
        "The state of indexing as server-sent events.",
        media_types=("text/event-stream",),
    ),
)
