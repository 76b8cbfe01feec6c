"""The bundled model's teacher for `twotower evaluate`: its image tower with our text tower.

twotower evaluate retrieval DATA/flickr8k-val --model benchmarks.quality.teacher:Teacher
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import twotower
from recipes.twotower_small.pretrained import TEACHER, load_teacher
from recipes.twotower_small.teacher import teacher_features
from twotower.arrays import Float32Array
from twotower.inputs.preprocess import Preprocess


class Teacher:
    """OpenAI's ViT-B/16 image tower beside the bundled text tower."""

    logit_scale = 100.0

    def __init__(self) -> None:
        self.bundled = twotower.load()
        self.templates = self.bundled.config.templates
        self.preprocess = Preprocess(twotower.preset(TEACHER).preprocess)
        self.tower = load_teacher()

    def encode_image(self, pictures: Sequence[Image.Image]) -> NDArray[Any]:
        """Return image_features [n, 512]."""
        squares = np.stack([np.asarray(self.preprocess.square(image)) for image in pictures])
        return teacher_features(self.tower, squares)

    def encode_text(self, texts: Sequence[str]) -> Float32Array:
        """Return text_embeds [n, 512]."""
        return self.bundled.encode_text(texts)
