"""Exact gradients of a large batch in the memory of a small one.

A contrastive loss joins all pairs of a batch, so the average of the gradients of its chunks is
another gradient. Gradient caching (Gao et al. 2021) is exact: embed all chunks without a graph,
compute the gradient of the loss at the embeds, then embed each chunk again with a graph and
backpropagate its rows of that gradient. The random state of each chunk is restored, so that patch
dropout chooses the same patches both times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from twotower.train.distributed import sum_over_ranks, world_size

# image_embeds and text_embeds [b, embed_dim] of this rank -> its share of the loss
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
RandomState: TypeAlias = tuple[Tensor, Tensor | None]  # of the CPU and of CUDA


def backward_batch(
    towers: nn.Module,
    scalars: Sequence[Tensor],
    pixel_values: Tensor,
    input_ids: Tensor,
    loss: Loss,
    chunk_size: int,
) -> Tensor:
    """Add the gradient of the whole batch's loss to every parameter, on every rank.

    Args:
        towers: `Towers`, bare or wrapped by DistributedDataParallel or `fully_shard`.
        scalars: parameters that `loss` uses besides the embeds: `logit_scale`, `logit_bias`.
        pixel_values: [b, 3, image_size, image_size], this rank's pictures.
        input_ids: [b, L], this rank's texts.
        loss: image_embeds and text_embeds [b, embed_dim] -> this rank's share of the loss.
        chunk_size: pairs in one graph; no second pass is needed if it is b or more.

    Returns:
        The loss of all ranks' pairs.
    """
    chunks = list(zip(pixel_values.split(chunk_size), input_ids.split(chunk_size), strict=True))
    cached = len(chunks) > 1
    states, outputs = [], []
    for chunk in chunks:
        states.append(_random_state())
        with torch.set_grad_enabled(not cached):
            outputs.append(towers(*chunk))
    embeds = [torch.cat(rows).detach().requires_grad_() for rows in zip(*outputs, strict=True)]
    share = loss(*embeds)
    share.backward()
    for scalar in scalars:
        if scalar.grad is not None:
            sum_over_ranks(scalar.grad)
    # DDP and FSDP average over ranks where the exact gradient is a sum
    grads = [world_size() * leaf.grad for leaf in embeds if leaf.grad is not None]
    chunk_grads = zip(*(grad.split(chunk_size) for grad in grads), strict=True)
    for index, (chunk, grads_of_chunk) in enumerate(zip(chunks, chunk_grads, strict=True)):
        with _gradient_sync(towers, enabled=index == len(chunks) - 1):
            if cached:
                _set_random_state(states[index])
                outputs[index] = towers(*chunk)
            _backward(outputs[index], grads_of_chunk)
    return sum_over_ranks(share.detach())


def _backward(outputs: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    """Backpropagate both towers at once, since compiled towers share a graph.

    A locked tower has no graph and is left out.
    """
    learning = [row for row, output in enumerate(outputs) if output.requires_grad]
    if learning:
        torch.autograd.backward(
            [outputs[row] for row in learning], [grads[row] for row in learning]
        )


@contextlib.contextmanager
def _gradient_sync(towers: nn.Module, enabled: bool) -> Iterator[None]:
    """Let ranks exchange gradients in this block, or not."""
    if isinstance(towers, DistributedDataParallel) and not enabled:
        with towers.no_sync():
            yield
        return
    fsdp: Any = towers
    if hasattr(fsdp, "set_requires_gradient_sync"):
        fsdp.set_requires_gradient_sync(enabled)
    yield


def _random_state() -> RandomState:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return torch.get_rng_state(), cuda


def _set_random_state(state: RandomState) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
