"""The image tower of the bundled model: what EfficientNet-Lite1 learns beyond ImageNet's classes.

Five lessons, in three rounds. What the teacher sees in a picture, and what it would choose among
words and among pictures; the captions of photographs; the names of pictures, where a poodle may be
called a dog as well; and, of the backbone's own knowledge, the thousand classes of ImageNet, with
which the hidden layer begins.

1. What comes after the backbone learns alone, from what it pools: many pictures a step.
2. The later blocks learn too (`later.py`), from maps that are kept: few pictures a step.
3. As 1, from what they pool now that their weights are rounded to int8 (`rounding.py`).
"""

from __future__ import annotations

import copy
import itertools
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
from numpy.typing import NDArray
from torch import Tensor, nn

from recipes.twotower_small.backbone import Early, Later
from recipes.twotower_small.gptq import rounded
from recipes.twotower_small.hypernyms import Kinds, look_up_kinds, rare_more_often
from recipes.twotower_small.losses import (
    Pictures,
    Pixels,
    Plan,
    Say,
    Words,
    answer_loss,
    choice_loss,
    encode_texts,
    in_template,
    read_pairs,
    steps,
)
from recipes.twotower_small.wordnet import WordNet
from twotower.inputs.preprocess import Preprocess, PreprocessConfig
from twotower.inputs.tokenizer import Tokenizer
from twotower.model.clip import CLIP
from twotower.train.batches import normalize_pixels

View = Callable[[Pixels, np.random.Generator], Pixels]
BICUBIC = PIL.Image.Resampling.BICUBIC
EARLY_BLOCKS = 7  # of 21; their map of a picture has 28 x 28 x 40 numbers
DROPOUT, WEIGHT_DECAY = 0.2, 0.1  # of what comes after the backbone
STEADY = 0.02  # added to deviations: a feature that hardly moves is not blown up
VIEWS = (0.5, 0.25, 0.25)  # how often a picture is seen whole, in part, and as a thumbnail
CAPTION_SCALE = 50.0  # of the logits between captions and pictures
ROUNDED_ON = 600  # pictures
RIDGE = 0.3  # of the regression that the lessons begin with
# The hidden layer begins as detectors of ImageNet's classes: GELU lets logits from 3 on pass, and
# a class that is surely seen moves the embedding towards its name.
SLOPE, OFFSET, TOWARDS = 0.5, -1.5, 0.04


@dataclass(frozen=True)
class Classes:
    """A classifier of what the backbone pools at its end."""

    weight: Tensor  # [1000, 1280]
    bias: Tensor  # [1000]
    names: list[str]


