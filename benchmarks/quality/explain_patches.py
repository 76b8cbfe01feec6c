"""Which way of reading patches points best? Those published, on one vision transformer.

    python benchmarks/quality/explain_patches.py DATA

Four example photographs as one square, asked for what each of them shows: the hottest patch should
lie in that quarter (chance: one quarter). The tower is OpenAI's ViT-B/16, the words are its genuine
vectors of DATA/clip-b16-text-vectors. In the last block, patches attend by keys as trained, or by
the likeness of queries, keys or values, or take their own value alone; what they were before and
the MLP are added as trained, or not. Writes results/explain_patches.csv.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import twotower
from benchmarks.quality.explain import ROOT, apart
from recipes.twotower_small.pretrained import TEACHER, load_teacher
from twotower.evaluate.intervals import wilson
from twotower.inputs.preprocess import Preprocess
from twotower.model.layers import merge_heads, split_heads

RESULTS = Path(__file__).parents[1] / "results" / "explain_patches.csv"
SQUARES = 40
PAPERS = {
    "queries": "ClearCLIP (Lan et al. 2024)",
    "values alone": "MaskCLIP (Zhou et al. 2022)",
    "queries and keys": "SCLIP (Wang et al. 2024) without the rest",
    "values": "CLIP Surgery (Li et al. 2023), one block",
}


def main() -> None:
    with np.load(Path(sys.argv[1]) / "clip-b16-text-vectors" / "all.npz") as file:
        words = dict(zip(file["names"].tolist(), file["vectors"].astype(np.float32), strict=True))
    everyday = np.mean(list(words.values()), axis=0)
    with (ROOT / "examples" / "expected.csv").open(encoding="utf-8") as file_of_labels:
        expected = {
            row["file"]: row["labels"].split("|")
            for row in csv.DictReader(file_of_labels)
            if row["labels"].split("|")[0] in words
        }
    tower: Any = load_teacher().float()
    preprocess = Preprocess(twotower.preset(TEACHER).preprocess)
    random = np.random.default_rng(0)
    right: dict[str, int] = {}
    for _ in range(SQUARES):
        four = apart(sorted(expected), expected, random, 4)
        square = Image.new("RGB", (448, 448))
        for place, name in enumerate(four):
            photo = preprocess.square(ROOT / "examples" / "photos" / name).resize((224, 224))
            square.paste(photo, (224 * (place % 2), 224 * (place // 2)))
        for way, embeds in patches(tower, preprocess(square)).items():
            grid = round(len(embeds) ** 0.5)
            for place, name in enumerate(four):
                heat = embeds @ (words[expected[name][0]] - everyday)
                row, column = divmod(int(heat.argmax()), grid)
                quarter = 2 * (row >= grid / 2) + (column >= grid / 2)
                right[way] = right.get(way, 0) + (quarter == place)
    with RESULTS.open("w", newline="") as results:
        writer = csv.writer(results)
        writer.writerow(("attention", "rest_added", "paper", "questions", "right", "low", "high"))
        for way, count in sorted(right.items(), key=lambda one: -one[1]):
            attention, rest = way.split("|")
            low, high = wilson(count / (4 * SQUARES), 4 * SQUARES)
            numbers = (f"{one:.3f}" for one in (count / (4 * SQUARES), low, high))
            paper = PAPERS.get(attention, "") if rest == "no" else ""
            row_of_results = (attention, rest, paper, 4 * SQUARES, *numbers)
            writer.writerow(row_of_results)
            print(*row_of_results)


@torch.inference_mode()
def patches(tower: Any, pixel_values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Embeds of the patches [n, embed_dim] in each way."""
    x = tower._embed(torch.from_numpy(pixel_values)[None])
    *blocks, last = tower.blocks
    for block in blocks:
        x = block(x)
    q, k, v = split_heads(last.attn.qkv(last.ln_1(x)), 3, last.attn.heads)
    scale = q.shape[-1] ** -0.5

    def alike(one: Tensor, other: Tensor) -> Tensor:
        return torch.softmax(scale * one @ other.transpose(-1, -2), dim=-1)

    attended = {
        "as trained": alike(q, k) @ v,
        "queries": alike(q, q) @ v,
        "keys": alike(k, k) @ v,
        "values": alike(v, v) @ v,
        "queries and keys": (alike(q, q) + alike(k, k)) @ v,
        "values alone": v,
    }
    found = {}
    for name, heads in attended.items():
        out = last.attn.out(merge_heads(heads))
        whole = x + out
        for rest, features in (("no", out), ("yes", whole + last.mlp(last.ln_2(whole)))):
            embeds = F.normalize(tower.proj(tower.ln_post(features[:, 1:])), dim=-1)
            found[f"{name}|{rest}"] = embeds[0].numpy()
    return found


if __name__ == "__main__":
    main()
