"""Steps on many files, in this process or on a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from twotower.errors import PairsError, TwotowerError
from twotower.pairs.part_workers import available_cores

LOCAL = "local"  # the address that starts a cluster on this machine
MAX_RETRIES = 10  # of a task whose worker was lost; more point to the task itself
POLL_SECONDS = 1.0
CONNECT_SECONDS = 10.0
_OBJECT_STORE_BYTES = 100 * 2**20  # tasks exchange names of files, not their contents
Task = TypeVar("Task")
Result = TypeVar("Result")


class MapTasks(Protocol):
    """A function that calls another one for each task, and yields tasks with results.

    Errors that a user can repair (`TwotowerError`, `OSError`) end the map.
    """

    def __call__(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[tuple[Task, Result]]:
        """Yield tasks as they end, with their results."""
        ...


def map_here(
    function: Callable[[Task], Result], tasks: Sequence[Task]
) -> Iterator[tuple[Task, Result]]:
    """Call a function for each task, in their order, in this process."""
    for task in tasks:
        yield task, function(task)


class Cluster:
    """A connection to a Ray cluster, whose machines share the folders of a run.

    Attributes:
        cpus, gpus: of the cluster.
    """

    def __init__(self) -> None:
        import ray

        self._ray = ray
        resources = ray.cluster_resources()
        self.cpus = max(1, int(resources.get("CPU", 1)))
        self.gpus = int(resources.get("GPU", 0))

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        poll: Callable[[], None] = lambda: None,
        cpus: int = 1,
        gpus: int = 0,
    ) -> Iterator[tuple[Task, Result]]:
        """Call a function for each task on the cluster; yield tasks as they end, with results.

        A task whose worker or machine is lost is started again, so a function must be one that can
        be repeated: it writes files that appear when they are complete.

        Args:
            function: can be pickled, as the tasks can.
            poll: called about once a second.
            cpus, gpus: that a task takes.

        Raises:
            TwotowerError, OSError: a task raised it.
            PairsError: the workers of a task were lost more than `MAX_RETRIES` times.
        """
        remote: Any = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=MAX_RETRIES)(_call)
        waiting = list(reversed(tasks))
        running: dict[Any, Task] = {}
        try:
            while waiting or running:
                while waiting and len(running) < 2 * self.cpus:
                    task = waiting.pop()
                    running[remote.remote(function, task)] = task
                ended, _ = self._ray.wait(list(running), timeout=POLL_SECONDS)
                poll()
                for reference in ended:
                    task = running.pop(reference)
                    yield task, self._result(reference, task)
        finally:
            for reference in running:
                self._ray.cancel(reference)

    def _result(self, reference: Any, task: object) -> Any:
        errors = self._ray.exceptions
        try:
            result, error = self._ray.get(reference)
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError):
            raise PairsError(
                task, f"its workers were lost {MAX_RETRIES + 1} times", "see the logs of Ray"
            ) from None
        if error is not None:
            raise error
        return result


def _call(function: Callable[[Task], Result], task: Task) -> tuple[Result | None, Exception | None]:
    """Return the result, or the error, which Ray would wrap in one of its own."""
    try:
        return function(task), None
    except (TwotowerError, OSError) as error:
        return None, error


@contextmanager
def connect(address: str) -> Iterator[Cluster]:
    """Connect to a Ray cluster while the block runs.

    Args:
        address: as `ray.init` takes it, such as "auto" or "10.0.0.1:6379"; "local" starts a
            cluster of the cores of this machine, which ends with the block.

    Raises:
        PairsError: ray is not installed, or there is no cluster.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when ray is imported
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning
    try:
        import ray
    except ImportError:
        raise PairsError("--ray", "needs ray", "pip install 'twotower[scale]'") from None
    start: dict[str, Any] = {}
    if address == LOCAL:
        start = {
            "num_cpus": available_cores(),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    _check_port(address)
    try:
        ray.init(address, logging_level=logging.ERROR, **start)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise PairsError(address, f"no Ray cluster ({reason})", "check the address") from None
    try:
        yield Cluster()
    finally:
        ray.shutdown()


def _check_port(address: str) -> None:
    """Raise `PairsError` if nothing answers at HOST:PORT; ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise PairsError(address, f"no Ray cluster ({error})", "check the address") from None
