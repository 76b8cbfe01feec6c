"""Train a linear probe on frozen features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.model.clip import CLIP
from twotower.train.finetune.candidates import (
    Candidate,
    CandidateScorer,
    _between,
    _through_head,
    heads_of,
)
from twotower.train.finetune.start import FrozenModel, Pictures, Questions, Sample
from twotower.train.loss import clip_loss, siglip_loss

PROBE_STEPS, PROBE_BATCH, PROBE_RATE = 300, 1024, 1e-3
LOOKS = 6  # at the probe while it learns; it may have learned enough before its end
PROBE_MIXES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


def probe(
    start: FrozenModel, domain: Questions, learn: Sequence[Sample], looks: CandidateScorer
) -> tuple[dict[str, Tensor], list[Candidate]]:
    """Train the last linear maps alone, on features.

    Returns:
        The heads that did best on the domain, and candidates on the way to them.
    """
    captions = [domain.captions(one) for one in learn]
    texts = sorted({text for said in captions for text in said})
    index = {text: row for row, text in enumerate(texts)}
    choices = [[index[text] for text in said] for said in captions]
    seen = start.image_features(Pictures(domain.source, learn), [one.key for one in learn])
    images, words = torch.from_numpy(seen), torch.from_numpy(start.text_features(texts))

    before = heads_of(start.model)
    heads = {name: one.clone().requires_grad_() for name, one in before.items()}
    optimizer = torch.optim.AdamW(heads.values(), lr=PROBE_RATE, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PROBE_STEPS)
    random = np.random.default_rng(0)
    ends: list[tuple[float, dict[str, Tensor]]] = []
    candidates: list[Candidate] = []
    for step in range(1, PROBE_STEPS + 1):
        rows = random.permutation(len(learn))[:PROBE_BATCH]
        said = torch.tensor([choices[row][int(random.integers(len(choices[row])))] for row in rows])
        loss = _head_loss(start.model, heads, images[rows], words[said], said)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        if step % (PROBE_STEPS // LOOKS) == 0:
            now = {name: one.detach().clone() for name, one in heads.items()}
            found = [looks.at_heads(mix, _between(before, now, mix)) for mix in PROBE_MIXES]
            candidates += found
            ends.append((found[-1].domain, now))
    _, end = max(ends, key=lambda one: one[0])
    return end, candidates


def _head_loss(
    model: CLIP, heads: Mapping[str, Tensor], images: Tensor, words: Tensor, said: Tensor
) -> Tensor:
    """The loss that the model was trained with; equal texts belong to each other's pictures."""
    image_embeds = F.normalize(_through_head(images, "vision", heads), dim=-1)
    text_embeds = F.normalize(_through_head(words, "text", heads), dim=-1)
    logits = model.logit_scale.detach().exp() * image_embeds @ text_embeds.T
    positives = said[:, None] == said
    if model.logit_bias is None:
        return clip_loss(logits, positives)
    return siglip_loss(logits + model.logit_bias.detach(), positives)
