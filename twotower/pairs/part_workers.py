"""Processes that make the parts of a task, of which one may crash or hang without ending it."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from twotower.errors import TwotowerError

MAX_SECONDS = 120.0  # without a new step; a page takes milliseconds
MAX_ATTEMPTS = 100  # of a part
POLL_SECONDS = 0.2
Task = TypeVar("Task")


class StoppedError(Exception):
    """The process that started this worker has ended."""


class Steps:
    """The position of a worker in its part, in memory that its parent reads.

    Attributes:
        skipped: numbers of the steps to pass over, because they stopped a worker.
    """

    def __init__(self, shared: Any, skipped: frozenset[int]) -> None:
        self._shared = shared
        self.skipped = skipped
        self._number = -1

    def begin(self, position: int) -> bool:
        """Note the begin of a step; return False if it is to be skipped.

        Args:
            position: in the input, for the display of progress.

        Raises:
            StoppedError: the parent has ended.
        """
        self._number += 1
        self._shared[:] = (self._number, time.monotonic(), position)
        if self._number % 64 == 0:
            parent = multiprocessing.parent_process()
            if parent and not parent.is_alive():
                raise StoppedError
        return self._number not in self.skipped


@dataclass(frozen=True)
class _Attempt(Generic[Task]):
    """A part to be made.

    Attributes:
        skipped: numbers of the steps that hung or crashed twice.
        suspect: the step that crashed at the attempt before, or -1. A crash may come from outside.
        number: of the attempt.
    """

    task: Task
    skipped: frozenset[int] = frozenset()
    suspect: int = -1
    number: int = 1

    def without(self, step: int, hung: bool) -> _Attempt[Task]:
        """Return the next attempt after one that ended at `step`."""
        if hung or step == self.suspect:
            return _Attempt(self.task, self.skipped | {step}, -1, self.number + 1)
        return _Attempt(self.task, self.skipped, step, self.number + 1)


@dataclass
class _Worker(Generic[Task]):
    attempt: _Attempt[Task]
    process: BaseProcess
    shared: Any
    messages: multiprocessing.connection.Connection
    started: float = field(default_factory=time.monotonic)

    def hangs(self) -> bool:
        return time.monotonic() - max(self.shared[1], self.started) > MAX_SECONDS


def make_parts(
    tasks: list[Task],
    make: Callable[[Task, Steps], None],
    processes: int,
    report: Callable[[int], None],
) -> Iterator[tuple[Task, str]]:
    """Make parts in processes; yield each task as it ends, with the reason why it failed or "".

    A worker that crashes or takes more than `MAX_SECONDS` for a step is replaced, and its part is
    made again; without that step if it hung, or crashed twice.

    Args:
        report: called several times a second with the sum of the workers' positions.
    """
    waiting = deque(_Attempt(task) for task in tasks)
    workers: list[_Worker[Task]] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < processes:
                workers.append(_start(make, waiting.popleft()))
            multiprocessing.connection.wait(
                [worker.process.sentinel for worker in workers], POLL_SECONDS
            )
            report(sum(int(worker.shared[2]) for worker in workers))
            for worker in list(workers):
                if worker.process.is_alive() and not worker.hangs():
                    continue
                workers.remove(worker)
                hung = worker.process.is_alive()
                failure = _end(worker)
                if failure is None:
                    step = int(worker.shared[0])
                    waiting.appendleft(worker.attempt.without(step, hung))
                else:
                    yield worker.attempt.task, failure
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()


def _start(make: Callable[[Task, Steps], None], attempt: _Attempt[Task]) -> _Worker[Task]:
    context = multiprocessing.get_context("spawn")
    shared = context.Array("d", (-1.0, 0.0, 0.0), lock=False)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(make, attempt, shared, sender), daemon=True)
    process.start()
    sender.close()
    return _Worker(attempt, process, shared, receiver)


def _run(
    make: Callable[[Task, Steps], None],
    attempt: _Attempt[Task],
    shared: Any,
    sender: multiprocessing.connection.Connection,
) -> None:
    """Make a part in a worker, and send the reason of a failure, or ""."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    try:
        make(attempt.task, Steps(shared, attempt.skipped))
    except StoppedError:
        return
    except (TwotowerError, OSError) as error:
        sender.send(str(error))
    else:
        sender.send("")


def _end(worker: _Worker[Task]) -> str | None:
    """Return the reason why a worker's part failed, "" if it did not, or None to try again."""
    worker.process.kill()
    worker.process.join()
    with worker.messages, contextlib.suppress(EOFError, OSError):
        if worker.messages.poll():
            return str(worker.messages.recv())
    if worker.process.exitcode == 1:
        return "stopped by an error of this program, printed above"
    if worker.shared[0] < 0 or worker.attempt.number >= MAX_ATTEMPTS:
        return f"its process ended with code {worker.process.exitcode}"
    return None


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
