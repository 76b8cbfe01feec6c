"""The model of a run, and the module around it that is compiled and spread over ranks."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from twotower.errors import TrainError
from twotower.model.bert import BertEncoder
from twotower.model.clip import CLIP
from twotower.model.text import SentenceEncoder, TextTransformer
from twotower.model.weights import load_model
from twotower.train.adapt import adapt_model
from twotower.train.batch_norm import synchronize_batch_norms, uses_batch_statistics
from twotower.train.config import LossConfig, TrainConfig
from twotower.train.distributed import world_size
from twotower.train.lora import add_lora

LENGTH_GROUP, LENGTH_GROUPS = 8, 4  # the least size of a group of texts, the most groups


def prepare_model(config: TrainConfig) -> CLIP:
    """Return the model to train: fresh or loaded weights, locked towers, low-rank updates."""
    model = CLIP(config.model)
    if config.start_from:
        model = adapt_model(load_model(Path(config.start_from)), config.model)
    set_initial_logits(model, config.loss)
    optimizer = config.optimizer
    for name in optimizer.locked:
        getattr(model, name).requires_grad_(False)
    for tower in (model.vision, model.text):
        if optimizer.lora and any(weight.requires_grad for weight in tower.parameters()):
            add_lora(tower, optimizer.lora)
        if hasattr(tower, "checkpointing"):
            tower.checkpointing = config.memory.checkpointing
    set_training_mode(model, config)
    return model


def set_initial_logits(model: CLIP, config: LossConfig) -> None:
    """Set logit_scale and logit_bias to those of the configuration, if it has them.

    Raises:
        TrainError: a bias for a model without one.
    """
    if config.initial_bias is not None and model.logit_bias is None:
        raise TrainError(
            "loss.initial_bias",
            "the model has no bias, which only the sigmoid loss needs",
            "leave it out, or use --set model.logit_bias=true",
        )
    with torch.no_grad():
        if config.initial_scale is not None:
            model.logit_scale.fill_(math.log(config.initial_scale))
        if config.initial_bias is not None and model.logit_bias is not None:
            model.logit_bias.fill_(config.initial_bias)


def set_training_mode(model: CLIP, config: TrainConfig) -> None:
    """Set training mode, except in locked towers and in batch norms with frozen statistics."""
    model.train()
    for name in config.optimizer.locked:
        getattr(model, name).eval()
    if config.optimizer.frozen_statistics:
        for module in filter(uses_batch_statistics, model.modules()):
            module.eval()


class Towers(nn.Module):
    """`CLIP.embed` as the module that DDP, FSDP and the compiler wrap.

    The towers may compute in half precision; embeds and loss are float32. `logit_scale` and
    `logit_bias` are no parameters of it: `backward_batch` sums their gradients over ranks.
    """

    def __init__(self, model: CLIP, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.vision, self.text = model.vision, model.text
        self.embed = model.embed  # the method, since a submodule would register the scale
        self.precision = precision

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Embed pictures and texts: image_embeds and text_embeds [B, embed_dim], unit length.

        On a CPU, texts of similar length are computed together: captions are half as long as the
        longest of their batch, and no result depends on the padding.
        """
        device, full = pixel_values.device.type, self.precision == torch.float32
        lengths = None
        if device == "cpu" and not torch.compiler.is_compiling():
            lengths = text_lengths(self.text, input_ids)
        with contextlib.nullcontext() if full else torch.autocast(device, self.precision):
            if lengths is None:
                return self.embed(pixel_values, input_ids)
            order = lengths.argsort(stable=True)
            groups = group_by_length(input_ids, lengths, order)
            image_embeds, text_embeds = self.embed(pixel_values, groups)
            return image_embeds, text_embeds[order.argsort()]


def text_lengths(text: nn.Module, input_ids: Tensor) -> Tensor | None:
    """Return the number of positions [B] that text_features depend on; None for all of them."""
    if isinstance(text, SentenceEncoder | BertEncoder):
        return (input_ids != text.pad_id).sum(dim=1).clamp(min=1)
    if isinstance(text, TextTransformer) and text.eos_id is not None and not text.fixed_length:
        return (input_ids == text.eos_id).int().argmax(dim=1) + 1
    return None


def group_by_length(input_ids: Tensor, lengths: Tensor, order: Tensor) -> list[Tensor]:
    """Return texts in `order`, by rising length, in groups that are cut to their longest text."""
    groups = order.split(max(LENGTH_GROUP, -(-len(order) // LENGTH_GROUPS)))
    return [input_ids[rows, : int(lengths[rows[-1]])] for rows in groups]


def wrap(model: CLIP, config: TrainConfig) -> nn.Module:
    """Return `Towers`, compiled and spread over the ranks as the configuration asks for."""
    if world_size() > 1:
        synchronize_batch_norms(model)
    towers: Any = Towers(model, getattr(torch, config.memory.precision))
    if config.memory.wrapper == "fsdp" and dist.is_initialized():
        for tower in (model.vision, model.text):
            for block in getattr(tower, "blocks", ()):
                fully_shard(block)
        towers = fully_shard(towers)
    if config.memory.compile:
        towers.compile()
    if config.memory.wrapper == "ddp" and world_size() > 1:
        return DistributedDataParallel(towers)
    return towers
