"""The image tower of the bundled model: training EfficientNet-Lite1 beyond ImageNet's classes.

There are five objectives: the teacher's features of a picture, its softmax over words and over
pictures; the captions of photographs; the names of pictures, where a hypernym may label a picture
as well; and ImageNet's thousand classes, which the backbone already knows and with which the hidden
layer is initialised. They are trained in three rounds:

1. The layers after the backbone alone, on its pooled features: many pictures in a step.
2. The later blocks too (`backbone.py`), from stored maps: few pictures in a step.
3. As 1, on the pooled features after the weights were rounded to int8 (`gptq.py`).
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.twotower_small.backbone import EarlyBlocks, LaterBlocks
from recipes.twotower_small.gptq import quantize_blocks
from recipes.twotower_small.hypernyms import Hypernyms, find_hypernyms, sampling_probabilities
from recipes.twotower_small.losses import (
    Pictures,
    RecipeConfig,
    Words,
    cosine_steps,
    distillation_loss,
    encode_texts,
    fill_template,
    label_loss,
    read_pairs,
)
from recipes.twotower_small.wordnet import WordNet
from twotower.arrays import Float32Array, Int64Array, UInt8Array
from twotower.inputs.preprocess import Preprocess, PreprocessConfig
from twotower.inputs.tokenizer import Tokenizer
from twotower.model.clip import CLIP
from twotower.train.batches import normalize_pixels

View = Callable[[UInt8Array, np.random.Generator], UInt8Array]
BICUBIC = PIL.Image.Resampling.BICUBIC
EARLY_BLOCKS = 7  # of 21; their map of a picture is 28 x 28 x 40
DROPOUT, WEIGHT_DECAY = 0.2, 0.1  # of the layers after the backbone
DEVIATION_FLOOR = 0.02  # added to standard deviations, so that nearly constant features stay small
VIEW_PROBABILITIES = (0.5, 0.25, 0.25)  # whole picture, crop, thumbnail
CAPTION_VIEW_PROBABILITIES = (0.6, 0.4)  # whole picture, crop
CAPTION_SCALE = 50.0  # of the logits between captions and pictures
QUANTIZATION_PICTURES = 600
RIDGE = 0.3  # of the regression that initialises the projection
# The hidden layer starts as detectors of ImageNet's classes: GELU passes logits from about 3 on,
# and a class that is surely recognised moves the embedding towards its name.
CLASS_SLOPE, CLASS_OFFSET, CLASS_WEIGHT = 0.5, -1.5, 0.04

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classes:
    """A classifier of the backbone's final pooled features."""

    weight: Tensor  # [1000, 1280]
    bias: Tensor  # [1000]
    names: list[str]


