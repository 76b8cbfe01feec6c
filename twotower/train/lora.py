"""Low-rank updates (Hu et al. 2021): a frozen matrix plus the product of two thin ones that learn.

The thin matrices are parametrizations of a layer's weight, so the code of the towers does not
change. `merge_lora` adds them to the weights and restores the plain names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import parametrize

# names in a state_dict: LAYER.parametrizations.weight.original and .0.down, .0.up
INFIX, ORIGINAL, DOWN, UP = ".parametrizations.", ".original", ".0.down", ".0.up"


class LowRank(nn.Module):
    """The sum of a weight, whose rows are outputs, and `up @ down`; `up` starts at 0."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated weight [rows, ...]."""
        return weight + (self.up @ self.down).view_as(weight)


def add_lora(tower: nn.Module, rank: int) -> None:
    """Freeze a tower and add low-rank updates to its linear layers and 1x1 convolutions."""
    layers = [module for module in tower.modules() if _has_matrix(module)]
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
    """Add low-rank updates to their weights; return the tensors by the names of a plain model."""
    merged: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, infix, parameter = name.partition(INFIX)
        if not infix:
            merged[name] = tensor
        elif parameter.endswith(ORIGINAL):
            stem = name.removesuffix(ORIGINAL)
            update = tensors[stem + UP] @ tensors[stem + DOWN]
            weight = parameter.removesuffix(ORIGINAL)
            merged[f"{layer}.{weight}"] = tensor + update.view_as(tensor)
    return merged
