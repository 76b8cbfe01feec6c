"""What the students of the bundled model learn from, and how their answers are judged."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from twotower.inputs.tokenizer import Tokenizer
from twotower.model.clip import CLIP
from twotower.pairs.pair import Pair
from twotower.pairs.sources import open_source

Say = Callable[[str], None]
Pixels = NDArray[np.uint8]
SENTENCES = 5  # that describe a photograph of Flickr8k; other pictures have names

# Where the CPU has no bfloat16, torch emulates it, far slower than it computes in float32.
PRECISION = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
TEACHER_SCALE = 100.0  # of its logits; OpenAI's models all end at the clamp
SYNONYMS = 0.9  # cosine of two names from which a picture of one may be called the other


@dataclass(frozen=True)
class Plan:
    """How much of each lesson; docs/model-card.md says what runs of such lengths gave."""

    text_steps: int = 450
    words: int = 192  # of a step
    captions: int = 144
    hidden_steps: int = 1000  # of the text tower
    image_steps: int = 400  # of what follows the backbone, twice
    pictures: int = 768
    backbone_steps: int = 1000
    backbone_pictures: tuple[int, int, int] = (80, 40, 88)  # for the teacher, captions and names
    seed: int = 0
    held_out: frozenset[str] = frozenset()  # names that the text tower learns nothing of


@dataclass(frozen=True)
class Pictures:
    """Everything the students see, and what the teacher and people say of it."""

    features: Tensor  # [n, 512], the teacher's, unit length
    captions: list[tuple[str, ...]]
    described: NDArray[np.bool_]  # [n], by sentences; the others have names or nothing
    sharp: NDArray[np.bool_]  # [n], not thumbnails


@dataclass(frozen=True)
class Words:
    """Names and where they lie in the space."""

    names: list[str]
    vectors: Tensor  # [n, 512], unit length
    weights: NDArray[np.float64]  # [n], how far each vector is to be trusted
    known: int = field(default=0)  # the first so many are genuine, or mapped from another model


def place_loss(features: Tensor, targets: Tensor, centre: Tensor, trust: Tensor) -> Tensor:
    """How far each name is from its vector, and whether it is nearer to its own than to others'.

    All text vectors share a large part; `centre` is taken off where only differences shall count.
    """
    embeds = F.normalize(features, dim=-1)
    off, target_off = (F.normalize(one - centre, dim=-1) for one in (embeds, targets))
    near = 4 * (1 - (embeds * targets).sum(dim=1)) + 2 * (1 - (off * target_off).sum(dim=1))
    logits = 20 * off @ target_off.T
    own = torch.arange(len(logits))
    told_apart = F.cross_entropy(logits, own, reduction="none") + F.cross_entropy(
        logits.T, own, reduction="none"
    )
    return (trust * (near + 0.25 * told_apart)).sum() / trust.sum()


def pair_loss(
    features: Tensor, image_embeds: Tensor, log_scale: Tensor, captions: Sequence[str]
) -> Tensor:
    """Symmetric InfoNCE; pictures with equal captions are not each other's negatives."""
    logits = log_scale.exp().clamp(max=100) * F.normalize(features, dim=-1) @ image_embeds.T
    known = {caption: number for number, caption in enumerate(captions)}
    numbers = torch.tensor([known[caption] for caption in captions])
    own = torch.arange(len(captions))
    same = (numbers[:, None] == numbers[None]) & (own[:, None] != own[None])
    logits = logits.masked_fill(same, -1e4)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def answer_loss(
    embeds: Tensor,
    among: Tensor,
    right: Tensor,
    same: Tensor,
    scale: Tensor | float = TEACHER_SCALE,
    log_prior: Tensor | float = 0.0,
) -> Tensor:
    """Cross-entropy of the right text among others; `same` [b, k] marks texts that fit as well.

    `log_prior` [k] is the logarithm of how often each is right. It is added here, so that the
    embeds need not say what is common of everything (logit adjustment; Menon et al. 2021).
    """
    logits = scale * embeds @ among.T + log_prior
    also = same.clone()
    also[torch.arange(len(right)), right] = False
    return F.cross_entropy(logits.masked_fill(also, -1e4), right)


def choice_loss(embeds: Tensor, target: Tensor, among: Tensor) -> Tensor:
    """KL divergence from the teacher's softmax over `among` [k, embed_dim] to the student's."""
    ours = (TEACHER_SCALE * embeds @ among.T).log_softmax(dim=1)
    theirs = (TEACHER_SCALE * target @ among.T).log_softmax(dim=1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def steps(count: int, optimizer: torch.optim.Optimizer) -> Iterator[int]:
    """0, 1, ...; the learning rates warm up over 30 steps and fall to 0 as a cosine."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    for step in range(count):
        share = min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / count))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * share
        yield step


def sentence_encoder(
    model: CLIP, tokenizer: Tokenizer
) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """texts -> mean-pooled vectors [n, width], before the projection."""

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        text: Any = model.text
        with torch.no_grad():
            return features_of(text.pool, tokenizer, texts).numpy()

    return encode


@torch.no_grad()
def encode_texts(model: CLIP, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """text_embeds [n, 512]"""
    return F.normalize(features_of(model.text, tokenizer, texts), dim=-1)


def features_of(
    text: Callable[[Tensor], Tensor], tokenizer: Tokenizer, texts: Sequence[str]
) -> Tensor:
    """What a tower makes of texts [n, width]; those of like length share a batch, so that little is
    padded."""
    tokens = tokenizer(texts)
    lengths = tokens.attention_mask.sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    rows = []
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        ids = tokens.input_ids[chosen, : lengths[chosen].max()]
        rows.append(text(torch.from_numpy(ids.astype(np.int64))))
    return torch.cat(rows)[torch.from_numpy(np.argsort(order, kind="stable"))]


def in_template(template: str, name: str) -> str:
    """ "an apple", not "a apple"."""
    return re.sub(r"\ba (?=[aeiou])", "an ", template.replace("{}", name))


def read_pairs(tar: Path) -> list[Pair]:
    """All pairs of a tar, in its order."""
    source = open_source(tar)
    return [source[number] for number in range(len(source))]