@dataclass(frozen=True)
class Objectives:
    """The training data of the pictures, and the loss of each objective."""

    words: Words
    pictures: Pictures
    caption_embeds: Tensor  # [described, 5, 512]
    hypernyms: Hypernyms
    name_embeds: Tensor  # [n, 512], of `hypernyms.names`
    labels: Tensor  # [m], rows of `name_embeds`, of the pictures with names
    random: np.random.Generator

    def teacher_loss(self, embeds: Tensor, rows: Int64Array) -> Tensor:
        """Distance from the teacher's features, and from its softmax over words and pictures."""
        target, features = self.pictures.features[rows], self.pictures.features
        words = self.words.vectors[self.random.choice(len(self.words.vectors), 2048)]
        pictures = features[self.random.choice(len(features), 1024)]
        distance = (1 - (embeds * target).sum(dim=1)).mean()
        over_words = distillation_loss(embeds, target, words)
        over_pictures = distillation_loss(embeds, target, pictures)
        return 4 * distance + (over_words + over_pictures)

    def caption_loss(self, embeds: Tensor, rows: Int64Array) -> Tensor:
        """Symmetric InfoNCE of pictures and their captions, with 1,024 further negatives."""
        described = np.flatnonzero(self.pictures.described)
        negatives = np.setdiff1d(self.random.choice(len(described), 1024), rows)
        positive_texts, negative_texts = (
            self.caption_embeds[chosen, self.random.integers(0, 5, len(chosen))]
            for chosen in (rows, negatives)
        )
        pictures = torch.cat([embeds, self.pictures.features[described[negatives]]])
        diagonal = torch.arange(len(rows))
        to_texts = CAPTION_SCALE * embeds @ torch.cat([positive_texts, negative_texts]).T
        to_pictures = CAPTION_SCALE * positive_texts @ pictures.T
        return (F.cross_entropy(to_texts, diagonal) + F.cross_entropy(to_pictures, diagonal)) / 2

    def name_loss(self, embeds: Tensor, rows: Int64Array) -> Tensor:
        """Cross-entropy of the name or a hypernym; other fitting names are no negatives."""
        labels, texts = self.labels[rows], self.name_embeds
        sampled = torch.tensor([self.hypernyms.sample(int(label), self.random) for label in labels])
        columns = torch.arange(len(texts))
        acceptable = self.hypernyms.acceptable(labels, sampled, texts, columns)
        return label_loss(embeds, texts, sampled, acceptable, log_prior=self.log_prior)

    @cached_property
    def log_prior(self) -> Tensor:
        """Log frequency [n] of each name."""
        return self.hypernyms.log_prior(self.labels)


def train_vision(
    model: CLIP,
    tokenizer: Tokenizer,
    words: Words,
    pictures: Pictures,
    data: Path,
    wordnet: WordNet,
    classes: Classes,
    scratch: Path,
    config: RecipeConfig,
) -> None:
    """Train the image tower in all rounds.

    Args:
        data: has the folders `pictures` and `named`.
        scratch: a folder for maps, 63 KB for each view of a picture.
    """
    vision: Any = model.vision.eval()
    preprocess, random = model.config.preprocess, np.random.default_rng(config.seed)
    tower = fold_batch_norms(vision)
    early, later = EarlyBlocks(tower, EARLY_BLOCKS), LaterBlocks(tower, EARLY_BLOCKS)

    def map_views(name: str, view: View) -> Tensor:
        pixels = read_square_pictures(data / name, preprocess)
        batches = view_batches(pixels, view, preprocess, random)
        return store_maps(scratch / f"{name}-{view.__name__}", early, batches)

    views = [map_views("pictures", view) for view in (view_whole, view_crop, view_thumbnail)]
    named_maps = map_views("named", view_whole_or_thumbnail)
    logger.info(
        "maps of %d pictures in three views, and of %d with names", len(views[0]), len(named_maps)
    )
    captions = [
        pair.captions for tar in sorted((data / "named").glob("*.tar")) for pair in read_pairs(tar)
    ]
    hypernyms, labels = find_hypernyms(words, wordnet, captions)
    caption_embeds = encode_captions(model, tokenizer, pictures)
    name_embeds = encode_names(model, tokenizer, hypernyms.names)
    objectives = Objectives(words, pictures, caption_embeds, hypernyms, name_embeds, labels, random)
    class_embeds = encode_names(model, tokenizer, classes.names)
    logits = initialize_vision(vision, later, views, pictures.features, classes, class_embeds)

    def train_projection_on(blocks: LaterBlocks) -> None:
        pooled = torch.stack([vision.norm(pool(blocks, maps)) for maps in views], dim=1)
        train_projection(vision, pooled, vision.norm(pool(blocks, named_maps)), objectives, config)

    train_projection_on(later)
    train_backbone(vision, later, views, named_maps, objectives, logits, config)
    count = min(QUANTIZATION_PICTURES, len(views[0]))
    sample = random.choice(len(views[0]), count, replace=False)
    quantized = quantize_blocks(later, views[0][torch.from_numpy(sample)])
    quantized.write_to(vision)
    train_projection_on(quantized)


# --- pictures -------------------------------------------------------------------------------------


