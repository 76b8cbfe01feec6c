"""Scores of a model in training, on pairs it does not learn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from twotower.errors import BrokenPairError, PictureError
from twotower.evaluate.accuracy import top_k_accuracy
from twotower.evaluate.retrieval import recall_at_k
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import Tokenizer
from twotower.model.clip import CLIP
from twotower.pairs.pair import Pair
from twotower.pairs.sources import open_source

MOST = 2000  # pairs that are looked at
BATCH = 64


def retrieval(model: CLIP, location: str, tokenizer: Tokenizer) -> dict[str, float]:
    """Recall at 1 and 5, both ways, among the first `MOST` pairs of a source."""
    pairs = list(_pairs(location))
    captions = [caption for pair in pairs for caption in pair.captions]
    owners = np.repeat(np.arange(len(pairs)), [len(pair.captions) for pair in pairs])
    image_embeds = _embed_images(model, pairs)
    text_embeds = _embed_texts(model, captions, tokenizer)
    scores: dict[str, float] = {}
    for k in (1, 5):
        there, back = recall_at_k(image_embeds, text_embeds, owners, k)
        scores |= {f"text_to_image_recall_at_{k}": there, f"image_to_text_recall_at_{k}": back}
    return scores


def zero_shot(model: CLIP, location: str, tokenizer: Tokenizer) -> dict[str, float]:
    """Accuracy on pairs whose first caption is the name of the picture's class."""
    pairs = list(_pairs(location))
    classnames = sorted({pair.captions[0] for pair in pairs})
    labels = np.array([classnames.index(pair.captions[0]) for pair in pairs])
    template = model.config.templates[0]
    prompts = [template.replace("{}", name) for name in classnames]
    classifier = _embed_texts(model, prompts, tokenizer)
    return {"zero_shot_top1": top_k_accuracy(_embed_images(model, pairs), classifier, labels)}


def _pairs(location: str) -> Iterator[Pair]:
    source = open_source(location)
    for number in range(min(MOST, len(source))):
        try:
            yield source[number]
        except BrokenPairError:
            continue


@torch.no_grad()
def _embed_images(model: CLIP, pairs: Sequence[Pair]) -> NDArray[np.float32]:
    preprocess = Preprocess(model.config.preprocess)
    device = model.logit_scale.device
    rows = []
    for start in range(0, len(pairs), BATCH):
        pixel_values = np.stack([_pixels(preprocess, one) for one in pairs[start : start + BATCH]])
        rows.append(model.encode_image(torch.from_numpy(pixel_values).to(device)).float().cpu())
    return torch.cat(rows).numpy()


def _pixels(preprocess: Preprocess, pair: Pair) -> NDArray[np.float32]:
    try:
        return preprocess(pair.picture)
    except PictureError:  # counts as a picture that is never found
        side = preprocess.config.image_size
        return np.zeros((3, side, side), np.float32)


@torch.no_grad()
def _embed_texts(model: CLIP, texts: Sequence[str], tokenizer: Tokenizer) -> NDArray[np.float32]:
    device = model.logit_scale.device
    rows = []
    for start in range(0, len(texts), BATCH):
        input_ids = torch.from_numpy(tokenizer(texts[start : start + BATCH]).input_ids)
        rows.append(model.encode_text(input_ids.to(device)).float().cpu())
    return torch.cat(rows).numpy()
