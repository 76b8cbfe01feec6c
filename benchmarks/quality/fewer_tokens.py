"""Measure what an image tower loses and gains with fewer tokens.

    python benchmarks/quality/fewer_tokens.py DATA [MODEL [PICTURES]]

DATA has `cifar10-dev` and `flickr8k-val`. Two ways, without any training: smaller pictures with
interpolated positions, and token merging (Bolya et al. 2023: in each block, the R patches whose
keys are most similar to another's are averaged with it, and weigh accordingly in the attention).
Zero-shot top-1 on PICTURES (500) of CIFAR-10, recall at 1 of captions on Flickr8k's 500, and the
cosine with the embeds of all tokens, paired: `low` and `high` are the 95 % interval of the
difference in points. `speed` is a multiple of the tower with all tokens, in torch, in the same
run. Writes results/fewer_tokens.csv.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import twotower
from benchmarks.quality.paired_tasks import COLUMNS, Task, cifar10, compare, flickr8k
from benchmarks.table import write_results
from twotower.arrays import Float32Array, normalize
from twotower.inputs.pictures import Picture
from twotower.inputs.preprocess import Preprocess
from twotower.model.config import CLIPConfig
from twotower.model.layers import Block, merge_heads, split_heads
from twotower.model.positions import resize_grid
from twotower.model.vision import VisionTransformer
from twotower.model.weights import load_model

BATCH = 8


@dataclass(frozen=True)
class Reduction:
    """A way to have fewer tokens.

    Attributes:
        image_size: of the pictures, in pixels.
        merged: tokens that each block merges with others.
    """

    image_size: int
    merged: int = 0

    def __str__(self) -> str:
        return f"{self.merged} merged a block" if self.merged else f"{self.image_size} pixels"


REDUCTIONS = (
    Reduction(192),
    Reduction(160),
    Reduction(224, 4),
    Reduction(224, 8),
    Reduction(224, 12),
)


def main() -> None:
    data = Path(sys.argv[1])
    name = sys.argv[2] if len(sys.argv) > 2 else "base"
    limit = int(sys.argv[3]) if len(sys.argv) > 3 else 500
    encoder = twotower.load(name)
    tower = load_model(encoder.directory).vision
    assert isinstance(tower, VisionTransformer)
    tasks = cifar10(encoder, data, limit), flickr8k(encoder, data)
    everything = Reduction(encoder.config.vision.image_size)
    before = [embed(tower, encoder.config, everything, task) for task in tasks]
    rows = []
    for reduction in REDUCTIONS:
        for task, (expected, seconds) in zip(tasks, before, strict=True):
            image_embeds, shorter = embed(tower, encoder.config, reduction, task)
            row = (
                name,
                reduction,
                f"{seconds / shorter:.2f}",
                *compare(task, expected, image_embeds),
            )
            print(*row, flush=True)
            rows.append(row)
    write_results("fewer_tokens.csv", ("model", "tokens", "speed", *COLUMNS), rows)


def embed(
    tower: VisionTransformer, config: CLIPConfig, reduction: Reduction, task: Task
) -> tuple[Float32Array, float]:
    """Return the embeds of the pictures of a task, and the CPU seconds of the tower."""
    preprocess = Preprocess(replace(config.preprocess, image_size=reduction.image_size))
    rows = (reduction.image_size // tower.patch_embed.stride[0]) ** 2 + 1
    positions = torch.from_numpy(resize_grid(tower.pos_embed.detach().numpy(), rows))
    features, seconds = [], 0.0
    for start in range(0, len(task.pictures), BATCH):
        pixel_values = read(preprocess, task.pictures[start : start + BATCH])
        began = time.process_time()
        with torch.inference_mode():
            features.append(encode(tower, pixel_values, positions, reduction.merged).numpy())
        seconds += time.process_time() - began
    return normalize(np.concatenate(features)), seconds


def read(preprocess: Preprocess, pictures: Sequence[Picture]) -> Tensor:
    return torch.from_numpy(np.stack([preprocess(picture) for picture in pictures]))


def encode(
    tower: VisionTransformer, pixel_values: Tensor, positions: Tensor, merged: int
) -> Tensor:
    """Encode [B, 3, S, S] -> image_features [B, embed_dim], and merge tokens in each block."""
    assert tower.class_embed is not None
    patches = tower.patch_embed(pixel_values).flatten(2).transpose(1, 2)
    x = torch.cat([tower.class_embed.expand(len(patches), 1, -1), patches], dim=1)
    x = tower.ln_pre(x + positions)
    sizes = torch.ones_like(x[..., :1])  # patches that each token stands for
    for block in tower.blocks:
        assert isinstance(block, Block)
        q, k, v = split_heads(block.attn.qkv(block.ln_1(x)), 3, block.attn.heads)
        weights = sizes.log()[:, None, None, :, 0] if merged else None
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=weights)
        x = x + block.attn.out(merge_heads(attended))
        if merged:
            x, sizes = merge(x, sizes, k.mean(dim=1), merged)
        x = x + block.mlp(block.ln_2(x))
    return tower.proj(tower.ln_post(x[:, 0]))


def merge(x: Tensor, sizes: Tensor, keys: Tensor, merged: int) -> tuple[Tensor, Tensor]:
    """Average `merged` of the even tokens, without the class token, with their nearest odd one.

    Args:
        x: [B, L, width].
        sizes: [B, L, 1].
        keys: [B, L, width of a head], whose cosine says how similar two tokens are.
    """
    keys = F.normalize(keys, dim=-1)
    cosines = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)
    cosines[:, 0] = -1  # of the class token
    highest, nearest = cosines.max(dim=-1)
    order = highest.argsort(dim=-1, descending=True)[..., None]
    kept, sources = order[:, merged:].sort(dim=1).values, order[:, :merged]
    targets = nearest[..., None].gather(1, sources)

    def add(values: Tensor) -> Tensor:
        even, odd = values[:, ::2], values[:, 1::2]
        width = values.shape[-1]
        summands = even.gather(1, sources.expand(-1, -1, width))
        sums = odd.scatter_add(1, targets.expand(-1, -1, width), summands)
        return torch.cat([even.gather(1, kept.expand(-1, -1, width)), sums], dim=1)

    total = add(sizes)
    return add(x * sizes) / total, total


if __name__ == "__main__":
    main()
