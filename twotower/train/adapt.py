"""Weights as a start for pictures of another size, texts of another length, or the other loss."""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.errors import TrainError
from twotower.model.clip import CLIP
from twotower.model.config import CLIPConfig
from twotower.model.positions import resize_grid


def adapt_model(model: CLIP, config: CLIPConfig) -> CLIP:
    """Return a model of `config` with the weights of `model`.

    Positions of pictures are interpolated. Positions of texts are cut, or continued with the last
    one, so that texts that fitted before keep their embeds. A `logit_bias` that is new has its
    usual start.

    Raises:
        TrainError: the weights do not fit `config`.
    """
    if model.config == config:
        return model
    adapted = CLIP(config)
    target, stored = adapted.state_dict(), model.state_dict()
    for name, tensor in target.items():
        if name == "logit_bias" and name not in stored:
            continue
        if name not in stored:
            raise _misfit(model.config.name, f"has no {name}")
        weight = _resize(name, stored[name], tensor.shape)
        if weight.shape != tensor.shape:
            shapes = f"{list(weight.shape)}, not {list(tensor.shape)}"
            raise _misfit(model.config.name, f"{name} has the shape {shapes}")
        target[name] = weight
    if surplus := stored.keys() - target.keys():
        raise _misfit(model.config.name, f"has {min(surplus)} in addition")
    adapted.load_state_dict(target)
    return adapted


def _misfit(name: str, reason: str) -> TrainError:
    return TrainError(
        f"the weights of {name}",
        reason,
        "change only model.vision.image_size, model.text.context_length and model.logit_bias of "
        "weights, or start a preset with fresh ones",
    )


def _resize(name: str, weight: Tensor, shape: torch.Size) -> Tensor:
    """Return positions [rows, width] with the rows of `shape`, and other weights as they are."""
    if weight.shape == shape or not name.endswith("pos_embed") or weight.ndim != 2:
        return weight
    if name.startswith("text."):
        surplus = weight[-1:].expand(max(0, shape[0] - len(weight)), -1)
        return torch.cat([weight, surplus])[: shape[0]]
    if weight.is_meta:  # a dry run, which needs the shape alone
        return weight.new_empty(shape[0], weight.shape[1])
    return torch.from_numpy(resize_grid(weight.float().numpy(), shape[0])).to(weight)
