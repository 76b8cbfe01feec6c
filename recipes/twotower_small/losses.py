"""Configuration, data and losses that both students share."""

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
from torch import Tensor

from twotower.arrays import BoolArray, Float32Array, Float64Array
from twotower.inputs.tokenizer import Tokenizer
from twotower.model.clip import CLIP
from twotower.pairs.pair import Pair
from twotower.pairs.sources import open_source

SENTENCES = 5  # captions of a photograph of Flickr8k; the captions of other pictures are names

# Where the CPU has no bfloat16, torch emulates it, far slower than float32.
PRECISION = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
TEACHER_SCALE = 100.0  # of its logits; OpenAI's models all end at the clamp
SYNONYM_COSINE = 0.9  # of two names from which either may label a picture of the other


@dataclass(frozen=True)
class RecipeConfig:
    """Lengths of the rounds; docs/measurements/bundled-model.md gives the results of such runs."""

    text_steps: int = 450
    words: int = 192  # of a step
    captions: int = 144
    hidden_steps: int = 1000  # of the text tower
    image_steps: int = 400  # of the layers after the backbone, in each of two rounds
    pictures: int = 768
    backbone_steps: int = 1000
    backbone_pictures: tuple[int, int, int] = (80, 40, 88)  # for the teacher, captions and names
    seed: int = 0
    held_out: frozenset[str] = frozenset()  # names that the text tower is not trained on


@dataclass(frozen=True)
class Pictures:
    """The pictures that the students learn from, with the teacher's features and captions."""

    features: Tensor  # [n, 512], the teacher's, unit length
    captions: list[tuple[str, ...]]
    described: BoolArray  # [n], True for captions that are sentences; otherwise names or none
    sharp: BoolArray  # [n], False for thumbnails


@dataclass(frozen=True)
class Words:
    """Names and their vectors in the teacher's space."""

    names: list[str]
    vectors: Tensor  # [n, 512], unit length
    weights: Float64Array  # [n], reliability of each vector
    known_count: int = field(default=0)  # leading names whose vectors are not estimated


def name_vector_loss(features: Tensor, targets: Tensor, centre: Tensor, weights: Tensor) -> Tensor:
    """Distance of each name to its vector, and cross-entropy of its vector among the batch's.

    All text vectors share a large component; `centre` is subtracted where only differences count.
    """
    embeds = F.normalize(features, dim=-1)
    centred, centred_targets = (
        F.normalize(vectors - centre, dim=-1) for vectors in (embeds, targets)
    )
    distance = 4 * (1 - (embeds * targets).sum(dim=1)) + 2 * (
        1 - (centred * centred_targets).sum(dim=1)
    )
    logits = 20 * centred @ centred_targets.T
    diagonal = torch.arange(len(logits))
    contrast = F.cross_entropy(logits, diagonal, reduction="none") + F.cross_entropy(
        logits.T, diagonal, reduction="none"
    )
    return (weights * (distance + 0.25 * contrast)).sum() / weights.sum()


def pair_loss(
    features: Tensor, image_embeds: Tensor, log_scale: Tensor, captions: Sequence[str]
) -> Tensor:
    """Symmetric InfoNCE; pictures with equal captions are not each other's negatives."""
    logits = log_scale.exp().clamp(max=100) * F.normalize(features, dim=-1) @ image_embeds.T
    ids_by_caption = {caption: number for number, caption in enumerate(captions)}
    ids = torch.tensor([ids_by_caption[caption] for caption in captions])
    diagonal = torch.arange(len(captions))
    equal = (ids[:, None] == ids[None]) & (diagonal[:, None] != diagonal[None])
    logits = logits.masked_fill(equal, -1e4)
    return (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2


def label_loss(
    embeds: Tensor,
    candidates: Tensor,
    labels: Tensor,
    acceptable: Tensor,
    scale: Tensor | float = TEACHER_SCALE,
    log_prior: Tensor | float = 0.0,
) -> Tensor:
    """Cross-entropy of the labels among `candidates` [k, embed_dim].

    Args:
        labels: [b], rows of `candidates`.
        acceptable: [b, k], candidates that are no negatives because they fit as well.
        log_prior: [k], logarithm of the frequency of each candidate. It is added here so that the
            embeddings need not encode it (logit adjustment; Menon et al. 2021).
    """
    logits = scale * embeds @ candidates.T + log_prior
    ignored = acceptable.clone()
    ignored[torch.arange(len(labels)), labels] = False
    return F.cross_entropy(logits.masked_fill(ignored, -1e4), labels)


def distillation_loss(embeds: Tensor, target: Tensor, candidates: Tensor) -> Tensor:
    """KL divergence of the teacher's and the student's softmax over `candidates` [k, embed_dim]."""
    student = (TEACHER_SCALE * embeds @ candidates.T).log_softmax(dim=1)
    teacher = (TEACHER_SCALE * target @ candidates.T).log_softmax(dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def cosine_steps(count: int, optimizer: torch.optim.Optimizer) -> Iterator[int]:
    """Yield 0, 1, ...; the learning rates warm up over 30 steps and decay to 0 by a cosine."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    for step in range(count):
        factor = min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / count))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        yield step


def sentence_encoder(model: CLIP, tokenizer: Tokenizer) -> Callable[[Sequence[str]], Float32Array]:
    """Return a function from texts to mean-pooled vectors [n, width], before the projection."""

    def encode(texts: Sequence[str]) -> Float32Array:
        text: Any = model.text
        with torch.no_grad():
            return np.asarray(encode_batches(text.pool, tokenizer, texts).numpy())

    return encode


@torch.no_grad()
def encode_texts(model: CLIP, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Return text_embeds [n, 512]."""
    return F.normalize(encode_batches(model.text, tokenizer, texts), dim=-1)


def encode_batches(
    tower: Callable[[Tensor], Tensor], tokenizer: Tokenizer, texts: Sequence[str]
) -> Tensor:
    """Apply `tower` to texts, [n, width]; texts of similar length share a batch to save padding."""
    tokens = tokenizer(texts)
    lengths = tokens.lengths
    order = np.argsort(lengths, kind="stable")
    rows = []
    for start in range(0, len(order), 64):
        batch = order[start : start + 64]
        ids = tokens.input_ids[batch, : lengths[batch].max()]
        rows.append(tower(torch.from_numpy(ids.astype(np.int64))))
    return torch.cat(rows)[torch.from_numpy(np.argsort(order, kind="stable"))]


def fill_template(template: str, name: str) -> str:
    """Insert a name; "a apple" becomes "an apple"."""
    return re.sub(r"\ba (?=[aeiou])", "an ", template.replace("{}", name))


def read_pairs(tar: Path) -> list[Pair]:
    """Return all pairs of a tar, in its order."""
    source = open_source(tar)
    return [source[number] for number in range(len(source))]
