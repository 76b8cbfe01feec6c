"""Score candidate models and choose one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from twotower.arrays import normalize
from twotower.model.clip import CLIP
from twotower.train.embed_cache import sample_key
from twotower.train.finetune.held_out import (
    HeldOutSet,
)
from twotower.train.finetune.last_layers import (
    head_of,
    image_features,
    text_features,
)
from twotower.train.finetune.start import FrozenModel


@dataclass(frozen=True)
class Candidate:
    """Weights that differ from the start's, and how they do where the choice is made."""

    stage: Literal["start", "probe", "tune"]
    mix: float  # 0 is the start, 1 the end of the stage
    tensors: Callable[[], Mapping[str, Tensor]]  # makes those that changed
    domain: float
    outside: float


# --- candidates ----------------------------------------------------------------------------------


class CandidateScorer:
    """How candidates do on what the choice is made by."""

    def __init__(self, start: FrozenModel, domain: HeldOutSet, outside: HeldOutSet) -> None:
        self.start, self.exams = start, (domain, outside)
        self.features = [
            (
                start.image_features(exam.pictures, [sample_key(one) for one in exam.pictures]),
                start.text_features(exam.texts),
            )
            for exam in self.exams
        ]

    def at_start(self) -> Candidate:
        """The model as it is."""
        return self.at_heads(0.0, heads_of(self.start.model))

    def at_heads(self, mix: float, heads: Mapping[str, Tensor]) -> Candidate:
        """The start's towers with other heads, on features that are there."""
        scores = []
        for exam, (images, texts) in zip(self.exams, self.features, strict=True):
            image_embeds = normalize(_through_head(images, "vision", heads))
            text_embeds = normalize(_through_head(texts, "text", heads))
            scores.append(float(exam.hits(image_embeds, text_embeds).mean()))
        return Candidate("probe" if mix else "start", mix, lambda: heads, *scores)

    def at_weights(
        self, mix: float, model: CLIP, tensors: Callable[[], Mapping[str, Tensor]]
    ) -> Candidate:
        """`model`, which holds what `tensors` makes."""
        scores = []
        for exam in self.exams:
            image_embeds = normalize(image_features(model, exam.pictures))
            text_embeds = normalize(text_features(model, exam.texts, self.start.tokenizer))
            scores.append(float(exam.hits(image_embeds, text_embeds).mean()))
        return Candidate("tune", mix, tensors, *scores)


def heads_of(model: CLIP) -> dict[str, Tensor]:
    """The parameters of both last linear maps, by their names in the model."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [head for head in (head_of(model.vision), head_of(model.text)) if head]
    return {
        names[id(parameter)]: parameter.detach()
        for holder, name in found
        for parameter in getattr(holder, name).parameters()
    }


def _through_head(
    features: NDArray[np.float32] | Tensor, tower: str, heads: Mapping[str, Tensor]
) -> Any:
    """[n, width] -> [n, embed_dim]; as they are for a tower without a head."""
    own = {name: one for name, one in heads.items() if name.startswith(f"{tower}.")}
    if not own:
        return features
    [weight] = [one for name, one in own.items() if name.endswith(".weight")]
    bias = next((one for name, one in own.items() if name.endswith(".bias")), None)
    if isinstance(features, Tensor):
        return F.linear(features, weight, bias)
    return F.linear(torch.from_numpy(features), weight, bias).numpy()


def _between(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], mix: float
) -> dict[str, Tensor]:
    """(1 - mix) * before + mix * after; counters as they are after."""
    return {
        name: torch.lerp(before[name], one, mix) if one.is_floating_point() else one
        for name, one in after.items()
    }


def choose_candidate(candidates: Sequence[Candidate], may_lose: float) -> Candidate:
    """The best on the domain of those that keep the outside score; of equals, the one that keeps
    most of it. The start comes first and is always allowed."""
    least = candidates[0].outside - may_lose
    allowed = [candidates[0], *(one for one in candidates if one.outside >= least - 1e-9)]
    return max(allowed, key=lambda one: (one.domain, one.outside))
