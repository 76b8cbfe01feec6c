"""Indexing in a process of its own, while the server answers."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Literal, TypeAlias

from twotower.progress import Progress

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess
    from pathlib import Path

    from twotower.index.index import Index
    from twotower.progress import ReportProgress

State: TypeAlias = Literal["idle", "running", "failed"]
_REPORT_SECONDS = 0.25  # between two reports of progress
_STOP_SECONDS = 10.0  # in which the process may finish its last write
_MEASURED = 100  # pictures that are measured between two reports
_NICENESS = 10  # answers come before indexing


@dataclass(frozen=True)
class IndexState:
    """The state of indexing.

    Attributes:
        stage: such as "Indexing"; "" if it does not run.
        done, total, failed: pictures of the stage.
        message: the result or the error of the run before; None before the first one ends.
    """

    state: State = "idle"
    stage: str = ""
    done: int = 0
    total: int = 0
    failed: int = 0
    message: str | None = None


class Indexer:
    """Runs indexing in a process of its own; what it has committed is kept if it is stopped."""

    def __init__(self, root: Path | None, location: Path, model: str | None, engine: str) -> None:
        """Prepare indexing.

        Args:
            model: for a new library; None for the default one.
        """
        self.state = IndexState()
        self._arguments = (root, location, model, engine)
        self._changed = asyncio.Event()
        self._process: SpawnProcess | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """True from `start` until the process has ended."""
        return self._task is not None and not self._task.done()

    def start(self, then: Callable[[], None] = lambda: None) -> None:
        """Start indexing unless it runs.

        Args:
            then: called after it has ended without an error.
        """
        if not self.is_running:
            self._set(IndexState("running", "Starting", message=self.state.message))
            self._task = asyncio.get_running_loop().create_task(self._run(then))

    async def stop(self) -> None:
        """Stop the process; the next run continues where it stopped."""
        if self._process is not None:
            self._process.terminate()
        if self._task is not None:
            await self._task

    async def changes(self, seconds: float) -> AsyncIterator[IndexState]:
        """Yield the state, again after each change, and after `seconds` without a change."""
        while True:
            changed = self._changed
            yield self.state
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), seconds)

    def _set(self, state: IndexState) -> None:
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self, then: Callable[[], None]) -> None:
        context = multiprocessing.get_context("spawn")
        connection, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_index, args=(theirs, *self._arguments), name="twotower-indexer", daemon=True
        )
        await asyncio.to_thread(process.start)
        self._process = process
        theirs.close()
        outcome = IndexState("idle", message="stopped; start it again to continue")
        with connection, contextlib.suppress(EOFError, OSError):
            while True:
                message = await asyncio.to_thread(connection.recv)
                if isinstance(message, IndexState):
                    outcome = message
                else:
                    self._set(_running(message))
        await asyncio.to_thread(process.join, _STOP_SECONDS)
        if process.exitcode is None:
            process.kill()
            await asyncio.to_thread(process.join)
        self._process = None
        self._set(outcome)
        if outcome.state == "idle":
            then()


def _running(progress: Progress) -> IndexState:
    return IndexState(
        "running", progress.stage, progress.done, progress.total or 0, progress.failed
    )


def _index(
    connection: Connection, root: Path | None, location: Path, model: str | None, engine: str
) -> None:
    """Index, and send the progress; runs in a process of its own, which ends with its parent."""
    import signal
    import warnings

    from twotower.errors import TwotowerError
    from twotower.library import Library

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    warnings.filterwarnings("ignore", module="PIL")  # about single files, without their names
    with contextlib.suppress(OSError, AttributeError):
        os.nice(_NICENESS)
    sent_at = 0.0

    def report(progress: Progress) -> None:
        nonlocal sent_at
        if progress.done == progress.total or time.monotonic() - sent_at > _REPORT_SECONDS:
            connection.send(progress)
            sent_at = time.monotonic()

    try:
        library = Library(root, location=location, model=model, engine=engine)
        counts = library.index(report)
        _prepare_tags(library.opened, report)
        message = f"{counts.added} added, {counts.removed} removed, {counts.failed} failed"
        state = IndexState("idle", message=message, failed=counts.failed)
    except BrokenPipeError:  # the parent is gone
        return
    except (TwotowerError, OSError) as error:
        state = IndexState("failed", message=" ".join(str(error).split()))
    with contextlib.suppress(BrokenPipeError):
        connection.send(state)


def _prepare_tags(index: Index, report: ReportProgress) -> None:
    """Embed the vocabulary and measure the pictures; the library keeps both for its tags."""
    from twotower.tagging.detectors import measure_pictures
    from twotower.tagging.formats import read_vocabulary
    from twotower.tagging.tagger import Tagger

    Tagger(index, read_vocabulary(None), report=report)
    ids = index.catalog.select().tolist()
    for start in range(0, len(ids), _MEASURED):
        measure_pictures(index, ids[start : start + _MEASURED])
        report(Progress(min(start + _MEASURED, len(ids)), len(ids), stage="Preparing tags"))
