"""Training of the last linear maps on frozen features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.model.clip import CLIP
from twotower.progress import Progress, ReportProgress, ignore_progress
from twotower.train.finetune.candidates import (
    Candidate,
    CandidateScorer,
    apply_head,
    head_tensors,
    interpolate,
)
from twotower.train.finetune.frozen_model import FrozenModel
from twotower.train.finetune.pair_set import PairSet, Sample, StoredPictures
from twotower.train.loss import clip_loss, siglip_loss

STEPS, BATCH, RATE = 300, 1024, 1e-3
CHECKS = 6  # times that candidates are scored, since the best may come before the end
MIXES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


class ProbePairs:
    """Features of pictures and of all their captions, from which batches are drawn."""

    def __init__(self, frozen: FrozenModel, pairs: PairSet, samples: Sequence[Sample]) -> None:
        captions = [pairs.captions_of(sample) for sample in samples]
        texts = sorted({text for texts_of_sample in captions for text in texts_of_sample})
        index = {text: row for row, text in enumerate(texts)}
        self.caption_rows = [
            [index[text] for text in texts_of_sample] for texts_of_sample in captions
        ]
        pictures = StoredPictures(pairs.source, samples)
        keys = [sample.key for sample in samples]
        self.images = torch.from_numpy(frozen.image_features(pictures, keys))
        self.texts = torch.from_numpy(frozen.text_features(texts))

    def draw(self, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a batch: image features, text features, and the row of each text."""
        rows = random.permutation(len(self.caption_rows))[:BATCH]
        choices = (self.caption_rows[row] for row in rows)
        text_rows = torch.tensor([choice[int(random.integers(len(choice)))] for choice in choices])
        return self.images[rows], self.texts[text_rows], text_rows


def train_probe(
    frozen: FrozenModel,
    pairs: PairSet,
    samples: Sequence[Sample],
    scorer: CandidateScorer,
    progress: ReportProgress = ignore_progress,
) -> tuple[dict[str, Tensor], list[Candidate]]:
    """Train the last linear maps alone.

    Returns:
        The heads with the best domain score, and candidates between the model and its probes.
    """
    data = ProbePairs(frozen, pairs, samples)
    before = head_tensors(frozen.model)
    heads = {name: tensor.clone().requires_grad_() for name, tensor in before.items()}
    optimizer = torch.optim.AdamW(heads.values(), lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    random = np.random.default_rng(0)
    probes: list[tuple[float, dict[str, Tensor]]] = []
    candidates: list[Candidate] = []
    stage = f"Training the last linear maps on {len(samples)} pairs"
    progress(Progress(0, STEPS, stage=stage))
    for step in range(1, STEPS + 1):
        loss = probe_loss(frozen.model, heads, *data.draw(random))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % (STEPS // CHECKS) == 0:
            probe = {name: tensor.detach().clone() for name, tensor in heads.items()}
            mixed = [scorer.score_heads(mix, interpolate(before, probe, mix)) for mix in MIXES]
            candidates += mixed
            probes.append((mixed[-1].domain, probe))
            progress(Progress(step, STEPS, stage=stage))
    _, best = max(probes, key=lambda scored: scored[0])
    return best, candidates


def probe_loss(
    model: CLIP, heads: Mapping[str, Tensor], images: Tensor, texts: Tensor, text_rows: Tensor
) -> Tensor:
    """Return the loss that the model was pre-trained with, on features.

    Args:
        images: features [n, width].
        texts: features [n, width].
        text_rows: [n]; equal rows are equal texts, which are positives of each other's pictures.
    """
    image_embeds = F.normalize(apply_head(images, "vision", heads), dim=-1)
    text_embeds = F.normalize(apply_head(texts, "text", heads), dim=-1)
    logits = model.logit_scale.detach().exp() * image_embeds @ text_embeds.T
    positives = text_rows[:, None] == text_rows
    if model.logit_bias is None:
        return clip_loss(logits, positives)
    return siglip_loss(logits + model.logit_bias.detach(), positives)
