"""Which parameter learns how fast: groups, AdamW or Muon, and the schedule."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from twotower.train.config import TrainConfig


def build_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for the matrices inside blocks and AdamW for the rest.

    Decay touches matrices, convolutions and embeddings; biases, norms and the temperature have
    none (as in open_clip). Each group keeps its own full learning rate as `initial_lr`.
    """
    matrices: list[tuple[str, nn.Parameter]] = []
    rest: list[tuple[str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            inside = parameter.ndim == 2 and ".blocks." in name
            (matrices if inside else rest).append((name, parameter))
    if config.optimizer == "adamw":
        return [_adamw([*matrices, *rest], model, config)]
    # Jordan et al. 2024, scaled so that AdamW's learning rate and decay fit (Liu et al. 2025)
    muon = torch.optim.Muon(
        _groups(matrices, model, config),
        lr=config.learning_rate,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    return [muon, _adamw(rest, model, config)]


def _adamw(
    named: list[tuple[str, nn.Parameter]], model: nn.Module, config: TrainConfig
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        _groups(named, model, config),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=config.wrapper != "fsdp",  # one pass over memory in place of a dozen
    )


def _groups(
    named: list[tuple[str, nn.Parameter]], model: nn.Module, config: TrainConfig
) -> list[dict[str, Any]]:
    """One group for each (decay, learning rate)."""
    groups: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in named:
        decay = config.weight_decay if parameter.ndim >= 2 else 0.0
        rate = config.learning_rate * layer_factor(name, model, config.layer_decay)
        groups.setdefault((decay, rate), []).append((name, parameter))
    return [
        {"params": members, "weight_decay": decay, "lr": rate, "initial_lr": rate}
        for (decay, rate), members in groups.items()
    ]


def layer_factor(name: str, model: nn.Module, layer_decay: float) -> float:
    """`layer_decay` to the power of how many blocks lie between a parameter and the output.

    Embeddings and stem lie before all blocks; projections and the temperature, after all.
    """
    tower = name.partition(".")[0]
    if layer_decay == 1.0 or tower not in ("vision", "text"):
        return 1.0
    depth = len(getattr(getattr(model, tower), "blocks", ()))
    block = re.search(r"\.blocks\.(\d+)\.", name)
    if block:
        return layer_decay ** (depth - int(block.group(1)))
    late = re.search(r"\.(proj|pool|ln_post|ln_final|attnpool|head)\b", name)
    return 1.0 if late else layer_decay ** (depth + 1)


def schedule(step: int, config: TrainConfig) -> float:
    """The share of the learning rate that step `step` (from 0) takes.

    Linear warm-up, then a half cosine to 0, or a plateau with a linear way down at the end
    ("wsd": warm-up, stable, decay; Hu et al. 2024).
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    after, total = step - config.warmup_steps, max(1, config.steps - config.warmup_steps)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * after / total))
    way_down = max(1, round(config.decay_share * config.steps))
    return min(1.0, (config.steps - step) / way_down)


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Every group to `factor` of its own full learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
