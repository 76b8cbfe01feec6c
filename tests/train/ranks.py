"""Processes that talk over gloo and run what a test gives them, started once for all tests."""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor


def in_ranks(world: int, function: Callable[..., None], folder: Path, *arguments: object) -> None:
    """Run `function(rank, world, folder, *arguments)` in `world` processes.

    Raises:
        AssertionError: a rank failed; with its traceback. The others, which may wait for it,
            are killed.
    """
    processes, connections = start_ranks(world)
    for connection in connections:
        connection.send((function, folder, arguments))
    working = set(connections)
    while working:
        for connection in wait(working):
            assert isinstance(connection, Connection)
            error = receive_error(connection)
            working.remove(connection)
            if error:
                for process in processes:
                    process.kill()
                start_ranks.cache_clear()
                raise AssertionError(error)


def receive_error(connection: Connection) -> str:
    try:
        return str(connection.recv())
    except EOFError:
        return "a rank ended"


@cache
def start_ranks(world: int) -> tuple[list[multiprocessing.process.BaseProcess], list[Connection]]:
    meeting = f"file://{tempfile.mkdtemp()}/meeting"
    context = multiprocessing.get_context("spawn")
    processes, connections = [], []
    for rank in range(world):
        parent_end, child_end = context.Pipe()
        process = context.Process(
            target=run_tasks, args=(rank, world, meeting, child_end), daemon=True
        )
        process.start()
        child_end.close()
        processes.append(process)
        connections.append(parent_end)
    return processes, connections


def run_tasks(rank: int, world: int, meeting: str, connection: Connection) -> None:
    """Run functions until the process that started this one ends; send what failed, or ''."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    while True:
        function, folder, arguments = connection.recv()
        try:
            function(rank, world, folder, *arguments)
            connection.send("")
        except BaseException:  # such as pytest's failures
            connection.send(traceback.format_exc())


def rows_of_rank(rank: int, world: int, *tensors: Tensor) -> list[Tensor]:
    """Return this rank's rows of each tensor."""
    return [tensor.chunk(world)[rank] for tensor in tensors]
