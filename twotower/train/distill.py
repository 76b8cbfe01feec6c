"""Distillation: a small model learns from a large one as well as from pairs.

The teacher embeds every picture and caption once; its embeds are cached by content
(`embed_cache.py`), so that further epochs, and other students, cost only the student. Two losses
are added to the contrastive one: the distance between the student's and the teacher's embeds
(feature matching), and the divergence between their distributions over the texts of a batch for
each picture, and over the pictures for each text (affinity; Wu et al. 2023, TinyCLIP).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.arrays import Float32Array
from twotower.encode.encoder import Encoder
from twotower.encode.golden import fingerprint
from twotower.errors import BrokenPairError, TrainError
from twotower.pairs.pair import Pair, Source
from twotower.progress import Progress, ReportProgress, ignore_progress
from twotower.train.batches import Batch
from twotower.train.distributed import all_gather, gather_with_gradient
from twotower.train.embed_cache import BLOCK, open_cache, sample_key

MASKED_LOGIT = -1e4  # of a picture or text whose teacher embed is unknown
PairAddress: TypeAlias = tuple[Source, int]  # a source and the number of a pair in it


class Teacher:
    """A model directory whose embeds are cached.

    Raises:
        TrainError: its embeds have another width than the student's.
    """

    def __init__(self, directory: Path, embed_dim: int) -> None:
        self.encoder = Encoder(directory)
        teacher_dim = self.encoder.config.embed_dim
        if teacher_dim != embed_dim:
            raise TrainError(
                directory,
                f"the teacher's embeds have {teacher_dim} numbers, the student's {embed_dim}",
                f"choose a student with embed_dim {teacher_dim}",
            )
        self.logit_scale = self.encoder.logit_scale
        self._key = fingerprint(directory)
        self.open()

    def open(self) -> None:
        """Open the cache, with the embeds that other ranks wrote."""
        self.images = open_cache(self._key, "image-embeds", np.float16)
        self.texts = open_cache(self._key, "text-embeds", np.float16)

    def prepare(
        self,
        sources: Sequence[Source],
        rank: int = 0,
        world_size: int = 1,
        progress: ReportProgress = ignore_progress,
    ) -> None:
        """Embed this rank's share of all pairs, except those in the cache."""
        addresses = [
            (source, number)
            for source in sources
            for number in range(rank, len(source), world_size)
        ]
        for start in range(0, len(addresses), BLOCK):
            stop = min(start + BLOCK, len(addresses))
            self._embed(addresses[start:stop])
            progress(Progress(stop, len(addresses), stage="Embedding pairs with the teacher"))

    def _embed(self, addresses: Sequence[PairAddress]) -> None:
        pairs = []
        for source, number in addresses:
            try:
                pairs.append(source[number])
            except BrokenPairError:  # `Batches` names it and takes another
                continue
        captions = [caption for pair in pairs for caption in pair.captions]
        self.images.fill(
            [sample_key(pair.picture) for pair in pairs],
            lambda rows: self._embed_images([pairs[row] for row in rows]),
        )
        self.texts.fill(
            [sample_key(caption) for caption in captions],
            lambda rows: self.encoder.encode_text([captions[row] for row in rows]),
        )

    def _embed_images(self, pairs: Sequence[Pair]) -> Float32Array:
        """Embed the pictures of pairs; a row of NaN stands for an unreadable one."""
        unknown = np.full(self.encoder.config.embed_dim, np.nan, np.float32)
        results = self.encoder.stream(pair.picture for pair in pairs)
        return np.stack(
            [unknown if row.image_embeds is None else row.image_embeds for row in results]
        )

    def embeds_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return image_embeds and text_embeds [b, embed_dim]; NaN for an unreadable picture."""
        image_embeds = torch.from_numpy(self.images[batch.picture_keys])
        text_keys = [sample_key(caption) for caption in batch.captions]
        return image_embeds, torch.from_numpy(self.texts[text_keys])


def feature_loss(embeds: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance to the teacher's embeds, averaged over all ranks' pairs.

    Args:
        embeds: [b, embed_dim] of this rank, unit length.
        teacher: the teacher's embeds of the same samples; NaN in unreadable ones, which count as 0.

    Returns:
        This rank's share.
    """
    readable = teacher.isfinite().all(dim=1)
    distance = (embeds - teacher.nan_to_num()).square().sum(dim=1)
    return (distance * readable).sum() / len(all_gather(readable))


def affinity_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    teacher_images: Tensor,
    teacher_texts: Tensor,
    teacher_scale: float,
) -> Tensor:
    """Return the KL divergence of the student's softmax over all ranks' pairs from the teacher's.

    The mean of picture to text and text to picture; 0 where student and teacher agree. Pairs whose
    picture the teacher cannot read are left out.

    Args:
        image_embeds: [b, embed_dim] of this rank, the student's; the others likewise.
        logit_scale: the student's, a logarithm.
        teacher_scale: the teacher's, exponentiated.

    Returns:
        This rank's share.
    """
    readable = teacher_images.isfinite().all(dim=1)
    all_readable = all_gather(readable)
    teacher_images = teacher_images.nan_to_num()
    scale = logit_scale.exp()
    total = image_embeds.new_zeros(())
    directions = (
        (image_embeds, text_embeds, teacher_images, teacher_texts),
        (text_embeds, image_embeds, teacher_texts, teacher_images),
    )
    for queries, keys, teacher_queries, teacher_keys in directions:
        student = scale * queries @ gather_with_gradient(keys).T  # [b, B]
        target = teacher_scale * teacher_queries @ all_gather(teacher_keys).T
        target = target.masked_fill(~all_readable, MASKED_LOGIT).log_softmax(dim=1)
        student = student.masked_fill(~all_readable, MASKED_LOGIT).log_softmax(dim=1)
        divergences = F.kl_div(student, target, reduction="none", log_target=True).sum(dim=1)
        total = total + (divergences * readable).sum()
    return total / (2 * len(all_readable))
