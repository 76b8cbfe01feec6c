"""Several processes as one: rank, sums over all ranks, and the process group.

Alone, every function is trivial. torchrun starts several processes and sets RANK and WORLD_SIZE.
Gradients follow one rule: the loss of each rank is a share, the shares add up to the loss of the
whole batch, and so do the gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from twotower.errors import TrainError
from twotower.train.heartbeat import Heartbeat

LONGEST_WAIT = timedelta(days=1)  # for a rank that works; the heartbeat finds dead ones sooner


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the other ranks if torchrun started several.

    Raises:
        TrainError: another rank died; it is named.
    """
    if dist.is_initialized() or not dist.is_torchelastic_launched():
        yield
        return
    dist.init_process_group(timeout=LONGEST_WAIT)
    heartbeat = Heartbeat(rank(), world_size())
    try:
        yield
    except RuntimeError as error:  # raised by a broken connection
        failure = heartbeat.wait_for_failure()
        heartbeat.stop()
        if not failure:
            raise
        raise TrainError(
            f"rank {rank()}", f"stopped because {failure}", "start again with --resume latest"
        ) from error
    except BaseException as error:
        heartbeat.report_failure(f"rank {rank()} stopped: {type(error).__name__}: {error}")
        heartbeat.stop()
        raise
    heartbeat.leave()
    dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def wait_for_all() -> None:
    """Wait until every rank has called this."""
    if world_size() > 1:
        dist.barrier()


def all_gather(local: Tensor) -> Tensor:
    """Gather [b, ...] of every rank as [world_size * b, ...], by rank, without gradient."""
    if world_size() == 1:
        return local
    gathered = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(gathered, local.contiguous())
    return torch.cat(gathered)


def gather_with_gradient(local: Tensor) -> Tensor:
    """Gather as `all_gather` does; a rank's rows get the gradients of all ranks' losses."""
    if world_size() == 1:
        return local
    apply: Any = _Gather.apply
    return apply(local)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return all_gather(local)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return own_rows_of_sum(grads[0].contiguous())


def sum_over_ranks(x: Tensor) -> Tensor:
    """Return the sum of every rank's `x`, on every rank; `x` is overwritten."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def own_rows_of_sum(x: Tensor) -> Tensor:
    """Sum [world_size * b, ...] over ranks and return this rank's b rows."""
    return sum_over_ranks(x).chunk(world_size())[rank()]


def logsumexp_over_ranks(x: Tensor) -> Tensor:
    """Return log(sum(exp(x))) over every rank's `x`, entry by entry, without overflow."""
    if world_size() == 1:
        return x
    largest = x.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest + sum_over_ranks((x - largest).exp()).log()