@dataclass(frozen=True)
class Lessons:
    """All that is known of the pictures, and the loss of each lesson."""

    words: Words
    pictures: Pictures
    caption_embeds: Tensor  # [described, 5, 512]
    kinds: Kinds
    name_embeds: Tensor  # [n, 512], of what pictures are called
    labels: Tensor  # [m], rows of these, of the pictures that have names
    draw: np.random.Generator

    def teacher(self, embeds: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """How far from the teacher's features, and from its choice among words and pictures."""
        target, features = self.pictures.features[rows], self.pictures.features
        words = self.words.vectors[self.draw.choice(len(self.words.vectors), 2048)]
        others = features[self.draw.choice(len(features), 1024)]
        distance = (1 - (embeds * target).sum(dim=1)).mean()
        choices = choice_loss(embeds, target, words) + choice_loss(embeds, target, others)
        return 4 * distance + choices

    def captions(self, embeds: Tensor, told: NDArray[np.int64]) -> Tensor:
        """Symmetric InfoNCE of pictures and their captions among those of 1 024 others."""
        described = np.flatnonzero(self.pictures.described)
        others = np.setdiff1d(self.draw.choice(len(described), 1024), told)
        ours, theirs = (
            self.caption_embeds[rows, self.draw.integers(0, 5, len(rows))]
            for rows in (told, others)
        )
        pictures = torch.cat([embeds, self.pictures.features[described[others]]])
        own = torch.arange(len(told))
        to_texts = CAPTION_SCALE * embeds @ torch.cat([ours, theirs]).T
        to_pictures = CAPTION_SCALE * ours @ pictures.T
        return (F.cross_entropy(to_texts, own) + F.cross_entropy(to_pictures, own)) / 2

    def called(self, embeds: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Cross-entropy of a name that fits; others that fit or mean the same are no mistakes."""
        labels, texts = self.labels[rows], self.name_embeds
        right = torch.tensor([self.kinds.also(int(label), self.draw) for label in labels])
        same = self.kinds.same(labels, right, texts, torch.arange(len(texts)))
        return answer_loss(embeds, texts, right, same, log_prior=self.log_prior)

    @cached_property
    def log_prior(self) -> Tensor:
        """Logarithm of how often each name is said, [n]."""
        return self.kinds.log_prior(self.labels)


def train_vision(
    model: CLIP,
    tokenizer: Tokenizer,
    words: Words,
    pictures: Pictures,
    data: Path,
    wordnet: WordNet,
    classes: Classes,
    scratch: Path,
    plan: Plan,
    say: Say,
) -> None:
    """All rounds.

    Args:
        data: has the folders `pictures` and `named`.
        scratch: a folder for maps, 63 KB for each view of a picture.
    """
    vision: Any = model.vision.eval()
    preprocess, draw = model.config.preprocess, np.random.default_rng(plan.seed)
    tower = folded(vision)
    early, later = Early(tower, EARLY_BLOCKS), Later(tower, EARLY_BLOCKS)
    views = tuple(
        kept(
            scratch / view.__name__,
            early,
            seen(read_squares(data / "pictures", preprocess), view, preprocess, draw),
        )
        for view in (whole, part, small)
    )
    named = read_squares(data / "named", preprocess)
    shown = kept(scratch / "named", early, seen(named, whole_or_small, preprocess, draw))
    say(f"maps of {len(views[0])} pictures in three views, and of {len(shown)} with names")

    said = [
        pair.captions for tar in sorted((data / "named").glob("*.tar")) for pair in read_pairs(tar)
    ]
    kinds, labels = look_up_kinds(words, wordnet, said)
    caption_embeds = encode_captions(model, tokenizer, pictures)
    name_embeds = encode_names(model, tokenizer, kinds.names)
    lessons = Lessons(words, pictures, caption_embeds, kinds, name_embeds, labels, draw)
    class_embeds = encode_names(model, tokenizer, classes.names)
    logits = start_vision(vision, later, views, pictures.features, classes, class_embeds)

    def train_what_follows(later: Later) -> None:
        pooled = torch.stack([vision.norm(pool(later, maps)) for maps in views], dim=1)
        named_pooled = vision.norm(pool(later, shown))
        train_projection(vision, pooled, named_pooled, lessons, plan, say)

    train_what_follows(later)
    train_backbone(vision, later, views, shown, lessons, logits, plan, say)
    some = draw.choice(len(views[0]), min(ROUNDED_ON, len(views[0])), replace=False)
    on_grid = rounded(later, views[0][torch.from_numpy(some)])
    on_grid.write_to(vision)
    train_what_follows(on_grid)


# --- what is seen --------------------------------------------------------------------------------


def seen(
    pixels: Iterable[Pixels], view: View, preprocess: PreprocessConfig, draw: np.random.Generator
) -> Iterator[Tensor]:
    """pixel_values [b, 3, image_size, image_size] of a view of every picture, batch by batch."""
    waiting = iter(pixels)
    while batch := [view(one, draw) for one in itertools.islice(waiting, 32)]:
        yield normalize_pixels(torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2), preprocess)


def kept(path: Path, early: Early, batches: Iterable[Tensor]) -> Tensor:
    """Their maps [n, S, S, channels], bfloat16, in a file: they may be larger than memory."""
    shape, count = (0, 0, 0), 0
    with path.open("wb") as file:
        for pixel_values in batches:
            maps = early(pixel_values)
            file.write(maps.view(torch.int16).numpy().tobytes())
            shape, count = tuple(maps.shape[1:]), count + len(maps)
    flat = torch.from_file(str(path), size=count * math.prod(shape), dtype=torch.bfloat16)
    return flat.view(count, *shape)


@torch.no_grad()
def pool(later: Later, maps: Tensor) -> Tensor:
    """[n, S, S, channels] -> [n, width]"""
    return torch.cat([later(batch) for batch in maps.split(64)])


def read_squares(folder: Path, preprocess: PreprocessConfig) -> Iterator[Pixels]:
    """The pictures of a folder of tars in the same order, [image_size, image_size, 3]."""
    square = Preprocess(preprocess).square
    for tar in sorted(folder.glob("*.tar")):
        for pair in read_pairs(tar):
            yield np.asarray(square(pair.picture))


def whole(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    """The picture as it is."""
    return pixels


def part(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    """A part of a picture, as large again; perhaps mirrored, darker, paler or grey."""
    side = pixels.shape[0]
    crop = round(side * math.sqrt(draw.uniform(0.45, 1.0)))
    left, top = (int(one) for one in draw.integers(0, side - crop + 1, 2))
    box = (left, top, left + crop, top + crop)
    array = np.asarray(PIL.Image.fromarray(pixels).resize((side, side), BICUBIC, box), np.float32)
    if draw.random() < 0.5:
        array = array[:, ::-1]
    if draw.random() < 0.05:
        array = np.broadcast_to(array.mean(axis=2, keepdims=True), array.shape)
    if draw.random() < 0.5:
        mean = array.mean()
        array = (array - mean) * draw.uniform(0.7, 1.3) + mean * draw.uniform(0.7, 1.3)
    return np.clip(array, 0, 255).astype(np.uint8)


def small(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    """A thumbnail of 28 to 96 pixels, blown up again; perhaps mirrored."""
    side = 32 if draw.random() < 0.5 else int(draw.integers(28, 97))
    thumbnail = PIL.Image.fromarray(pixels).resize((side, side), BICUBIC)
    array = np.asarray(thumbnail.resize(pixels.shape[:2], BICUBIC))
    return array[:, ::-1] if draw.random() < 0.5 else array


def whole_or_small(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    """Each as often."""
    return (small if draw.random() < 0.5 else whole)(pixels, draw)


def folded(vision: Any) -> Any:
    """A copy of the tower whose batch norms are part of its convolutions: a third faster."""
    vision = copy.deepcopy(vision)
    for part in _convolutions(vision):
        conv, norm = part.conv, part.bn
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        part.conv = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            groups=conv.groups,
        )
        with torch.no_grad():
            part.conv.weight.copy_(conv.weight * scale[:, None, None, None])
            part.conv.bias.copy_(norm.bias - norm.running_mean * scale)
        part.bn = nn.Identity()
    return vision.to(memory_format=torch.channels_last)


def _convolutions(vision: Any) -> list[Any]:
    return [one for one in vision.modules() if hasattr(one, "conv") and hasattr(one, "bn")]


# --- what is said of it ---------------------------------------------------------------------------


def encode_names(model: CLIP, tokenizer: Tokenizer, names: Sequence[str]) -> Tensor:
    """text_embeds [n, 512] of names, bare and in a sentence together."""
    sentences = [in_template("a photo of a {}.", name) for name in names]
    both = encode_texts(model, tokenizer, names) + encode_texts(model, tokenizer, sentences)
    return F.normalize(both, dim=-1)


def encode_captions(model: CLIP, tokenizer: Tokenizer, pictures: Pictures) -> Tensor:
    """text_embeds [described, 5, 512]"""
    rows = np.flatnonzero(pictures.described)
    captions = [caption for row in rows for caption in pictures.captions[row]]
    return encode_texts(model, tokenizer, captions).unflatten(0, (len(rows), -1))


# --- the rounds -----------------------------------------------------------------------------------


@torch.no_grad()
def start_vision(
    vision: Any,
    later: Later,
    views: Sequence[Tensor],
    features: Tensor,
    classes: Classes,
    class_embeds: Tensor,
) -> Tensor:
    """Detectors of classes, and ridge regression from them and what is pooled to `features`.

    Returns:
        The logits of the classes in every picture, [n, 1000].
    """
    norm, hidden, proj = vision.norm, vision.hidden, vision.proj
    count, last = classes.weight.shape
    pooled = pool(later, views[0])
    norm.running_mean.copy_(pooled.mean(dim=0))
    norm.running_var.copy_((pooled.std(dim=0) + STEADY).square())
    logits = F.linear(pooled[:, :last], classes.weight, classes.bias)
    hidden.weight[:count] = 0
    hidden.weight[:count, :last] = (
        SLOPE * classes.weight * (norm.running_var + norm.eps).sqrt()[:last]
    )
    hidden.bias[:count] = SLOPE * logits.mean(dim=0) + OFFSET

    given = vision.widen(norm(torch.cat([pooled, pool(later, views[2])])))
    width = pooled.shape[1]
    proj.weight.zero_()
    towards = F.normalize(class_embeds - class_embeds.mean(dim=0), dim=-1)
    proj.weight[:, width : width + count] = TOWARDS * towards.T
    rest = torch.cat([features, features]) - features.mean(dim=0) - given @ proj.weight.T
    gram = given.T @ given
    penalty = gram.diagonal().clone()
    penalty[:width], penalty[width:] = penalty[:width].mean(), penalty[width:].mean()
    proj.weight += torch.linalg.solve(gram + RIDGE * penalty.diag(), given.T @ rest).T
    proj.bias.copy_(features.mean(dim=0))
    return logits


def train_backbone(
    vision: Any,
    later: Later,
    views: Sequence[Tensor],
    shown: Tensor,
    lessons: Lessons,
    logits: Tensor,
    plan: Plan,
    say: Say,
) -> None:
    """The second round; `logits` are what the backbone thought of the pictures before it."""
    draw, pictures = lessons.draw, lessons.pictures
    sentences, chances = np.flatnonzero(pictures.described), rare_more_often(lessons.labels)
    head = [*vision.hidden.parameters(), *vision.proj.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [*later.parameters()], "lr": 3e-4, "weight_decay": 0.02},
            {"params": head, "lr": 7e-4, "weight_decay": WEIGHT_DECAY},
        ],
        betas=(0.9, 0.99),
    )
    seen_by_teacher, told, named = plan.backbone_pictures
    told = min(told, len(sentences))
    for step in steps(plan.backbone_steps, optimizer):
        rows = draw.choice(len(pictures.features), seen_by_teacher)
        ways = draw.choice(3, seen_by_teacher, p=VIEWS)
        captioned = draw.choice(len(sentences), told, replace=False)
        called = draw.choice(len(shown), named, p=chances)
        all_rows = np.concatenate([rows, sentences[captioned]])
        all_ways = np.concatenate([ways, draw.choice(2, told, p=(0.6, 0.4))])
        maps = [views[way][row] for way, row in zip(all_ways, all_rows, strict=True)]
        pooled = vision.norm(later(torch.cat([torch.stack(maps), shown[called]])))
        embeds = embed(vision, pooled)
        looked_at, names = embeds.split([len(all_rows), named])
        sharp = torch.from_numpy(pictures.sharp[all_rows])
        classes = (
            vision.hidden(pooled[: len(all_rows)][sharp])[:, : logits.shape[1]] - OFFSET
        ) / SLOPE
        loss = (
            lessons.teacher(looked_at, all_rows)
            + lessons.captions(looked_at[seen_by_teacher:], captioned)
            + 0.7 * lessons.called(names, called)
            + 0.5 * class_loss(classes, logits[all_rows][sharp])
        )
        loss.backward()
        nn.utils.clip_grad_norm_([*later.parameters(), *head], 5.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            say(f"backbone step {step}: loss {loss:.3f}")


def train_projection(
    vision: Any, pooled: Tensor, named: Tensor, lessons: Lessons, plan: Plan, say: Say
) -> None:
    """The first and third round, on `pooled` [n, 3, width] and `named` [m, width], both as
    `vision.norm` gives them."""
    draw, pictures = lessons.draw, lessons.pictures
    sentences, chances = np.flatnonzero(pictures.described), rare_more_often(lessons.labels)
    learned = [*vision.hidden.parameters(), *vision.proj.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=1e-3, weight_decay=WEIGHT_DECAY)
    size = min(plan.pictures, len(sentences))
    for step in steps(plan.image_steps, optimizer):
        rows = draw.choice(len(pooled), size)
        told = draw.choice(len(sentences), size, replace=False)
        called = draw.choice(len(named), size, p=chances)
        ways = draw.choice(2, size, p=(0.6, 0.4))
        loss = (
            lessons.teacher(embed(vision, pooled[rows, draw.choice(3, size, p=VIEWS)]), rows)
            + lessons.captions(embed(vision, pooled[sentences[told], ways]), told)
            + 0.5 * lessons.called(embed(vision, named[called]), called)
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            say(f"picture step {step}: loss {loss:.3f}")


def embed(vision: Any, pooled: Tensor) -> Tensor:
    """[n, width] -> image_embeds [n, 512], with dropout."""
    given = F.dropout(pooled, DROPOUT)
    hidden = vision.widen(given)[:, given.shape[1] :]
    return F.normalize(vision.proj(torch.cat([given, F.dropout(hidden, DROPOUT)], dim=1)), dim=-1)


def class_loss(ours: Tensor, before: Tensor) -> Tensor:
    """KL divergence between what is thought of ImageNet's classes, in logits [n, 1000]."""
    return F.kl_div(
        ours.log_softmax(dim=1), before.log_softmax(dim=1), reduction="batchmean", log_target=True
    )