def view_batches(
    pictures: Iterable[UInt8Array],
    view: View,
    preprocess: PreprocessConfig,
    random: np.random.Generator,
) -> Iterator[Tensor]:
    """Yield pixel_values [b, 3, image_size, image_size] of a view of every picture, in batches."""
    remaining = iter(pictures)
    while batch := [view(pixels, random) for pixels in itertools.islice(remaining, 32)]:
        yield normalize_pixels(torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2), preprocess)


def store_maps(path: Path, early: EarlyBlocks, batches: Iterable[Tensor]) -> Tensor:
    """Return the maps [n, S, S, channels] as bfloat16, memory-mapped from a file."""
    shape, count = (0, 0, 0), 0
    with path.open("wb") as file:
        for pixel_values in batches:
            maps = early(pixel_values)
            file.write(maps.view(torch.int16).numpy().tobytes())
            shape, count = tuple(maps.shape[1:]), count + len(maps)
    flat = torch.from_file(str(path), size=count * math.prod(shape), dtype=torch.bfloat16)
    return flat.view(count, *shape)


@torch.no_grad()
def pool(later: LaterBlocks, maps: Tensor) -> Tensor:
    """Return the pooled features [n, width] of maps [n, S, S, channels]."""
    return torch.cat([later(batch) for batch in maps.split(64)])


def read_square_pictures(folder: Path, preprocess: PreprocessConfig) -> Iterator[UInt8Array]:
    """Yield the pictures of a folder of tars, in order, as [image_size, image_size, 3]."""
    square = Preprocess(preprocess).square
    for tar in sorted(folder.glob("*.tar")):
        for pair in read_pairs(tar):
            yield np.asarray(square(pair.picture))


def view_whole(pixels: UInt8Array, random: np.random.Generator) -> UInt8Array:
    """Return the picture unchanged."""
    return pixels


def view_crop(pixels: UInt8Array, random: np.random.Generator) -> UInt8Array:
    """Return a crop at full size, with random mirroring, brightness, contrast and greyscale."""
    side = pixels.shape[0]
    crop = round(side * math.sqrt(random.uniform(0.45, 1.0)))
    x, y = (int(offset) for offset in random.integers(0, side - crop + 1, 2))
    box = (x, y, x + crop, y + crop)
    array: Float32Array = np.asarray(
        PIL.Image.fromarray(pixels).resize((side, side), BICUBIC, box), np.float32
    )
    if random.random() < 0.5:
        array = array[:, ::-1]
    if random.random() < 0.05:
        array = np.broadcast_to(array.mean(axis=2, keepdims=True), array.shape)
    if random.random() < 0.5:
        mean = array.mean()
        array = (array - mean) * random.uniform(0.7, 1.3) + mean * random.uniform(0.7, 1.3)
    return np.clip(array, 0, 255).astype(np.uint8)


def view_thumbnail(pixels: UInt8Array, random: np.random.Generator) -> UInt8Array:
    """Return the picture reduced to 28 to 96 pixels and enlarged again, randomly mirrored."""
    side = 32 if random.random() < 0.5 else int(random.integers(28, 97))
    array = shrink(pixels, side)
    return array[:, ::-1] if random.random() < 0.5 else array


def shrink(pixels: UInt8Array, side: int) -> UInt8Array:
    """Reduce a square picture [S, S, 3] to `side` pixels and enlarge it again."""
    thumbnail = PIL.Image.fromarray(pixels).resize((side, side), BICUBIC)
    return np.asarray(thumbnail.resize(pixels.shape[:2], BICUBIC))


def view_whole_or_thumbnail(pixels: UInt8Array, random: np.random.Generator) -> UInt8Array:
    """Return either view with equal probability."""
    return (view_thumbnail if random.random() < 0.5 else view_whole)(pixels, random)


