"""The last linear map of each tower, and what the frozen towers give to it: features."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twotower.errors import PictureError
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import Tokenizer
from twotower.model.clip import CLIP
from twotower.model.config import ViTConfig

TEXTS = 128  # that are computed together


def head_of(tower: nn.Module) -> tuple[nn.Module, str] | None:
    """Where a tower keeps its last linear map: (module, attribute); None where it has none."""
    for holder, name in ((tower, "proj"), (getattr(tower, "attnpool", None), "out")):
        if holder is not None and isinstance(getattr(holder, name, None), nn.Linear):
            return holder, name
    return None


@contextlib.contextmanager
def without_heads(model: CLIP) -> Iterator[None]:
    """Inside, both towers give what their last linear map would be given."""
    found = [head for head in (head_of(model.vision), head_of(model.text)) if head]
    heads = [getattr(holder, name) for holder, name in found]
    for holder, name in found:
        setattr(holder, name, nn.Identity())
    try:
        yield
    finally:
        for (holder, name), head in zip(found, heads, strict=True):
            setattr(holder, name, head)


@torch.inference_mode()
def image_features(model: CLIP, pictures: Iterable[bytes]) -> NDArray[np.float32]:
    """[n, width] as the tower gives them; a row of NaN for a picture that cannot be read.

    On a CPU small batches, and convolutions in channels-last order, stay in its cache.
    """
    preprocess = Preprocess(model.config.preprocess)
    side = preprocess.config.image_size
    unreadable = np.full((3, side, side), np.nan, np.float32)

    def read(picture: bytes) -> NDArray[np.float32]:
        try:
            return preprocess(picture)
        except PictureError:
            return unreadable

    size = 32 if isinstance(model.config.vision, ViTConfig) else 8
    vision = _for_speed(model)
    rows, remaining = [], iter(pictures)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        while some := list(islice(remaining, size)):
            pixels = np.stack(list(threads.map(read, some)))
            broken = np.isnan(pixels[:, 0, 0, 0])
            features = vision(torch.from_numpy(np.nan_to_num(pixels))).numpy()
            features[broken] = np.nan
            rows.append(features)
    return np.concatenate(rows)


@torch.inference_mode()
def text_features(model: CLIP, texts: Sequence[str], tokenizer: Tokenizer) -> NDArray[np.float32]:
    """[n, width] as the tower gives them; texts of like length are computed together."""
    tokens = tokenizer(texts)
    lengths = tokens.attention_mask.sum(axis=1)
    config = model.config.text
    if config.kind == "transformer" and not config.causal:
        lengths[:] = tokens.input_ids.shape[1]  # every position counts, padding too
    order = np.argsort(lengths, kind="stable")
    features: NDArray[np.float32] | None = None
    for start in range(0, len(order), TEXTS):
        rows = order[start : start + TEXTS]
        input_ids = np.ascontiguousarray(tokens.input_ids[rows, : lengths[rows].max()])
        found = model.text(torch.from_numpy(input_ids)).numpy()
        if features is None:
            features = np.empty((len(order), found.shape[1]), np.float32)
        features[rows] = found
    assert features is not None
    return features


def _for_speed(model: CLIP) -> Callable[[Tensor], Tensor]:
    """The picture tower, in channels-last order if it convolves."""
    vision: Any = model.vision
    if isinstance(model.config.vision, ViTConfig):
        return vision
    vision.to(memory_format=torch.channels_last)
    return lambda pixels: vision(pixels.contiguous(memory_format=torch.channels_last))
