"""Low-rank updates (Hu et al. 2021): a frozen matrix plus the product of two thin ones that learn.

The thin matrices are parametrizations of the layer's own weight, so that a tower computes as before
and knows nothing of them; `merge_lora` adds them to the weights and gives back the plain names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import parametrize

ORIGINAL, DOWN, UP = ".original", ".0.down", ".0.up"
INSIDE = ".parametrizations."


class LowRank(nn.Module):
    """Adds `up @ down` to a weight whose rows are outputs; nothing at the start, as `up` is 0."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """[rows, ...] -> the same shape."""
        return weight + (self.up @ self.down).view_as(weight)


def add_lora(tower: nn.Module, rank: int) -> None:
    """Freeze a tower but for low-rank updates of its linear layers and 1x1 convolutions."""
    layers = [one for one in tower.modules() if _has_matrix(one)]
    tower.requires_grad_(False)
    for layer in layers:
        weight: Tensor = layer.weight  # type: ignore[assignment]
        update = LowRank(weight, min(rank, *weight.flatten(1).shape))
        parametrize.register_parametrization(layer, "weight", update)


def _has_matrix(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear)


def merge_lora(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state whose low-rank updates are part of the weights, under the names of a plain model."""
    merged: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, inside, rest = name.partition(INSIDE)
        if not inside:
            merged[name] = tensor
        elif rest.endswith(ORIGINAL):
            stem = name.removesuffix(ORIGINAL)
            update = tensors[stem + UP] @ tensors[stem + DOWN]
            weight = rest.removesuffix(ORIGINAL)
            merged[f"{layer}.{weight}"] = tensor + update.view_as(tensor)
    return merged
