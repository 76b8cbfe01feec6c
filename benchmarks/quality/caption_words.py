"""Compare an extra loss on the words of captions (SuperCLIP) with the contrastive loss alone.

    python benchmarks/quality/caption_words.py DATA [EPOCHS [SEED ...]]

DATA has `flickr8k-train` and `flickr8k-val`. The preset RN-mini-64 learns EPOCHS (12) times from
the first, from the same start and with the same batches with both losses, then for a third more
epochs with the contrastive loss, and is scored on the second.
The extra loss (NeurIPS 2025): a linear map from image features to the vocabulary predicts which
tokens a caption has; their inverse document frequencies, scaled to a sum of 1, are its target.
Writes results/caption_words.csv.
"""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.table import write_results
from twotower.evaluate.retrieval import recall_at_k
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.clip import CLIP
from twotower.model.presets import preset
from twotower.pairs.sources import open_source
from twotower.train.batches import normalize_pixels
from twotower.train.loss import clip_loss

CONFIG = preset("RN-mini-64")
BATCH, LEARNING_RATE, WEIGHT_DECAY = 64, 1e-3, 0.2
VOCAB_SIZE = 49408
FIRST_SPECIAL = VOCAB_SIZE - 2  # this token and the next begin and end a text
# weight of the loss on words, and multiple of the epochs; the last two take about as long
METHODS = {
    "contrastive": (0.0, 1.0),
    "contrastive and words": (1.0, 1.0),
    "contrastive, longer": (0.0, 4 / 3),
}
COLUMNS = (
    *("method", "seed", "epochs", "pairs", "cpu_seconds"),
    *(f"{direction}_r{k}" for direction in ("text_to_image", "image_to_text") for k in (1, 5, 10)),
)


def main() -> None:
    data = Path(sys.argv[1])
    epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 12
    seeds = [int(seed) for seed in sys.argv[3:]] or [0, 1, 2]
    pixels, texts = read_pairs(str(data / "flickr8k-train"))
    held_out = read_pairs(str(data / "flickr8k-val"))
    frequencies = inverse_frequencies(texts.flatten(0, 1))
    rows = []
    for seed in seeds:
        torch.manual_seed(seed)
        start = CLIP(CONFIG)
        for method, (weight, multiple) in METHODS.items():
            model, count = copy.deepcopy(start), round(epochs * multiple)
            seconds = train(model, weight, pixels, texts, frequencies, count, seed)
            recalls = [f"{recall:.4f}" for recall in score(model, *held_out)]
            rows.append((method, seed, count, len(pixels), f"{seconds:.0f}", *recalls))
            print(*rows[-1], flush=True)
    write_results("caption_words.csv", COLUMNS, rows)


def read_pairs(location: str) -> tuple[Tensor, Tensor]:
    """Return pictures, uint8 [n, 3, S, S], and input_ids of five captions each [n, 5, L]."""
    source, preprocess = open_source(location), Preprocess(CONFIG.preprocess)
    tokenizer = load_tokenizer(CONFIG.tokenizer)
    pairs = [source[number] for number in range(len(source))]
    pixels = np.stack([np.asarray(preprocess.square(pair.picture)) for pair in pairs])
    texts = np.stack([tokenizer(list(pair.captions)).input_ids for pair in pairs])
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(texts)


def inverse_frequencies(input_ids: Tensor) -> Tensor:
    """Return the inverse document frequency of each token [vocab_size] in captions [n, L]."""
    counts = torch.stack([present(chunk).sum(dim=0) for chunk in input_ids.split(1024)]).sum(dim=0)
    return torch.where(counts > 0, (len(input_ids) / counts.clamp(min=1)).log(), 0.0)


def present(input_ids: Tensor) -> Tensor:
    """Return 1 for each token that a caption has: [n, L] -> [n, vocab_size]."""
    tokens = torch.zeros(len(input_ids), VOCAB_SIZE)
    tokens.scatter_(1, input_ids, 1.0)
    tokens[:, FIRST_SPECIAL:] = tokens[:, 0] = 0  # 0 pads
    return tokens


def train(
    model: CLIP,
    weight: float,
    pixels: Tensor,
    texts: Tensor,
    frequencies: Tensor,
    epochs: int,
    seed: int,
) -> float:
    """Train a model in place; return the CPU seconds.

    Args:
        weight: of the loss on words; 0 leaves it out.
        pixels: uint8 [n, 3, S, S].
        texts: input_ids [n, captions, L], of which one is drawn in each epoch.
    """
    torch.manual_seed(seed)
    words = nn.Linear(CONFIG.embed_dim, VOCAB_SIZE)
    parameters = [*model.parameters(), *(words.parameters() if weight else ())]
    optimizer = torch.optim.AdamW(
        parameters, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY
    )
    steps = epochs * (len(pixels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.1)
    random, started = np.random.default_rng(seed), time.process_time()
    model.train()
    for _ in range(epochs):
        order = random.permutation(len(pixels))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows = torch.from_numpy(order[start : start + BATCH])
            input_ids = texts[rows, torch.from_numpy(random.integers(texts.shape[1], size=BATCH))]
            features = model.vision(normalize_pixels(pixels[rows], CONFIG.preprocess))
            image_embeds = F.normalize(features, dim=-1)
            logits = model.logit_scale.exp() * image_embeds @ model.encode_text(input_ids).T
            loss = clip_loss(logits)
            if weight:
                target = F.normalize(present(input_ids) * frequencies, p=1, dim=1)
                loss = loss + weight * F.cross_entropy(words(features), target)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
    return time.process_time() - started


@torch.no_grad()
def score(model: CLIP, pixels: Tensor, texts: Tensor) -> list[float]:
    """Return recall at 1, 5 and 10 of text to image, and of image to text."""
    model.eval()
    chunks = pixels.split(250)
    image_embeds = torch.cat(
        [model.encode_image(normalize_pixels(chunk, CONFIG.preprocess)) for chunk in chunks]
    ).numpy()
    text_embeds = model.encode_text(texts.flatten(0, 1)).numpy()
    owners = np.repeat(np.arange(len(pixels)), texts.shape[1])
    recalls = [recall_at_k(image_embeds, text_embeds, owners, k) for k in (1, 5, 10)]
    return [pair[direction] for direction in (0, 1) for pair in recalls]


if __name__ == "__main__":
    main()
