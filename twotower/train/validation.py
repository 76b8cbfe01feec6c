"""Scores of a model in training, on pairs that it does not learn from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from twotower.arrays import Float32Array, normalize
from twotower.errors import BrokenPairError, PictureError
from twotower.evaluate.accuracy import top_k_accuracy
from twotower.evaluate.retrieval import recall_at_k
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import Tokenizer
from twotower.model.clip import CLIP
from twotower.pairs.pair import Pair
from twotower.pairs.sources import open_source
from twotower.train.config import ValidationConfig
from twotower.train.loss import clip_loss, siglip_loss

MAX_PAIRS = 2000
BATCH = 64


class Validation:
    """The held-out pairs of a run, and the steps after which the model is scored on them."""

    def __init__(
        self,
        config: ValidationConfig,
        steps: int,
        model: CLIP,
        tokenizer: Tokenizer,
        batch_size: int,
    ) -> None:
        """`batch_size` is that of the training, since a contrastive loss depends on it."""
        self.config, self.steps, self.batch_size = config, steps, batch_size
        self.model, self.tokenizer = model, tokenizer

    def scores(self, done: int) -> dict[str, float]:
        """Return the scores after `done` steps, or none if these are not due.

        No weight and no random number of the training changes.
        """
        if done % self.config.every and done != self.steps:
            return {}
        scores: dict[str, float] = {}
        with evaluation_mode(self.model):
            if self.config.retrieval:
                scores |= retrieval(
                    self.model, self.config.retrieval, self.tokenizer, self.batch_size
                )
            if self.config.zero_shot:
                scores |= zero_shot(self.model, self.config.zero_shot, self.tokenizer)
        return scores


@contextlib.contextmanager
def evaluation_mode(model: CLIP) -> Iterator[None]:
    """Set evaluation mode in this block; afterwards each module has the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def retrieval(
    model: CLIP, location: str, tokenizer: Tokenizer, batch_size: int
) -> dict[str, float]:
    """Score the first `MAX_PAIRS` of a source.

    Returns:
        Recall at 1 and 5 in both directions, and the loss (`held_out_loss`).
    """
    pairs = list(_read_pairs(location))
    captions = [caption for pair in pairs for caption in pair.captions]
    owners = np.repeat(np.arange(len(pairs)), [len(pair.captions) for pair in pairs])
    image_embeds = _embed_images(model, pairs)
    text_embeds = _embed_texts(model, captions, tokenizer)
    firsts = text_embeds[np.searchsorted(owners, np.arange(len(pairs)))]
    scores = {"held_out_loss": held_out_loss(model, image_embeds, firsts, batch_size)}
    for k in (1, 5):
        text_to_image, image_to_text = recall_at_k(image_embeds, text_embeds, owners, k)
        scores[f"text_to_image_recall_at_{k}"] = text_to_image
        scores[f"image_to_text_recall_at_{k}"] = image_to_text
    return scores


@torch.no_grad()
def held_out_loss(
    model: CLIP, image_embeds: Float32Array, text_embeds: Float32Array, batch_size: int
) -> float:
    """Return the mean contrastive loss of pairs [n, embed_dim] in batches.

    Fewer pairs than a batch make a smaller one, whose loss is lower; pairs beyond the last whole
    batch are left out.
    """
    size = min(batch_size, len(image_embeds))
    device = model.logit_scale.device
    losses = []
    for start in range(0, len(image_embeds) - size + 1, size):
        images, texts = (
            torch.from_numpy(embeds[start : start + size]).to(device)
            for embeds in (image_embeds, text_embeds)
        )
        logits = model.logit_scale.exp() * images @ texts.T
        if model.logit_bias is None:
            losses.append(float(clip_loss(logits)))
        else:
            losses.append(float(siglip_loss(logits + model.logit_bias)))
    return float(np.mean(losses))


def zero_shot(model: CLIP, location: str, tokenizer: Tokenizer) -> dict[str, float]:
    """Return the accuracy on pairs whose first caption is the name of the picture's class.

    A class is the mean of the model's templates.
    """
    pairs = list(_read_pairs(location))
    classnames = sorted({pair.captions[0] for pair in pairs})
    labels = np.array([classnames.index(pair.captions[0]) for pair in pairs])
    templates = model.config.templates
    prompts = [template.replace("{}", name) for name in classnames for template in templates]
    text_embeds = _embed_texts(model, prompts, tokenizer)
    classifier = normalize(text_embeds.reshape(len(classnames), len(templates), -1).mean(axis=1))
    return {"zero_shot_top1": top_k_accuracy(_embed_images(model, pairs), classifier, labels)}


def _read_pairs(location: str) -> Iterator[Pair]:
    source = open_source(location)
    for number in range(min(MAX_PAIRS, len(source))):
        try:
            yield source[number]
        except BrokenPairError:
            continue


@torch.no_grad()
def _embed_images(model: CLIP, pairs: Sequence[Pair]) -> Float32Array:
    preprocess = Preprocess(model.config.preprocess)
    device = model.logit_scale.device
    rows = []
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        pixel_values = np.stack([_preprocess_or_blank(preprocess, pair) for pair in batch])
        rows.append(model.encode_image(torch.from_numpy(pixel_values).to(device)).float().cpu())
    return torch.cat(rows).numpy()


def _preprocess_or_blank(preprocess: Preprocess, pair: Pair) -> Float32Array:
    try:
        return preprocess(pair.picture)
    except PictureError:  # a blank picture, which counts as a miss
        side = preprocess.config.image_size
        return np.zeros((3, side, side), np.float32)


@torch.no_grad()
def _embed_texts(model: CLIP, texts: Sequence[str], tokenizer: Tokenizer) -> Float32Array:
    device = model.logit_scale.device
    rows = []
    for start in range(0, len(texts), BATCH):
        input_ids = torch.from_numpy(tokenizer(texts[start : start + BATCH]).input_ids)
        rows.append(model.encode_text(input_ids.to(device)).float().cpu())
    return torch.cat(rows).numpy()
