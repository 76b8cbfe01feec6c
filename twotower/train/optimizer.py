"""Optimizers, their parameter groups, and the schedule of the learning rate."""

from __future__ import annotations

import math
import re
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from twotower.train.config import TrainConfig

NamedParameters: TypeAlias = list[tuple[str, nn.Parameter]]


def build_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Return AdamW for all parameters, or Muon for the matrices in blocks and AdamW for the others.

    Weight decay applies to matrices, convolutions and embeddings, not to biases, norms and the
    logit scale (as in open_clip). `initial_lr` of each group is its full learning rate.
    """
    matrices: NamedParameters = []
    remaining: NamedParameters = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            in_block = parameter.ndim == 2 and ".blocks." in name
            (matrices if in_block else remaining).append((name, parameter))
    if config.optimizer.name == "adamw":
        return [_adamw([*matrices, *remaining], model, config)]
    # Jordan et al. 2024, scaled so that AdamW's learning rate and decay fit (Liu et al. 2025)
    muon = torch.optim.Muon(
        _groups(matrices, model, config),
        lr=config.optimizer.lr,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    return [muon, _adamw(remaining, model, config)]


def _adamw(
    parameters: NamedParameters, model: nn.Module, config: TrainConfig
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        _groups(parameters, model, config),
        lr=config.optimizer.lr,
        betas=config.optimizer.betas,
        eps=config.optimizer.eps,
        fused=config.memory.wrapper != "fsdp",  # one pass over memory instead of a dozen
    )


def _groups(
    parameters: NamedParameters, model: nn.Module, config: TrainConfig
) -> list[dict[str, Any]]:
    """Return one group for each pair of weight decay and learning rate."""
    optimizer = config.optimizer
    groups: dict[tuple[float, float], NamedParameters] = {}
    for name, parameter in parameters:
        decay = optimizer.weight_decay if parameter.ndim >= 2 else 0.0
        rate = tower_rate(name, config) * layer_factor(name, model, optimizer.layer_decay)
        groups.setdefault((decay, rate), []).append((name, parameter))
    return [
        {"params": members, "weight_decay": decay, "lr": rate, "initial_lr": rate}
        for (decay, rate), members in groups.items()
    ]


def tower_rate(name: str, config: TrainConfig) -> float:
    """Return the full learning rate of the tower of a parameter, or that of the logit scale."""
    optimizer = config.optimizer
    rates = {"vision": optimizer.vision_lr, "text": optimizer.text_lr}
    rate = rates.get(name.partition(".")[0])
    return optimizer.lr if rate is None else rate


def layer_factor(name: str, model: nn.Module, layer_decay: float) -> float:
    """Return `layer_decay` to the power of the number of blocks between a parameter and the output.

    Embeddings and the stem lie before all blocks, projections and the logit scale after them.
    """
    tower = name.partition(".")[0]
    if layer_decay == 1.0 or tower not in ("vision", "text"):
        return 1.0
    depth = len(getattr(getattr(model, tower), "blocks", ()))
    block = re.search(r"\.blocks\.(\d+)\.", name)
    if block:
        return layer_decay ** (depth - int(block.group(1)))
    after_blocks = re.search(r"\.(proj|pool|ln_post|ln_final|attnpool|head)\b", name)
    return 1.0 if after_blocks else layer_decay ** (depth + 1)


def schedule(step: int, config: TrainConfig) -> float:
    """Return the factor on the learning rate in step `step`, from 0.

    Linear warm-up, then a half cosine to 0 ("cosine"), a plateau with a linear decay at the end
    ("wsd": warm-up, stable, decay; Hu et al. 2024), a plateau ("constant"), or a decay with the
    inverse square root of the step ("rsqrt"; Vaswani et al. 2017). The last two do not depend on
    the number of steps, so that a run with them can be extended.
    """
    warmup_steps = config.optimizer.warmup_steps
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if config.optimizer.schedule == "cosine":
        after, total = step - warmup_steps, max(1, config.steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * after / total))
    if config.optimizer.schedule == "constant":
        return 1.0
    if config.optimizer.schedule == "rsqrt":
        return math.sqrt(max(1, warmup_steps) / (step + 1))
    decay_steps = max(1, round(config.optimizer.decay_share * config.steps))
    return min(1.0, (config.steps - step) / decay_steps)


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set the learning rate of each group to `factor` times its full learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor


def average_weights(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Update the exponential moving average of a model's weights; counters are copied."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                average[name].lerp_(tensor, 1 - decay)
            else:
                average[name].copy_(tensor)
