"""Features of the teacher, OpenAI's ViT-B/16."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from recipes.twotower_small.losses import PRECISION, SENTENCES, Pictures, read_pairs
from recipes.twotower_small.pretrained import TEACHER, load_teacher
from twotower.arrays import UInt8Array
from twotower.inputs.preprocess import Preprocess
from twotower.model.presets import preset
from twotower.pairs.pair import Pair
from twotower.train.batches import normalize_pixels
from twotower.train.embed_cache import open_cache, sample_key

THUMBNAIL = 128  # longest shorter side of a thumbnail, in pixels
TEACHER_SIZE, TEACHER_THUMBNAIL_SIZE = 208, 160  # pixels that the teacher is given

logger = logging.getLogger(__name__)


def encode_pictures(folder: Path, only: str = "*.tar") -> Pictures:
    """Return all pictures of a folder of tars, with cached features of the teacher.

    The teacher gets slightly fewer than its 224 pixels, and 160 for thumbnails, which halves the
    work; its accuracy on CIFAR-10 stays the same.
    """
    load = cache(fast_teacher)
    features, captions, sharp = [], [], []
    for tar in sorted(folder.glob(only)):
        pairs = read_pairs(tar)
        large = np.array([shorter_side(pair.picture) > THUMBNAIL for pair in pairs])
        features_of_tar = torch.empty(len(pairs), preset(TEACHER).embed_dim)
        for size, mask in ((TEACHER_SIZE, large), (TEACHER_THUMBNAIL_SIZE, ~large)):
            selected = [pairs[row] for row in np.flatnonzero(mask)]
            if selected:
                features_of_tar[torch.from_numpy(mask)] = cached_teacher_features(
                    selected, size, load
                )
        features.append(features_of_tar)
        captions += [pair.captions for pair in pairs]
        sharp.append(large)
        logger.info("%s: %d pictures", tar.name, len(pairs))
    if not features:
        raise FileNotFoundError(f"{folder}: no tars of pictures; see examples/gather_pictures.py")
    return Pictures(
        F.normalize(torch.cat(features), dim=-1),
        captions,
        np.array([has_captions(texts) for texts in captions]),
        np.concatenate(sharp),
    )


def has_captions(captions: Sequence[str]) -> bool:
    """Return True for five sentences; a synset of WordNet may have five words too."""
    return (
        len(captions) == SENTENCES and sum(len(text.split()) for text in captions) > 3 * SENTENCES
    )


def cached_teacher_features(
    pairs: Sequence[Pair], size: int, load: Callable[[int], nn.Module]
) -> Tensor:
    """Return features [n, 512] of pictures, computed where they are not in the cache."""
    square = Preprocess(replace(preset(TEACHER).preprocess, image_size=size)).square
    stored = open_cache("openai-vit-b-16", f"image-features-{size}", np.float16)
    keys = [sample_key(pair.picture) for pair in pairs]

    def compute(rows: list[int]) -> NDArray[np.float32]:
        pixels = np.stack([np.asarray(square(pairs[row].picture)) for row in rows])
        return teacher_features(load(size), pixels)

    stored.fill(keys, compute)
    return torch.from_numpy(stored[keys]).float()


def shorter_side(picture: bytes) -> int:
    """Return the length of the shorter side, in pixels."""
    with PIL.Image.open(io.BytesIO(picture)) as image:
        return min(image.size)


@torch.inference_mode()
def teacher_features(teacher: nn.Module, pixels: UInt8Array, batch_size: int = 8) -> NDArray[Any]:
    """Encode pixels [n, size, size, 3] to features [n, 512]."""
    preprocess = preset(TEACHER).preprocess
    rows = [
        teacher(normalize_pixels(batch, preprocess).to(PRECISION)).float()
        for batch in torch.from_numpy(pixels).permute(0, 3, 1, 2).split(batch_size)
    ]
    return torch.cat(rows).numpy()


def fast_teacher(size: int) -> nn.Module:
    """Return the teacher in int8 where the CPU supports it, 1.5 times as fast as bfloat16."""
    tower = load_teacher(size)
    if PRECISION is torch.bfloat16:  # such CPUs have VNNI
        for module in list(tower.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Linear):
                    setattr(module, name, Int8Linear(child))
    return tower


class Int8Linear(nn.Module):
    """A linear layer in int8, with a scale for each output and for each token."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        self.scale = weight.abs().amax(dim=1) / 127
        self.weight = (weight / self.scale[:, None]).round().to(torch.int8).T
        self.bias = 0.0 if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]"""
        tokens = x.flatten(0, -2).float()
        scale = tokens.abs().amax(dim=1, keepdim=True).clamp(min=1e-6) / 127
        product = torch._int_mm((tokens / scale).round().to(torch.int8), self.weight)
        out = product.float() * scale * self.scale + self.bias
        return out.to(x.dtype).unflatten(0, x.shape[:-1])
