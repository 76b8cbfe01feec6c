"""Measure the overconfidence of a model on pictures that it was trained on.

    python benchmarks/quality/learned_pictures.py ../shared/data

`twotower calibrate` usually runs on pictures with captions that the model was trained on, as the
bundled one on flickr8k-train. There it scores the true words higher than on new pictures. The
difference is measured without the dev set: an image head like the bundled one's is trained again,
on the captions of four fifths of flickr8k-train, with the bundled model as its teacher on these
pictures and on imagenet-sample-1k. The curve of tags is fitted on the four fifths and tested on the
last one. UNSEEN_SLOPE and UNSEEN_CONSTANT in twotower/tagging/fit_tags.py are the slope and the
constant that correct its log-odds. Writes results/learned_pictures.csv.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import twotower
from benchmarks.quality.students import regress
from benchmarks.table import write_results
from recipes.twotower_small.losses import TEACHER_SCALE, cosine_steps, distillation_loss, pair_loss
from recipes.twotower_small.vision_student import (
    WEIGHT_DECAY,
    embed,
    fold_batch_norms,
    view_batches,
    view_crop,
    view_whole,
)
from twotower.arrays import BoolArray, Float64Array
from twotower.calibration.background import background_texts, measure_background
from twotower.calibration.calibration import TYPICAL_TAGS
from twotower.calibration.fit import Pictures, fit_logistic
from twotower.calibration.tag_curve import mean_distance, simple_tag_curve
from twotower.inputs.preprocess import Preprocess
from twotower.model.weights import load_model
from twotower.pairs.pair import Source
from twotower.pairs.sources import open_source
from twotower.tagging.fit_tags import fit_weights, tag_examples

HELD_OUT = 0.2
STEPS = 400
CAPTION_BATCH, DISTILLATION_BATCH, NEGATIVES = 768, 512, 1024
CAPTIONS = 3  # of a picture
PRECISIONS = (0.9, 0.8, 0.7)  # requested
COLUMNS = (
    *("pictures", "number", "log-loss", "slope", "constant"),
    *(f"precision at {precision}" for precision in PRECISIONS),
)


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
            [
                pool_pictures(encoder, tower, source, view, random)
                for view in (view_whole, view_crop)
            ],
            dim=1,
        )
        for source in (train, named)
    )
    pooled, named_pooled = (
        vision.norm(views.flatten(0, 1)).view_as(views) for views in (pooled, named_pooled)
    )
    print("pictures encoded")
    captions = [train[number].captions for number in range(len(train))]
    texts = [text for picture in captions for text in picture[:CAPTIONS]]
    caption_embeds = torch.from_numpy(encoder.encode_text(texts)).unflatten(0, (len(train), -1))
    order = random.permutation(len(train))
    cut = round(HELD_OUT * len(train))
    held_out, trained = order[:cut], order[cut:]
    inputs = torch.cat([pooled[trained], named_pooled])
    with torch.no_grad():
        targets = F.normalize(vision.proj(vision.widen(inputs[:, 0])), dim=-1)
    train_head(vision, inputs, targets, pooled[trained], caption_embeds[trained], random)
    with torch.no_grad():
        embeds = F.normalize(vision.proj(vision.widen(pooled[:, 0])), dim=-1).numpy()

    background_embeds = encoder.encode_text(background_texts())
    background = measure_background(embeds[trained], background_embeds)
    curve = simple_tag_curve(background, mean_distance(background_embeds), TYPICAL_TAGS, ())
    sets = (trained, held_out)
    examples = [
        tag_examples(encoder, curve, [Pictures(embeds[rows], [captions[row] for row in rows])])
        for rows in sets
    ]
    weights, words = fit_weights(examples[0])
    logits = [np.concatenate([tag.logits(weights, words) for tag in tags]) for tags in examples]
    answers = [np.concatenate([tag.answers for tag in tags]) for tags in examples]
    cutoffs = [find_cutoff(logits[0], answers[0], precision) for precision in PRECISIONS]
    rows = [
        (name, str(len(pictures)), *summarize(x, y, cutoffs))
        for name, pictures, x, y in zip(("trained on", "new"), sets, logits, answers, strict=True)
    ]
    write_results("learned_pictures.csv", COLUMNS, rows)


def pool_pictures(
    encoder: twotower.Encoder, tower: Any, source: Source, view: Any, random: np.random.Generator
) -> Tensor:
    """Return the inputs of the head for the pictures of a source [n, width]."""
    preprocess = encoder.config.preprocess
    square = Preprocess(preprocess).square
    rows = []
    for start in range(0, len(source), 256):
        numbers = range(start, min(start + 256, len(source)))
        pixels = np.stack([np.asarray(square(source[number].picture)) for number in numbers])
        with torch.no_grad():
            rows += [tower.pool(batch) for batch in view_batches(pixels, view, preprocess, random)]
    return torch.cat(rows)


def train_head(
    vision: Any,
    inputs: Tensor,
    targets: Tensor,
    captioned: Tensor,
    caption_embeds: Tensor,
    random: np.random.Generator,
) -> None:
    """Train the head like that of version 2, from ridge regression on, without pictures with names.

    Args:
        inputs: pictures in both views [n, 2, width].
        targets: image_embeds of the model for them [n, 512].
        captioned: pictures with captions, in both views [m, 2, width].
        caption_embeds: text_embeds of their captions [m, k, 512].
    """
    vision.hidden.reset_parameters()
    with torch.no_grad():
        regress(vision, inputs[:, 0], targets)
    parameters = [*vision.hidden.parameters(), *vision.proj.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=WEIGHT_DECAY)
    log_scale = torch.tensor(math.log(TEACHER_SCALE / 2))
    for _ in cosine_steps(STEPS, optimizer):
        batch = random.choice(len(inputs), DISTILLATION_BATCH)
        embeds = embed(vision, inputs[batch, random.choice(2, DISTILLATION_BATCH)])
        target = targets[batch]
        negatives = targets[random.choice(len(targets), NEGATIVES)]
        rows = random.choice(len(captioned), CAPTION_BATCH, replace=False)
        views = random.choice(2, CAPTION_BATCH, p=(0.6, 0.4))
        image_embeds = embed(vision, captioned[rows, views])
        choice = random.integers(0, caption_embeds.shape[1], CAPTION_BATCH)
        loss = (
            4 * (1 - (embeds * target).sum(dim=1)).mean()
            + distillation_loss(embeds, target, negatives)
            + pair_loss(
                caption_embeds[rows, choice], image_embeds, log_scale, [str(row) for row in rows]
            )
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def find_cutoff(logits: Float64Array, answers: BoolArray, precision: float) -> float:
    """Return the lowest log-odds from which that share of the answers is true."""
    order = np.argsort(-logits, kind="stable")
    share = np.cumsum(answers[order]) / np.arange(1, len(order) + 1)
    return float(logits[order[np.flatnonzero(share >= precision)[-1]]])


def summarize(logits: Float64Array, answers: BoolArray, cutoffs: list[float]) -> tuple[str, ...]:
    """Return log-loss, slope and constant of the log-odds, and the precision at each cut-off."""
    loss = np.logaddexp(0, np.where(answers, -logits, logits)).mean()
    slope, constant = fit_logistic(logits[:, None], answers)
    precisions = [answers[logits >= cutoff].mean() for cutoff in cutoffs]
    return (
        *(f"{loss:.4f}", f"{slope:.2f}", f"{constant:.2f}"),
        *(f"{precision:.3f}" for precision in precisions),
    )


if __name__ == "__main__":
    main()
