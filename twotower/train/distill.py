"""A small model learns from a large one as well as from pairs.

The teacher is asked once about every picture and caption; its answers are kept by content
(`embed_cache.py`), so that epochs, and other students, cost only the student. Besides the
contrastive loss there are two: student embeds shall lie where the teacher's do (feature matching),
and every picture shall be as near to every text of the batch as the teacher has it (affinity, Wu et
al. 2023, TinyCLIP).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from twotower.encode.encoder import Encoder
from twotower.encode.golden import fingerprint
from twotower.errors import BrokenPairError, TrainError
from twotower.pairs.pair import Pair, Source
from twotower.train.batches import Batch
from twotower.train.distributed import all_gather, gather_with_gradient
from twotower.train.embed_cache import PART, cache_of, sample_key

IMPOSSIBLE = -1e4  # the logit of a text that the teacher does not know


class Teacher:
    """A model directory whose answers are kept.

    Raises:
        TrainError: its space has another width than the student's.
    """

    def __init__(self, directory: Path, embed_dim: int) -> None:
        self.encoder = Encoder(directory)
        theirs = self.encoder.config.embed_dim
        if theirs != embed_dim:
            raise TrainError(
                f"{directory}: the teacher's space has {theirs} numbers, the student's "
                f"{embed_dim}; give a student with embed_dim {theirs}"
            )
        self.logit_scale = self.encoder.logit_scale
        self._key = fingerprint(directory)
        self.open()

    def open(self) -> None:
        """Read what is kept, other ranks' answers among it."""
        self.images = cache_of(self._key, "image-embeds", np.float16)
        self.texts = cache_of(self._key, "text-embeds", np.float16)

    def prepare(
        self,
        sources: Sequence[Source],
        rank: int = 0,
        world_size: int = 1,
        advance: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Ask about this rank's share of all pairs; what is known is not asked again.

        Args:
            advance: is told how many of how many pairs are done.
        """
        places = [(one, number) for one in sources for number in range(rank, len(one), world_size)]
        for start in range(0, len(places), PART):
            self._ask(places[start : start + PART])
            advance(min(start + PART, len(places)), len(places))

    def _ask(self, places: Sequence[tuple[Source, int]]) -> None:
        pairs = []
        for source, number in places:
            try:
                pairs.append(source[number])
            except BrokenPairError:  # batches name it and take another
                continue
        captions = [caption for pair in pairs for caption in pair.captions]
        self.images.fill(
            [sample_key(pair.picture) for pair in pairs],
            lambda chosen: self._see([pairs[i] for i in chosen]),
        )
        self.texts.fill(
            [sample_key(caption) for caption in captions],
            lambda chosen: self.encoder.encode_text([captions[i] for i in chosen]),
        )

    def _see(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        unknown = np.full(self.encoder.config.embed_dim, np.nan, np.float32)
        found = self.encoder.stream(pair.picture for pair in pairs)
        return np.stack(
            [unknown if one.image_embeds is None else one.image_embeds for one in found]
        )

    def answers(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """image_embeds and text_embeds [b, embed_dim]; NaN where a picture is unreadable."""
        texts = [sample_key(caption) for caption in batch.captions]
        return torch.from_numpy(self.images[batch.picture_keys]), torch.from_numpy(
            self.texts[texts]
        )


def feature_loss(embeds: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance to the teacher's embeds, averaged over all ranks' pairs.

    Args:
        embeds, teacher: [b, embed_dim], this rank's own, unit length.

    Returns:
        This rank's share. Rows that the teacher does not know count as 0.
    """
    known = teacher.isfinite().all(dim=1)
    distance = (embeds - teacher.nan_to_num()).square().sum(dim=1)
    return (distance * known).sum() / len(all_gather(known))


def affinity_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    teacher_images: Tensor,
    teacher_texts: Tensor,
    teacher_scale: float,
) -> Tensor:
    """How far the student's softmax over all ranks' texts is from the teacher's, and back again.

    Args:
        logit_scale: the student's, a logarithm. teacher_scale: not one.

    Returns:
        This rank's share of the mean of both ways' KL divergences, 0 where student and teacher
        agree. Pictures that the teacher does not know take no part.
    """
    known = teacher_images.isfinite().all(dim=1)
    all_known = all_gather(known)
    teacher_images = teacher_images.nan_to_num()
    scale = logit_scale.exp()
    total = image_embeds.new_zeros(())
    ways = (
        (image_embeds, text_embeds, teacher_images, teacher_texts),
        (text_embeds, image_embeds, teacher_texts, teacher_images),
    )
    for own, others, teacher_own, teacher_others in ways:
        student = scale * own @ gather_with_gradient(others).T  # [b, B]
        target = teacher_scale * teacher_own @ all_gather(teacher_others).T
        target = target.masked_fill(~all_known, IMPOSSIBLE).log_softmax(dim=1)
        student = student.masked_fill(~all_known, IMPOSSIBLE).log_softmax(dim=1)
        rows = F.kl_div(student, target, reduction="none", log_target=True).sum(dim=1)
        total = total + (rows * known).sum()
    return total / (2 * len(all_known))