def fold_batch_norms(vision: Any) -> Any:
    """Return a copy of the tower with batch norms folded into its convolutions: a third faster."""
    vision = copy.deepcopy(vision)
    for block in _convolutions(vision):
        conv, norm = block.conv, block.bn
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        block.conv = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            groups=conv.groups,
        )
        with torch.no_grad():
            block.conv.weight.copy_(conv.weight * scale[:, None, None, None])
            block.conv.bias.copy_(norm.bias - norm.running_mean * scale)
        block.bn = nn.Identity()
    return vision.to(memory_format=torch.channels_last)


def _convolutions(vision: Any) -> list[Any]:
    return [m for m in vision.modules() if hasattr(m, "conv") and hasattr(m, "bn")]


# --- texts ----------------------------------------------------------------------------------------


def encode_names(model: CLIP, tokenizer: Tokenizer, names: Sequence[str]) -> Tensor:
    """Return text_embeds [n, 512] of names: the mean of the bare name and a sentence."""
    sentences = [fill_template("a photo of a {}.", name) for name in names]
    total = encode_texts(model, tokenizer, names) + encode_texts(model, tokenizer, sentences)
    return F.normalize(total, dim=-1)


def encode_captions(model: CLIP, tokenizer: Tokenizer, pictures: Pictures) -> Tensor:
    """Return text_embeds [described, 5, 512]."""
    rows = np.flatnonzero(pictures.described)
    captions = [caption for row in rows for caption in pictures.captions[row]]
    return encode_texts(model, tokenizer, captions).unflatten(0, (len(rows), -1))


# --- rounds ---------------------------------------------------------------------------------------


@torch.no_grad()
def initialize_vision(
    vision: Any,
    later: LaterBlocks,
    views: Sequence[Tensor],
    features: Tensor,
    classes: Classes,
    class_embeds: Tensor,
) -> Tensor:
    """Initialise class detectors, and the projection by ridge regression to `features`.

    Returns:
        The logits of the classes for every picture, [n, 1000].
    """
    norm, hidden, proj = vision.norm, vision.hidden, vision.proj
    count, head_width = classes.weight.shape
    pooled = pool(later, views[0])
    norm.running_mean.copy_(pooled.mean(dim=0))
    norm.running_var.copy_((pooled.std(dim=0) + DEVIATION_FLOOR).square())
    logits = F.linear(pooled[:, :head_width], classes.weight, classes.bias)
    hidden.weight[:count] = 0
    hidden.weight[:count, :head_width] = (
        CLASS_SLOPE * classes.weight * (norm.running_var + norm.eps).sqrt()[:head_width]
    )
    hidden.bias[:count] = CLASS_SLOPE * logits.mean(dim=0) + CLASS_OFFSET

    inputs = vision.widen(norm(torch.cat([pooled, pool(later, views[2])])))
    width = pooled.shape[1]
    proj.weight.zero_()
    directions = F.normalize(class_embeds - class_embeds.mean(dim=0), dim=-1)
    proj.weight[:, width : width + count] = CLASS_WEIGHT * directions.T
    residual = torch.cat([features, features]) - features.mean(dim=0) - inputs @ proj.weight.T
    gram = inputs.T @ inputs
    penalty = gram.diagonal().clone()
    penalty[:width], penalty[width:] = penalty[:width].mean(), penalty[width:].mean()
    proj.weight += torch.linalg.solve(gram + RIDGE * penalty.diag(), inputs.T @ residual).T
    proj.bias.copy_(features.mean(dim=0))
    return logits


