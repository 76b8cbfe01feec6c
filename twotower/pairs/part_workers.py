"""Processes that make the parts of a task, of which one may crash or hang without ending it."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
    process: BaseProcess
    connection: multiprocessing.connection.Connection
    shared: Any
    attempt: _Attempt[Task] | None = None
    started: float = 0.0  # of the attempt, in monotonic seconds

    def begin(self, attempt: _Attempt[Task]) -> None:
        self.attempt, self.started = attempt, time.monotonic()
        self.shared[:] = (-1.0, self.started, 0.0)
        self.connection.send(attempt)

    def hangs(self) -> bool:
        return time.monotonic() - max(self.shared[1], self.started) > MAX_SECONDS

    def result(self) -> str | None:
        """Return the reason why the part failed, or ""; None if there is no answer."""
        try:
            return str(self.connection.recv()) if self.connection.poll() else None
        except (EOFError, OSError):
            return None

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def make_parts(
    tasks: Sequence[Task],
    make: Callable[[Task, Steps], None],
    processes: int,
    report: Callable[[int], None],
) -> Iterator[tuple[Task, str]]:
    """Make parts in processes; yield each task as it ends, with the reason why it failed or "".

    A worker that crashes or takes more than `MAX_SECONDS` for a step is replaced, and its part is
    made again; without that step if it hung, or crashed twice.

    Args:
        make: makes a part, calling `begin` of its steps before each; it must be a function that
            can be pickled.
        report: called several times a second with the sum of the workers' positions.
    """
    waiting = deque(_Attempt(task) for task in tasks)
    workers: list[_Worker[Task]] = []
    try:
        while waiting or any(worker.attempt for worker in workers):
            while waiting and len(workers) < processes:
                workers.append(_start(make))
            for worker in workers:
                if waiting and worker.attempt is None:
                    worker.begin(waiting.popleft())
            _wait(workers)
            report(sum(int(worker.shared[2]) for worker in workers if worker.attempt))
            for worker in list(workers):
                if (attempt := worker.attempt) is None:
                    continue
                if (failure := worker.result()) is not None:
                    worker.attempt = None
                    yield attempt.task, failure
                elif not worker.process.is_alive() or worker.hangs():
                    workers.remove(worker)
                    next_attempt = _end_attempt(worker, attempt)
                    if isinstance(next_attempt, str):
                        yield attempt.task, next_attempt
                    else:
                        waiting.appendleft(next_attempt)
    finally:
        for worker in workers:
            worker.end()


def _wait(workers: Sequence[_Worker[Task]]) -> None:
    """Wait until a worker answers or ends, or for a moment."""
    sentinels = [worker.process.sentinel for worker in workers]
    multiprocessing.connection.wait(
        [*sentinels, *(worker.connection for worker in workers)], POLL_SECONDS
    )


def _start(make: Callable[[Task, Steps], None]) -> _Worker[Task]:
    context = multiprocessing.get_context("spawn")
    shared = context.Array("d", (-1.0, 0.0, 0.0), lock=False)
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(make, shared, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours, shared)


def _run(
    make: Callable[[Task, Steps], None],
    shared: Any,
    connection: multiprocessing.connection.Connection,
) -> None:
    """Make parts in a worker, and answer each with the reason of a failure, or ""."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    # the end of the parent closes the connection
    with contextlib.suppress(StoppedError, EOFError, OSError):
        while True:
            attempt = connection.recv()
            connection.send(_make(make, attempt, Steps(shared, attempt.skipped)))


def _make(make: Callable[[Task, Steps], None], attempt: _Attempt[Task], steps: Steps) -> str:
    try:
        make(attempt.task, steps)
    except StoppedError:
        raise
    except (TwotowerError, OSError) as error:
        return str(error)
    except Exception:  # a fault of this package ends its part, and not the others
        traceback.print_exc()
        return f"{attempt.task}: stopped by a fault of this program, printed above"
    return ""


def _end_attempt(worker: _Worker[Task], attempt: _Attempt[Task]) -> _Attempt[Task] | str:
    """Return the next attempt after a crash or a hang, or the reason to give up."""
    hung = worker.process.is_alive()
    worker.end()
    step = int(worker.shared[0])
    if attempt.number >= MAX_ATTEMPTS or (step < 0 and attempt.number > 1):
        return f"{attempt.task}: its process ended with code {worker.process.exitcode}"
    return attempt.without(step, hung)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
