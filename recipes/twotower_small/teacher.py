"""What the teacher of the bundled model, OpenAI's ViT-B/16, sees in pictures."""

from __future__ import annotations

import io
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

from recipes.twotower_small.losses import PRECISION, SENTENCES, Pictures, Pixels, Say, read_pairs
from recipes.twotower_small.pretrained import TEACHER, load_teacher
from twotower.inputs.preprocess import Preprocess
from twotower.model.presets import preset
from twotower.pairs.pair import Pair
from twotower.train.batches import normalize_pixels
from twotower.train.embed_cache import open_cache, sample_key

THUMBNAIL = 128  # pixels of the shorter side, up to which a picture is one
SEEN_AT, THUMBNAIL_SEEN_AT = 208, 160  # pixels, by the teacher


def look_at_pictures(folder: Path, say: Say, only: str = "*.tar") -> Pictures:
    """All pictures of a folder of tars, with the teacher's features, which are kept.

    Of its 224 pixels it is shown a little less, and thumbnails at 160, half the work: on those of
    CIFAR-10 it does as well.
    """
    load = cache(quick_teacher)
    features, captions, sharp = [], [], []
    for tar in sorted(folder.glob(only)):
        pairs = read_pairs(tar)
        large = np.array([shorter_side(pair.picture) > THUMBNAIL for pair in pairs])
        found = torch.empty(len(pairs), preset(TEACHER).embed_dim)
        for size, some in ((SEEN_AT, large), (THUMBNAIL_SEEN_AT, ~large)):
            shown = [pairs[row] for row in np.flatnonzero(some)]
            if shown:
                found[torch.from_numpy(some)] = teacher_features_of(shown, size, load)
        features.append(found)
        captions += [pair.captions for pair in pairs]
        sharp.append(large)
        say(f"{tar.name}: {len(pairs)} pictures")
    if not features:
        raise FileNotFoundError(f"{folder}: no tars of pictures; see examples/gather_pictures.py")
    return Pictures(
        F.normalize(torch.cat(features), dim=-1),
        captions,
        np.array([is_described(own) for own in captions]),
        np.concatenate(sharp),
    )


def is_described(captions: Sequence[str]) -> bool:
    """Whether these are sentences: a synset of WordNet may be of five words too."""
    return len(captions) == SENTENCES and sum(len(one.split()) for one in captions) > 3 * SENTENCES


def teacher_features_of(
    pairs: Sequence[Pair], size: int, load: Callable[[int], nn.Module]
) -> Tensor:
    """[n, 512] of their pictures, computed where they are not kept from before."""
    square = Preprocess(replace(preset(TEACHER).preprocess, image_size=size)).square
    kept = open_cache("openai-vit-b-16", f"image-features-{size}", np.float16)
    keys = [sample_key(pair.picture) for pair in pairs]

    def see(rows: list[int]) -> NDArray[np.float32]:
        pixels = np.stack([np.asarray(square(pairs[row].picture)) for row in rows])
        return teacher_features(load(size), pixels)

    kept.fill(keys, see)
    return torch.from_numpy(kept[keys]).float()


def shorter_side(picture: bytes) -> int:
    """Of a picture, in pixels."""
    with PIL.Image.open(io.BytesIO(picture)) as image:
        return min(image.size)


@torch.inference_mode()
def teacher_features(teacher: nn.Module, pixels: Pixels, batch_size: int = 8) -> NDArray[Any]:
    """[n, size, size, 3] -> [n, 512]"""
    preprocess = preset(TEACHER).preprocess
    rows = [
        teacher(normalize_pixels(batch, preprocess).to(PRECISION)).float()
        for batch in torch.from_numpy(pixels).permute(0, 3, 1, 2).split(batch_size)
    ]
    return torch.cat(rows).numpy()


def quick_teacher(size: int) -> nn.Module:
    """The teacher in int8 where the CPU multiplies that well, half as fast again as bfloat16."""
    tower = load_teacher(size)
    if PRECISION is torch.bfloat16:  # such CPUs have VNNI
        for module in list(tower.modules()):
            for name, part in module.named_children():
                if isinstance(part, nn.Linear):
                    setattr(module, name, Int8Linear(part))
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
