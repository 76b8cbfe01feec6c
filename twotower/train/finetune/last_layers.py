"""The last linear map of each tower (its head), and the features that the towers give to it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from twotower.arrays import Float32Array
from twotower.errors import PictureError
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import Tokenizer
from twotower.model.clip import CLIP
from twotower.model.config import ViTConfig

TEXT_BATCH = 128
VIT_BATCH, CONVNET_BATCH = 32, 8  # pictures; small batches stay in a CPU's cache

HeadLocation: TypeAlias = tuple[nn.Module, str]  # a module and its attribute


def find_head(tower: nn.Module) -> HeadLocation | None:
    """Return the location of a tower's last linear map, or None if it has none."""
    for module, name in ((tower, "proj"), (getattr(tower, "attnpool", None), "out")):
        if module is not None and isinstance(getattr(module, name, None), nn.Linear):
            return module, name
    return None


def find_heads(model: CLIP) -> list[HeadLocation]:
    """Return the locations of both towers' last linear maps, without those that do not exist."""
    return [head for head in (find_head(model.vision), find_head(model.text)) if head]


@contextlib.contextmanager
def without_heads(model: CLIP) -> Iterator[None]:
    """Remove both heads in this block, so that the towers return the inputs of their heads."""
    locations = find_heads(model)
    heads = [getattr(module, name) for module, name in locations]
    for module, name in locations:
        setattr(module, name, nn.Identity())
    try:
        yield
    finally:
        for (module, name), head in zip(locations, heads, strict=True):
            setattr(module, name, head)


@torch.inference_mode()
def image_features(model: CLIP, pictures: Iterable[bytes]) -> Float32Array:
    """Return the outputs of the image tower [n, width]; a row of NaN for an unreadable picture."""
    preprocess = Preprocess(model.config.preprocess)
    side = preprocess.config.image_size
    unreadable = np.full((3, side, side), np.nan, np.float32)

    def read(picture: bytes) -> Float32Array:
        try:
            return preprocess(picture)
        except PictureError:
            return unreadable

    size = VIT_BATCH if isinstance(model.config.vision, ViTConfig) else CONVNET_BATCH
    vision = _fast_vision(model)
    rows, remaining = [], iter(pictures)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        while batch := list(islice(remaining, size)):
            pixels = np.stack(list(threads.map(read, batch)))
            broken = np.isnan(pixels[:, 0, 0, 0])
            features = vision(torch.from_numpy(np.nan_to_num(pixels))).numpy()
            features[broken] = np.nan
            rows.append(features)
    return np.concatenate(rows)


@torch.inference_mode()
def text_features(model: CLIP, texts: Sequence[str], tokenizer: Tokenizer) -> Float32Array:
    """Return the outputs of the text tower [n, width]; texts of similar length share a batch."""
    tokens = tokenizer(texts)
    lengths = tokens.lengths.copy()
    if model.config.needs_padding:
        lengths[:] = tokens.input_ids.shape[1]
    order = np.argsort(lengths, kind="stable")
    batches = []
    for start in range(0, len(order), TEXT_BATCH):
        rows = order[start : start + TEXT_BATCH]
        input_ids = np.ascontiguousarray(tokens.input_ids[rows, : lengths[rows].max()])
        batches.append(model.text(torch.from_numpy(input_ids)).numpy())
    return np.asarray(np.concatenate(batches)[np.argsort(order)], np.float32)


def _fast_vision(model: CLIP) -> Callable[[Tensor], Tensor]:
    """Return the image tower, in channels-last order if it has convolutions."""
    vision: Any = model.vision
    if isinstance(model.config.vision, ViTConfig):
        return vision
    vision.to(memory_format=torch.channels_last)
    return lambda pixels: vision(pixels.contiguous(memory_format=torch.channels_last))
