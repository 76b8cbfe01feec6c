"""The torch model of a model directory. `weight_files.py` reads and writes the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from twotower.model import weight_files
from twotower.model.clip import CLIP
from twotower.model.config import CLIPConfig, read_config
from twotower.model.weight_files import INT4, INT8, SCALE, Tensors, as_arrays

INT4_LEVELS = (-8, 7)


def load_model(directory: Path) -> CLIP:
    """Load the torch model of a directory, in float32 and evaluation mode.

    Its configuration names no other folder, since it has both towers.

    Raises:
        ModelError: a file is missing or damaged, or its tensors do not fit the configuration.
    """
    config = read_config(directory)
    arrays = weight_files.dequantize(weight_files.read_stored(config, directory))
    return build_model(replace(config, text_folder=None), arrays, directory)


def build_model(config: CLIPConfig, tensors: Tensors, source: Path) -> CLIP:
    """Build a model of `config` with `tensors` in float32; `source` is named in errors."""
    weight_files.check_shapes(config, tensors, source)
    with torch.device("meta"):
        model = CLIP(config)
    floats = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in as_tensors(tensors).items()
    }
    model.load_state_dict(floats, assign=True)
    return model.eval()


def as_tensors(arrays: Tensors) -> dict[str, Tensor]:
    """Return arrays as tensors that share their memory, and tensors as they are."""
    return {name: torch.as_tensor(array) for name, array in arrays.items()}


def read_stored(config: CLIPConfig, directory: Path) -> dict[str, Tensor]:
    """Read the tensors of both towers as they are stored (`dequantize`).

    Raises:
        ModelError: a file is missing or damaged.
    """
    return as_tensors(weight_files.read_stored(config, directory))


@dataclass(frozen=True)
class GroupedWeight:
    """The weight of a linear layer in 4 bits: value = level * scale of its group.

    Attributes:
        levels: int8 [out, in], from -8 to 7.
        scale: float16 [out, in / GROUP], of either sign.
    """

    levels: Tensor
    scale: Tensor

    def values(self) -> Tensor:
        """Return the weight in float32 [out, in]."""
        scale = self.scale.detach().numpy()
        return torch.from_numpy(weight_files.expand_groups(self.levels.numpy(), scale))

    def stored(self, name: str) -> dict[str, Tensor]:
        """Return the tensors that a file has for the parameter `name`."""
        packed = torch.from_numpy(weight_files.pack_levels(self.levels.numpy()))
        return {name + INT4: packed, name + SCALE: self.scale}


def quantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert tensors to int8, as `weight_files.quantize` does with arrays."""
    return as_tensors(weight_files.quantize(as_arrays(tensors)))


def dequantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Expand tensors, as `weight_files.dequantize` does with arrays."""
    return as_tensors(weight_files.dequantize(as_arrays(tensors)))


def keep_unchanged(
    before: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return `tensors`, those that are equal to `before` in their stored precision."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        forms = {
            key: before[key] for kind in ("", INT8, INT4, SCALE) if (key := name + kind) in before
        }
        unchanged = forms and torch.equal(dequantize(forms)[name].float(), tensor.float())
        kept |= forms if unchanged else {name: tensor}
    return kept