def train_backbone(
    vision: Any,
    later: LaterBlocks,
    views: Sequence[Tensor],
    named_maps: Tensor,
    objectives: Objectives,
    logits: Tensor,
    config: RecipeConfig,
) -> None:
    """Train the later blocks; `logits` [n, 1000] are those of the backbone before this round."""
    random, pictures = objectives.random, objectives.pictures
    described = np.flatnonzero(pictures.described)
    probabilities = sampling_probabilities(objectives.labels)
    head = [*vision.hidden.parameters(), *vision.proj.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [*later.parameters()], "lr": 3e-4, "weight_decay": 0.02},
            {"params": head, "lr": 7e-4, "weight_decay": WEIGHT_DECAY},
        ],
        betas=(0.9, 0.99),
    )
    teacher_count, caption_count, name_count = config.backbone_pictures
    caption_count = min(caption_count, len(described))
    for step in cosine_steps(config.backbone_steps, optimizer):
        rows = random.choice(len(pictures.features), teacher_count)
        row_views = random.choice(3, teacher_count, p=VIEW_PROBABILITIES)
        captioned = random.choice(len(described), caption_count, replace=False)
        named = random.choice(len(named_maps), name_count, p=probabilities)
        all_rows = np.concatenate([rows, described[captioned]])
        caption_views = random.choice(2, caption_count, p=CAPTION_VIEW_PROBABILITIES)
        all_views = np.concatenate([row_views, caption_views])
        maps = [views[view][row] for view, row in zip(all_views, all_rows, strict=True)]
        pooled = vision.norm(later(torch.cat([torch.stack(maps), named_maps[named]])))
        embeds, name_embeds = embed(vision, pooled).split([len(all_rows), name_count])
        sharp = torch.from_numpy(pictures.sharp[all_rows])
        detectors = vision.hidden(pooled[: len(all_rows)][sharp])[:, : logits.shape[1]]
        class_logits = (detectors - CLASS_OFFSET) / CLASS_SLOPE
        loss = (
            objectives.teacher_loss(embeds, all_rows)
            + objectives.caption_loss(embeds[teacher_count:], captioned)
            + 0.7 * objectives.name_loss(name_embeds, named)
            + 0.5 * class_loss(class_logits, logits[all_rows][sharp])
        )
        loss.backward()
        nn.utils.clip_grad_norm_([*later.parameters(), *head], 5.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            logger.info("backbone step %d: loss %.3f", step, loss)


def train_projection(
    vision: Any, pooled: Tensor, named: Tensor, objectives: Objectives, config: RecipeConfig
) -> None:
    """Train the layers after the backbone.

    Args:
        pooled: [n, 3, width], of the three views, normalised by `vision.norm`.
        named: [m, width], of the pictures with names, normalised as well.
    """
    random, pictures = objectives.random, objectives.pictures
    described = np.flatnonzero(pictures.described)
    probabilities = sampling_probabilities(objectives.labels)
    trained = [*vision.hidden.parameters(), *vision.proj.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=WEIGHT_DECAY)
    size = min(config.pictures, len(described))
    for step in cosine_steps(config.image_steps, optimizer):
        rows = random.choice(len(pooled), size)
        captioned = random.choice(len(described), size, replace=False)
        labelled = random.choice(len(named), size, p=probabilities)
        views = random.choice(2, size, p=CAPTION_VIEW_PROBABILITIES)
        row_views = random.choice(3, size, p=VIEW_PROBABILITIES)
        loss = (
            objectives.teacher_loss(embed(vision, pooled[rows, row_views]), rows)
            + objectives.caption_loss(embed(vision, pooled[described[captioned], views]), captioned)
            + 0.5 * objectives.name_loss(embed(vision, named[labelled]), labelled)
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            logger.info("projection step %d: loss %.3f", step, loss)


def embed(vision: Any, pooled: Tensor) -> Tensor:
    """Return image_embeds [n, 512] of pooled features [n, width], with dropout."""
    inputs = F.dropout(pooled, DROPOUT)
    hidden = vision.widen(inputs)[:, inputs.shape[1] :]
    features = vision.proj(torch.cat([inputs, F.dropout(hidden, DROPOUT)], dim=1))
    return F.normalize(features, dim=-1)


def class_loss(logits: Tensor, before: Tensor) -> Tensor:
    """KL divergence of the softmax of logits [n, 1000] from that `before` the training."""
    return F.kl_div(
        logits.log_softmax(dim=1), before.log_softmax(dim=1), reduction="batchmean", log_target=True
    )
