"""Compare published ways to read patch embeds of a vision transformer, by where they point.

    python benchmarks/quality/explain_patches.py DATA

Four example photographs form one square, and the text is the label of one of them: the patch with
the highest similarity should lie in its quarter (chance: one quarter). The tower is OpenAI's
ViT-B/16, and the text embeds are its own, from DATA/clip-b16-text-vectors. In the last block,
patches attend by queries and keys as trained, by the similarity of queries, keys or values, or each
patch takes its own value alone. The residual and the MLP are added as trained, or left out. Writes
results/explain_patches.csv.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import twotower
from benchmarks.quality.explain import draw_distinct, read_labels
from benchmarks.table import ROOT, write_results
from recipes.twotower_small.pretrained import TEACHER, load_teacher
from twotower.arrays import Float32Array
from twotower.evaluate.intervals import wilson
from twotower.inputs.preprocess import Preprocess
from twotower.model.layers import merge_heads, split_heads

COLUMNS = ("attention", "residual", "paper", "queries", "right", "low", "high")
SQUARES = 40
PAPERS = {
    "queries": "ClearCLIP (Lan et al. 2024)",
    "values alone": "MaskCLIP (Zhou et al. 2022)",
    "queries and keys": "SCLIP (Wang et al. 2024) without the residual",
    "values": "CLIP Surgery (Li et al. 2023), one block",
}


def main() -> None:
    with np.load(Path(sys.argv[1]) / "clip-b16-text-vectors" / "all.npz") as file:
        vectors = file["vectors"].astype(np.float32)
        text_embeds = dict(zip(file["names"].tolist(), vectors, strict=True))
    mean_embed = np.mean(list(text_embeds.values()), axis=0)
    labels = {name: names for name, names in read_labels().items() if names[0] in text_embeds}
    tower: Any = load_teacher().float()
    preprocess = Preprocess(twotower.preset(TEACHER).preprocess)
    random = np.random.default_rng(0)
    right: Counter[tuple[str, str]] = Counter()
    for _ in range(SQUARES):
        names = draw_distinct(sorted(labels), labels, random, 4)
        square = Image.new("RGB", (448, 448))
        for quarter, name in enumerate(names):
            photo = preprocess.square(ROOT / "examples" / "photos" / name).resize((224, 224))
            square.paste(photo, (224 * (quarter % 2), 224 * (quarter // 2)))
        for variant, embeds in patch_embeds(tower, preprocess(square)).items():
            for quarter, name in enumerate(names):
                heat = embeds @ (text_embeds[labels[name][0]] - mean_embed)
                right[variant] += hottest_quarter(heat) == quarter
    write_results("explain_patches.csv", COLUMNS, map(make_row, right.most_common()))


def hottest_quarter(heat: Float32Array) -> int:
    grid = round(len(heat) ** 0.5)
    row, column = divmod(int(heat.argmax()), grid)
    return 2 * (row >= grid / 2) + (column >= grid / 2)


def make_row(item: tuple[tuple[str, str], int]) -> tuple[object, ...]:
    (attention, residual), count = item
    n = 4 * SQUARES
    numbers = (f"{share:.3f}" for share in (count / n, *wilson(count / n, n)))
    paper = PAPERS.get(attention, "") if residual == "no" else ""
    return (attention, residual, paper, n, *numbers)


@torch.inference_mode()
def patch_embeds(tower: Any, pixel_values: Float32Array) -> dict[tuple[str, str], Float32Array]:
    """Return embeds of the patches [n, embed_dim] by attention and residual ("yes" or "no")."""
    x = tower.embed(torch.from_numpy(pixel_values)[None])
    *blocks, last_block = tower.blocks
    for block in blocks:
        x = block(x)
    attention = last_block.attn
    q, k, v = split_heads(attention.qkv(last_block.ln_1(x)), 3, attention.heads)
    scale = q.shape[-1] ** -0.5

    def similarity(a: Tensor, b: Tensor) -> Tensor:
        return torch.softmax(scale * a @ b.transpose(-1, -2), dim=-1)

    attended = {
        "as trained": similarity(q, k) @ v,
        "queries": similarity(q, q) @ v,
        "keys": similarity(k, k) @ v,
        "values": similarity(v, v) @ v,
        "queries and keys": (similarity(q, q) + similarity(k, k)) @ v,
        "values alone": v,
    }
    embeds = {}
    for name, heads in attended.items():
        out = attention.out(merge_heads(heads))
        summed = x + out
        with_residual = summed + last_block.mlp(last_block.ln_2(summed))
        for residual, features in (("no", out), ("yes", with_residual)):
            unit = F.normalize(tower.proj(tower.ln_post(features[:, 1:])), dim=-1)
            embeds[name, residual] = unit[0].numpy()
    return embeds


if __name__ == "__main__":
    main()
