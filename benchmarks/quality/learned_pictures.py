"""How much too sure a model is of pictures that it has learned from.

    python benchmarks/quality/learned_pictures.py ../shared/data

`twotower calibrate` is mostly run on pictures with captions that the model has learned from, as the
bundled one has from flickr8k-train: it scores what they show higher than on new pictures. How much
is measured here without the dev set: an image head like the bundled one's is trained anew, on the
captions of four fifths of flickr8k-train, and, as the bundled one on its teacher, on the bundled
model's own view of these and of imagenet-sample-1k. The curve of tags is fitted on what was
learned, and tested on the fifth that was not. The slope and constant that take its log-odds to
what is true there are OTHERS_SLOPE and OTHERS_CONSTANT in twotower/library/fit.py. Writes
results/learned_pictures.csv.
"""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import twotower
from benchmarks.quality.students import regress
from recipes.twotower_small.losses import TEACHER_SCALE, cosine_steps, distillation_loss, pair_loss
from recipes.twotower_small.vision_student import (
    WEIGHT_DECAY,
    embed,
    fold_batch_norms,
    view_batches,
    view_crop,
    view_whole,
)
from twotower.calibration.background import background_texts, measure_background
from twotower.calibration.calibration import TYPICAL_TAGS
from twotower.calibration.fit import Pictures, fit_logistic
from twotower.calibration.tag_curve import mean_distance, simple_tag_curve
from twotower.inputs.preprocess import Preprocess
from twotower.model.weights import load_model
from twotower.pairs.pair import Source
from twotower.pairs.sources import open_source
from twotower.tagging.fit_tags import fit_weights, tag_examples

RESULTS = Path(__file__).parents[1] / "results" / "learned_pictures.csv"
LEFT_OUT = 0.2
STEPS, TOLD, SHOWN, AMONG = 400, 768, 512, 1024
CAPTIONS = 3  # of a picture
ASKED = (0.9, 0.8, 0.7)
COLUMNS = (
    *("pictures", "number", "log-loss", "slope", "constant"),
    *(f"precision at {asked}" for asked in ASKED),
)

Numbers = NDArray[np.float64]


def main() -> None:
    data = Path(sys.argv[1])
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    encoder = twotower.load()
    train = open_source(str(data / "flickr8k-train" / "*.tar"))
    named = open_source(data / "imagenet-sample-1k")
    vision: Any = load_model(encoder.directory).vision.eval()
    tower = fold_batch_norms(vision)
    pooled, named_pooled = (
        torch.stack(
            [see(encoder, tower, one, view, random) for view in (view_whole, view_crop)], dim=1
        )
        for one in (train, named)
    )
    pooled, named_pooled = (
        vision.norm(one.flatten(0, 1)).view_as(one) for one in (pooled, named_pooled)
    )
    print("pictures seen")
    captions = [train[number].captions for number in range(len(train))]
    told = [one for some in captions for one in some[:CAPTIONS]]
    caption_embeds = torch.from_numpy(encoder.encode_text(told)).unflatten(0, (len(train), -1))
    order = random.permutation(len(train))
    cut = round(LEFT_OUT * len(train))
    others, learned = order[:cut], order[cut:]
    shown = torch.cat([pooled[learned], named_pooled])
    with torch.no_grad():
        taught = F.normalize(vision.proj(vision.widen(shown[:, 0])), dim=-1)
    train_head(vision, shown, taught, pooled[learned], caption_embeds[learned], random)
    with torch.no_grad():
        embeds = F.normalize(vision.proj(vision.widen(pooled[:, 0])), dim=-1).numpy()

    texts = encoder.encode_text(background_texts())
    background = measure_background(embeds[learned], texts)
    curve = simple_tag_curve(background, mean_distance(texts), TYPICAL_TAGS, ())
    judged = [
        tag_examples(encoder, curve, [Pictures(embeds[some], [captions[one] for one in some])])
        for some in (learned, others)
    ]
    weights, words = fit_weights(judged[0])
    logits = [np.concatenate([one.logits(weights, words) for one in some]) for some in judged]
    answers = [np.concatenate([one.answers for one in some]) for some in judged]
    cutoffs = [cutoff(logits[0], answers[0], asked) for asked in ASKED]
    rows = [
        (name, str(len(some)), *summary(x, y, cutoffs))
        for name, some, x, y in zip(
            ("learned from", "others"), (learned, others), logits, answers, strict=True
        )
    ]
    with RESULTS.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def see(
    encoder: twotower.Encoder, tower: Any, source: Source, view: Any, random: np.random.Generator
) -> Tensor:
    """What the head is given of the pictures of a source [n, width]."""
    preprocess = encoder.config.preprocess
    square = Preprocess(preprocess).square
    rows = []
    for start in range(0, len(source), 256):
        some = range(start, min(start + 256, len(source)))
        pixels = np.stack([np.asarray(square(source[number].picture)) for number in some])
        with torch.no_grad():
            rows += [tower.pool(one) for one in view_batches(pixels, view, preprocess, random)]
    return torch.cat(rows)


def train_head(
    vision: Any,
    shown: Tensor,
    taught: Tensor,
    told: Tensor,
    caption_embeds: Tensor,
    random: np.random.Generator,
) -> None:
    """As version 2's was, from ridge regression on, without its named pictures.

    Args:
        shown: pictures in both views [n, 2, width], of which the model says `taught` [n, 512].
        told: those with captions [m, 2, width], of which `caption_embeds` is [m, k, 512].
    """
    vision.hidden.reset_parameters()
    with torch.no_grad():
        regress(vision, shown[:, 0], taught)
    learned = [*vision.hidden.parameters(), *vision.proj.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=1e-3, weight_decay=WEIGHT_DECAY)
    log_scale = torch.tensor(math.log(TEACHER_SCALE / 2))
    for _ in cosine_steps(STEPS, optimizer):
        some = random.choice(len(shown), SHOWN)
        embeds, target = embed(vision, shown[some, random.choice(2, SHOWN)]), taught[some]
        among = taught[random.choice(len(taught), AMONG)]
        rows = random.choice(len(told), TOLD, replace=False)
        told_embeds = embed(vision, told[rows, random.choice(2, TOLD, p=(0.6, 0.4))])
        captions = caption_embeds[rows, random.integers(0, caption_embeds.shape[1], TOLD)]
        loss = (
            4 * (1 - (embeds * target).sum(dim=1)).mean()
            + distillation_loss(embeds, target, among)
            + pair_loss(captions, told_embeds, log_scale, [str(one) for one in rows])
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def cutoff(logits: Numbers, answers: NDArray[np.bool_], precision: float) -> float:
    """The least log-odds from which so many answers are true."""
    order = np.argsort(-logits, kind="stable")
    share = np.cumsum(answers[order]) / np.arange(1, len(order) + 1)
    return float(logits[order[np.flatnonzero(share >= precision)[-1]]])


def summary(logits: Numbers, answers: NDArray[np.bool_], cutoffs: list[float]) -> tuple[str, ...]:
    loss = np.logaddexp(0, np.where(answers, -logits, logits)).mean()
    slope, constant = fit_logistic(logits[:, None], answers)
    precisions = [answers[logits >= one].mean() for one in cutoffs]
    return (
        *(f"{loss:.4f}", f"{slope:.2f}", f"{constant:.2f}"),
        *(f"{one:.3f}" for one in precisions),
    )


if __name__ == "__main__":
    main()
