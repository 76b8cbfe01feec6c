"""Candidate weights between a model and its fine-tuned version: their scores and the choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.arrays import Float32Array, normalize
from twotower.model.clip import CLIP
from twotower.train.embed_cache import sample_key
from twotower.train.finetune.frozen_model import FrozenModel
from twotower.train.finetune.held_out import HeldOutSet
from twotower.train.finetune.last_layers import find_heads, image_features, text_features


@dataclass(frozen=True)
class Candidate:
    """Weights, and their scores on the pairs that the choice is made by.

    Attributes:
        mix: the position between the weights before (0) and after (1) the stage.
        tensors: makes the weights that differ from the model before.
    """

    stage: Literal["start", "probe", "tune"]
    mix: float
    tensors: Callable[[], Mapping[str, Tensor]]
    domain: float
    outside: float


class CandidateScorer:
    """Two held-out sets, and the features that the frozen towers give to them."""

    def __init__(self, frozen: FrozenModel, domain: HeldOutSet, outside: HeldOutSet) -> None:
        self.frozen, self.held_out_sets = frozen, (domain, outside)
        self.features = [
            (
                frozen.image_features(
                    held_out.pictures, [sample_key(picture) for picture in held_out.pictures]
                ),
                frozen.text_features(held_out.texts),
            )
            for held_out in self.held_out_sets
        ]

    def score_start(self) -> Candidate:
        """Score the model before fine-tuning."""
        return self.score_heads(0.0, head_tensors(self.frozen.model))

    def score_heads(self, mix: float, heads: Mapping[str, Tensor]) -> Candidate:
        """Score the frozen towers with other heads, on the features computed before."""
        scores = []
        for held_out, (images, texts) in zip(self.held_out_sets, self.features, strict=True):
            image_embeds = _embed_features(images, "vision", heads)
            text_embeds = _embed_features(texts, "text", heads)
            scores.append(float(held_out.hits(image_embeds, text_embeds).mean()))
        return Candidate("probe" if mix else "start", mix, lambda: heads, *scores)

    def score_weights(
        self, mix: float, model: CLIP, tensors: Callable[[], Mapping[str, Tensor]]
    ) -> Candidate:
        """Score `model`, which holds the weights that `tensors` makes."""
        scores = []
        for held_out in self.held_out_sets:
            image_embeds = normalize(image_features(model, held_out.pictures))
            text_embeds = normalize(text_features(model, held_out.texts, self.frozen.tokenizer))
            scores.append(float(held_out.hits(image_embeds, text_embeds).mean()))
        return Candidate("tune", mix, tensors, *scores)


def head_tensors(model: CLIP) -> dict[str, Tensor]:
    """Return the parameters of both last linear maps by their names in the model."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: parameter.detach()
        for module, attribute in find_heads(model)
        for parameter in getattr(module, attribute).parameters()
    }


def apply_head(features: Tensor, tower: str, heads: Mapping[str, Tensor]) -> Tensor:
    """Apply the head of a tower: [n, width] -> [n, embed_dim]; a tower may have none."""
    of_tower = {name: tensor for name, tensor in heads.items() if name.startswith(f"{tower}.")}
    if not of_tower:
        return features
    [weight] = [tensor for name, tensor in of_tower.items() if name.endswith(".weight")]
    bias = next((tensor for name, tensor in of_tower.items() if name.endswith(".bias")), None)
    return F.linear(features, weight, bias)


def _embed_features(
    features: Float32Array, tower: str, heads: Mapping[str, Tensor]
) -> Float32Array:
    return normalize(apply_head(torch.from_numpy(features), tower, heads).numpy())


def interpolate(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], mix: float
) -> dict[str, Tensor]:
    """Return (1 - mix) * before + mix * after; counters are those of `after`."""
    return {
        name: torch.lerp(before[name], tensor, mix) if tensor.is_floating_point() else tensor
        for name, tensor in after.items()
    }


def choose_candidate(candidates: Sequence[Candidate], may_lose: float) -> Candidate:
    """Return the candidate with the best domain score among those that keep the outside score.

    Of equal ones, the one with the best outside score. The first one is the model before
    fine-tuning and is always allowed.

    Args:
        may_lose: the loss of outside score that is allowed, of 1.
    """
    start = candidates[0]
    least = start.outside - may_lose
    allowed = [candidate for candidate in candidates if candidate.outside >= least - 1e-9]
    return max([start, *allowed], key=lambda candidate: (candidate.domain, candidate.outside))
