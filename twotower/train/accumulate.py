"""Exact gradients of a large batch in the memory of a small one.

A contrastive loss joins all pairs of a batch, so that averaging the gradients of its parts gives
another gradient. Gradient caching (Gao et al. 2021) does not: embed all chunks without a graph,
take the loss' gradient at the embeds, then embed each chunk again and hand its embeds their part.
The random state of each chunk is kept, so that what patch dropout chose the first time it chooses
again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from twotower.model.clip import CLIP
from twotower.model.layers import at_least_float32
from twotower.model.text import SentenceEncoder, TextTransformer
from twotower.train.distributed import sum_over_ranks, world_size

LENGTH_GROUP, LENGTH_GROUPS = 8, 4  # at least so many texts in a group, at most so many groups

Loss = Callable[[Tensor, Tensor], Tensor]


class Towers(nn.Module):
    """Both towers as one module, to be wrapped by DDP or FSDP.

    They may compute in half precision; their embeds, and the loss, are float32. The temperature is
    not among them: every rank holds it, and `backward_batch` sums its gradient.
    """

    def __init__(self, model: CLIP, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.vision, self.text = model.vision, model.text
        self.precision = precision

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures and texts -> image_embeds and text_embeds [B, embed_dim], unit length."""
        full = self.precision == torch.float32
        device = pixel_values.device.type
        with contextlib.nullcontext() if full else torch.autocast(device, self.precision):
            image_features, text_features = self.vision(pixel_values), self._read(input_ids)
        return (
            F.normalize(at_least_float32(image_features), dim=-1),
            F.normalize(at_least_float32(text_features), dim=-1),
        )

    def _read(self, input_ids: Tensor) -> Tensor:
        """The text tower; on a CPU texts of like length go together, cut to their longest.

        Captions are half as long as the longest of their batch, and the rest is padding that no
        result depends on.
        """
        lengths = text_lengths(self.text, input_ids)
        if lengths is None or input_ids.device.type != "cpu" or torch.compiler.is_compiling():
            return self.text(input_ids)
        order = lengths.argsort(stable=True)
        groups = order.split(max(LENGTH_GROUP, -(-len(order) // LENGTH_GROUPS)))
        rows = [self.text(input_ids[one, : int(lengths[one[-1]])]) for one in groups]
        return torch.cat(rows)[order.argsort()]


def text_lengths(text: nn.Module, input_ids: Tensor) -> Tensor | None:
    """How many positions of each text [B] its features depend on; None where it is all of them."""
    if isinstance(text, SentenceEncoder):
        return (input_ids != text.pad_id).sum(dim=1).clamp(min=1)
    if isinstance(text, TextTransformer) and text.eos_id is not None:
        return (input_ids == text.eos_id).int().argmax(dim=1) + 1
    return None


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
        pixel_values, input_ids: this rank's b pairs.
        loss: image_embeds and text_embeds [b, embed_dim] -> this rank's share of the loss.
        chunk_size: how many pairs are in a graph at a time; b or more needs no second pass.

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
    leaves = [torch.cat(parts).detach().requires_grad_() for parts in zip(*outputs, strict=True)]
    share = loss(*leaves)
    share.backward()
    for scalar in scalars:
        if scalar.grad is not None:
            sum_over_ranks(scalar.grad)
    # DDP and FSDP average over ranks where the exact gradient is a sum
    grads = [world_size() * leaf.grad for leaf in leaves if leaf.grad is not None]
    parts = zip(*(grad.split(chunk_size) for grad in grads), strict=True)
    for index, (chunk, part) in enumerate(zip(chunks, parts, strict=True)):
        with _synchronised(towers, last=index == len(chunks) - 1):
            if cached:
                _set_random_state(states[index])
                outputs[index] = towers(*chunk)
            # a locked tower has no graph; compiled towers share one, which can be used only once
            live = [
                (embeds, grad)
                for embeds, grad in zip(outputs[index], part, strict=True)
                if embeds.requires_grad
            ]
            if live:
                torch.autograd.backward([one for one, _ in live], [grad for _, grad in live])
    return sum_over_ranks(share.detach())


@contextlib.contextmanager
def _synchronised(towers: nn.Module, last: bool) -> Iterator[None]:
    """Ranks exchange gradients once, with the last chunk."""
    if isinstance(towers, DistributedDataParallel) and not last:
        with towers.no_sync():
            yield
        return
    fsdp: Any = towers
    if hasattr(fsdp, "set_requires_gradient_sync"):
        fsdp.set_requires_gradient_sync(last)
    yield


def _random_state() -> tuple[Tensor, Tensor | None]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return torch.get_rng_state(), cuda


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


def largest_chunk(towers: nn.Module, pixel_values: Tensor, input_ids: Tensor, memory: int) -> int:
    """How many pairs fit into `memory` bytes beside weights, gradients and AdamW's two moments.

    Counts what the graphs of one pair and of two pairs keep for the backward pass.

    Args:
        pixel_values, input_ids: two pairs or more, of the size that will come.

    Returns:
        At least 1, even where not one pair fits.
    """
    fixed = 4 * sum(one.nbytes for one in towers.parameters())
    one, two = (saved_bytes(towers, pixel_values[:n], input_ids[:n]) for n in (1, 2))
    spare = memory - fixed - (2 * one - two)
    return max(1, int(spare // max(1, two - one)))


def saved_bytes(towers: nn.Module, pixel_values: Tensor, input_ids: Tensor) -> int:
    """What the graph of these pairs keeps for the backward pass, weights not counted."""
    weights = {_storage(one) for one in towers.parameters()}
    seen: dict[int, tuple[int, Tensor]] = {}  # tensors are held, or a storage's place is used anew

    def count(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in weights:
            seen[_storage(tensor)] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        outputs = towers(pixel_values, input_ids)
    del outputs
    return sum(size for size, _ in seen.values())


def _storage(tensor: Tensor) -> int:
    """What tells storages apart, on "meta" too, where all lie at address 0."""
    return int(tensor.untyped_storage()._cdata)
