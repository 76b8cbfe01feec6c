"""Measure an extra loss on caption words (SuperCLIP) beside plain InfoNCE, from scratch.

A linear head on the image features predicts the tokens of the caption: cross-entropy with a target
that is the tokens' inverse document frequencies, scaled to a sum of 1. A small model learns from
Flickr8k in both ways, from the same start and the same batches.

    python -m benchmarks.quality.caption_words TRAIN VAL --seeds 2 --epochs 15
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.evaluate.retrieval import recall_at_k
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.clip import CLIP
from twotower.model.config import ResNetConfig, TextTransformerConfig
from twotower.model.presets import preset
from twotower.pairs.sources import open_source
from twotower.train.batches import normalize_pixels
from twotower.train.loss import clip_loss

SIDE, VOCABULARY, SPECIAL = 64, 49408, 49406  # ids from SPECIAL on begin and end a text
BATCH, RATE = 64, 1e-3

BASE = preset("RN-mini-64")
CONFIG = replace(
    BASE,
    embed_dim=128,
    vision=ResNetConfig(SIDE, 16, (1, 1, 1, 1)),
    text=TextTransformerConfig(32, VOCABULARY, 128, 2, 2, 512, "quick_gelu"),
)


def read_pairs(location: str) -> tuple[Tensor, list[list[str]]]:
    """Return pictures, uint8 [n, 3, SIDE, SIDE], and the captions of each."""
    source, preprocess = open_source(location), Preprocess(CONFIG.preprocess, SIDE)
    pairs = [source[number] for number in range(len(source))]
    pixels = np.stack([np.asarray(preprocess.square(pair.picture)) for pair in pairs])
    captions = [list(pair.captions) for pair in pairs]
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), captions


def word_weights(input_ids: Tensor) -> Tensor:
    """Return the inverse document frequency of each token [VOCABULARY] in captions [n, L]."""
    counts = word_counts(input_ids).sum(dim=0)
    return torch.where(counts > 0, (len(input_ids) / counts.clamp(min=1)).log(), 0.0)


def word_counts(input_ids: Tensor) -> Tensor:
    """Return 1 for each token that a caption has: [n, L] -> [n, VOCABULARY]."""
    present = torch.zeros(len(input_ids), VOCABULARY)
    present.scatter_(1, input_ids, 1.0)
    present[:, SPECIAL:] = present[:, 0] = 0
    return present


def train(
    model: CLIP, weight: float, pixels: Tensor, texts: Tensor, idf: Tensor, epochs: int, seed: int
) -> float:
    """Train `model`; return the seconds."""
    torch.manual_seed(seed)
    head = nn.Linear(CONFIG.embed_dim, VOCABULARY)
    parameters = [*model.parameters(), *(head.parameters() if weight else ())]
    steps = epochs * (len(pixels) // BATCH)
    optimizer = torch.optim.AdamW(parameters, RATE, betas=(0.9, 0.98), weight_decay=0.2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.1)
    random, started = np.random.default_rng(seed), time.perf_counter()
    model.train()
    for _ in range(epochs):
        order = random.permutation(len(pixels))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            input_ids = texts[rows, random.integers(texts.shape[1], size=BATCH)]
            features = model.vision(normalize_pixels(pixels[rows], CONFIG.preprocess))
            image_embeds = F.normalize(features, dim=-1)
            logits = model.logit_scale.exp() * image_embeds @ model.encode_text(input_ids).T
            loss = clip_loss(logits)
            if weight:
                target = word_counts(input_ids) * idf
                target /= target.sum(dim=1, keepdim=True).clamp(min=1e-6)
                loss = loss + weight * F.cross_entropy(head(features), target)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
    return time.perf_counter() - started


@torch.no_grad()
def score(model: CLIP, pixels: Tensor, texts: Tensor) -> str:
    """Return recall at 1, 5 and 10 of text to image, then of image to text, as a line."""
    model.eval()
    images = model.encode_image(normalize_pixels(pixels, CONFIG.preprocess)).numpy()
    captions = model.encode_text(texts.flatten(0, 1)).numpy()
    owners = np.repeat(np.arange(len(pixels)), texts.shape[1])
    recalls = [recall_at_k(images, captions, owners, k) for k in (1, 5, 10)]
    return " ".join(f"{pair[direction]:.4f}" for direction in (0, 1) for pair in recalls)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("train")
    parser.add_argument("val")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--weights", default="0,1", help="of the loss on words")
    options = parser.parse_args()
    tokenizer = load_tokenizer(CONFIG.tokenizer)
    sets = []
    for location in (options.train, options.val):
        pixels, captions = read_pairs(location)
        texts = [torch.from_numpy(tokenizer(five).input_ids) for five in captions]
        sets.append((pixels, torch.stack(texts)))
    (pixels, texts), held_out = sets
    idf = word_weights(texts[:, 0])
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        fresh = CLIP(CONFIG)
        for weight in map(float, options.weights.split(",")):
            model = copy.deepcopy(fresh)
            seconds = train(model, weight, pixels, texts, idf, options.epochs, seed)
            print(f"{weight:g} {seed} {seconds:.0f} {score(model, *held_out)}", flush=True)


if __name__ == "__main__":
    main()
