"""Estimate memory and compute before a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from twotower.model.clip import CLIP
from twotower.train.accumulate import Towers, saved_bytes
from twotower.train.config import TrainConfig
from twotower.train.loop import prepare_model


def describe(config: TrainConfig) -> Iterator[str]:
    """The configuration, parameter counts, memory and arithmetic of a step."""
    yield config.to_json()
    with torch.device("meta"):  # shapes without numbers
        model = prepare_model(replace(config, start_from=None))
    counts = {
        name: sum(one.numel() for one in getattr(model, name).parameters())
        for name in ("vision", "text")
    }
    learning = sum(one.numel() for one in model.parameters() if one.requires_grad)
    yield f"parameters  {counts['vision']:,} vision, {counts['text']:,} text; {learning:,} learn"
    fixed = 4 * 4 * learning + 4 * (sum(counts.values()) - learning)
    yield f"memory      {fixed / 1e9:.2f} GB for weights, gradients and moments"
    pair = activation_bytes(model, config)
    if config.memory:
        yield f"            the rest of {config.memory / 1e9:.1f} GB for {pair / 1e6:.0f} MB a pair"
    else:
        size = config.chunk_size or config.batch_size
        yield (
            f"            {size * pair / 1e9:.2f} GB for activations of {size:,} pairs "
            f"({pair / 1e6:.0f} MB each), shared by the ranks; less with --memory"
        )
    flops = 3 * forward_flops(model) * config.batch_size
    yield f"arithmetic  {flops / 1e12:.2f} TFLOP a step (texts at full length)"
    total = flops * config.steps
    yield f"in all      {config.steps:,} steps, {total / 1e18:.3g} EFLOP"


def activation_bytes(model: CLIP, config: TrainConfig) -> int:
    """What the graph of one more pair of full length keeps for backward; `model` is on "meta"."""
    side, length = config.model.vision.image_size, config.model.tokenizer.context_length
    with torch.device("meta"):
        pixel_values = torch.empty(2, 3, side, side)
        input_ids = torch.ones(2, length, dtype=torch.long)
    one, two = (
        saved_bytes(Towers(model), pixel_values[:count], input_ids[:count]) for count in (1, 2)
    )
    return two - one


def forward_flops(model: CLIP) -> int:
    """Floating-point operations of one pair through both towers; `model` is on "meta"."""
    config = model.config
    side, length = config.vision.image_size, config.tokenizer.context_length
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        model.vision(torch.empty(1, 3, side, side))
        model.text(torch.ones(1, length, dtype=torch.long))
    return counter.get_total_flops()
