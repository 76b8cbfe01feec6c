"""The loss of a batch: contrastive, and with a teacher also feature matching and affinity."""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.model.clip import CLIP
from twotower.train.accumulate import Loss
from twotower.train.batches import Batch
from twotower.train.config import LossConfig
from twotower.train.distill import Teacher, affinity_loss, feature_loss
from twotower.train.loss import tiled_clip_loss, tiled_siglip_loss


def batch_loss(config: LossConfig, model: CLIP, teacher: Teacher | None, batch: Batch) -> Loss:
    """Return the loss as a function of this rank's image_embeds and text_embeds."""
    device = model.logit_scale.device
    contrastive = contrastive_loss(model, _positive_ids(config, batch, device))
    if teacher is None:
        return contrastive
    teacher_images, teacher_texts = (embeds.to(device) for embeds in teacher.embeds_of(batch))
    teacher_scale = teacher.logit_scale

    def loss(image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
        feature = feature_loss(image_embeds, teacher_images)
        feature = feature + feature_loss(text_embeds, teacher_texts)
        affinity = affinity_loss(
            image_embeds,
            text_embeds,
            model.logit_scale,
            teacher_images,
            teacher_texts,
            teacher_scale,
        )
        return (
            config.contrastive_weight * contrastive(image_embeds, text_embeds)
            + config.feature_weight * feature
            + config.affinity_weight * affinity
        )

    return loss


def contrastive_loss(model: CLIP, ids: tuple[Tensor, Tensor] | None) -> Loss:
    """Return the sigmoid loss for a model with a bias, the softmax loss for others."""
    if model.logit_bias is None:
        return lambda images, texts: tiled_clip_loss(images, texts, model.logit_scale, ids)
    bias = model.logit_bias
    return lambda images, texts: tiled_siglip_loss(images, texts, model.logit_scale, bias, ids)


def _positive_ids(
    config: LossConfig, batch: Batch, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    if not config.multi_positive:
        return None
    return batch.image_ids.to(device), batch.text_ids.to(device)
