"""Memory and compute of a run: the plan before it starts, and the chunk size that fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from twotower.model.clip import CLIP
from twotower.train.config import TrainConfig
from twotower.train.towers import Towers, prepare_model


def describe(config: TrainConfig) -> Iterator[str]:
    """Yield the configuration, parameter counts, memory and arithmetic of a step as lines."""
    yield config.to_json()
    with torch.device("meta"):  # shapes without numbers
        model = prepare_model(replace(config, start_from=None))
    counts = {
        name: sum(weight.numel() for weight in getattr(model, name).parameters())
        for name in ("vision", "text")
    }
    learning = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    yield f"parameters  {counts['vision']:,} vision, {counts['text']:,} text; {learning:,} learn"
    fixed = 4 * 4 * learning + 4 * (sum(counts.values()) - learning)
    yield f"memory      {fixed / 1e9:.2f} GB for weights, gradients and moments"
    yield _describe_activations(activation_bytes(model, config), config)
    flops = 3 * forward_flops(model) * config.data.batch_size
    yield f"arithmetic  {flops / 1e12:.2f} TFLOP a step (texts at full length)"
    total = flops * config.steps
    yield f"in all      {config.steps:,} steps, {total / 1e18:.3g} EFLOP"


def _describe_activations(pair: int, config: TrainConfig) -> str:
    limit = config.memory.limit
    if limit:
        return f"            the rest of {limit / 1e9:.1f} GB for {pair / 1e6:.0f} MB a pair"
    size = config.memory.chunk_size or config.data.batch_size
    return (
        f"            {size * pair / 1e9:.2f} GB for activations of {size:,} pairs "
        f"({pair / 1e6:.0f} MB each), shared by the ranks; less with --memory"
    )


def activation_bytes(model: CLIP, config: TrainConfig) -> int:
    """Return the bytes that the graph of one more pair keeps; `model` is on "meta".

    The text has full length.
    """
    side, length = config.model.vision.image_size, config.model.tokenizer.context_length
    with torch.device("meta"):
        pixel_values = torch.empty(2, 3, side, side)
        input_ids = torch.ones(2, length, dtype=torch.long)
    towers = Towers(model)
    single, double = (
        saved_bytes(towers, pixel_values[:count], input_ids[:count]) for count in (1, 2)
    )
    return double - single


def forward_flops(model: CLIP) -> int:
    """Return the floating-point operations of one pair in both towers; `model` is on "meta"."""
    config = model.config
    side, length = config.vision.image_size, config.tokenizer.context_length
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        model.vision(torch.empty(1, 3, side, side))
        model.text(torch.ones(1, length, dtype=torch.long))
    return counter.get_total_flops()


def choose_chunk_size(config: TrainConfig, towers: nn.Module, device: torch.device) -> int:
    """Return the configured chunk size, or the largest that fits `memory.limit`.

    It is measured on two pairs of full length, so that it does not depend on the first batch.
    """
    limit = config.memory.limit
    if not limit:
        return config.memory.chunk_size or config.data.batch_size
    side, length = config.model.vision.image_size, config.model.text.context_length
    pixel_values = torch.zeros(2, 3, side, side, device=device)
    input_ids = torch.ones(2, length, dtype=torch.long, device=device)
    input_ids[:, -1] = getattr(config.model.text, "eos_id", None) or 1
    return largest_chunk(towers, pixel_values, input_ids, limit)


def largest_chunk(towers: nn.Module, pixel_values: Tensor, input_ids: Tensor, limit: int) -> int:
    """Return the pairs that fit beside weights, gradients and AdamW's two moments.

    Args:
        pixel_values: two pictures or more, of the size of the training.
        input_ids: their texts.
        limit: bytes.

    Returns:
        At least 1, even if not one pair fits.
    """
    fixed = 4 * sum(weight.nbytes for weight in towers.parameters())
    single, double = (
        saved_bytes(towers, pixel_values[:count], input_ids[:count]) for count in (1, 2)
    )
    spare = limit - fixed - (2 * single - double)
    return max(1, int(spare // max(1, double - single)))


def saved_bytes(towers: nn.Module, pixel_values: Tensor, input_ids: Tensor) -> int:
    """Return the bytes that the graph of these pairs keeps for backward, without weights."""
    weights = {_storage_id(weight) for weight in towers.parameters()}
    # tensors are held until the end, or the id of a freed storage is used again
    saved: dict[int, tuple[int, Tensor]] = {}

    def count(tensor: Tensor) -> Tensor:
        if _storage_id(tensor) not in weights:
            saved[_storage_id(tensor)] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        outputs = towers(pixel_values, input_ids)
    del outputs
    return sum(size for size, _ in saved.values())


def _storage_id(tensor: Tensor) -> int:
    """Return the identity of a storage, on "meta" too, where all have address 0."""
    return int(tensor.untyped_storage()._cdata)
