"""Several processes as one: who we are, and sums over all of us. Alone, every function is trivial.

Started by torchrun, which sets RANK and WORLD_SIZE. Gradients follow one rule: each rank's loss is
a share, the shares add up to the loss of the whole batch, and so do the gradients.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def wait_for_all() -> None:
    """Go on when every rank has come here."""
    if world_size() > 1:
        dist.barrier()


def all_gather(local: Tensor) -> Tensor:
    """[b, ...] of every rank -> [world_size * b, ...], in the order of ranks; no gradient."""
    if world_size() == 1:
        return local
    parts = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(parts, local.contiguous())
    return torch.cat(parts)


def gather_with_gradient(local: Tensor) -> Tensor:
    """As `all_gather`; backward, each rank's part gets what all ranks' losses give it."""
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
    """The sum of every rank's `x`, on every rank; `x` is overwritten."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def own_rows_of_sum(x: Tensor) -> Tensor:
    """[world_size * b, ...] on every rank -> this rank's b rows of their sum."""
    return sum_over_ranks(x).chunk(world_size())[rank()]


def logsumexp_over_ranks(x: Tensor) -> Tensor:
    """log(sum(exp(x))) of every rank's `x`, entry by entry, without overflow."""
    if world_size() == 1:
        return x
    largest = x.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest + sum_over_ranks((x - largest).exp()).log()
