"""Memory and compute of a run: the plan before it starts, and the chunk size that fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from twotower.model.clip import CLIP
from twotower.model.config import CLIPConfig, read_config
from twotower.train.adapt import adapt_model
from twotower.train.batch_norm import require_whole_batch
from twotower.train.config import TrainConfig
from twotower.train.distributed import world_size
from twotower.train.towers import Towers, prepare_model

PROBE_PAIRS = 3  # the graphs of two and of three are measured: a batch norm needs two
PIXEL_BYTES = 5  # of a pixel value, which is a byte and a float32
LIBRARY_BYTES = 600 * 2**20  # resident before the first step, measured on Linux
# bytes that a chunk needs for a byte that its graph keeps: temporary tensors of the backward pass
# and fragmentation, measured by the difference between chunks of 30 and of 60 pairs on a CPU
GRAPH_FACTOR = 2


def describe(config: TrainConfig) -> Iterator[str]:
    """Yield the configuration, parameter counts, memory and arithmetic of a step as lines.

    Raises:
        TrainError: the run would refuse to divide a batch with batch norms, or the weights that
            it starts from do not fit the model.
    """
    meta = torch.device("meta")
    with meta:  # shapes without numbers
        model = prepare_model(replace(config, start_from=None))
        if config.start_from:
            adapt_model(CLIP(read_config(Path(config.start_from))), config.model)
    choose_chunk_size(config, Towers(model), meta)
    yield config.to_json()
    counts = {
        name: sum(weight.numel() for weight in getattr(model, name).parameters())
        for name in ("vision", "text")
    }
    learning = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    yield f"parameters  {counts['vision']:,} vision, {counts['text']:,} text; {learning:,} learn"
    fixed = 4 * 4 * learning + 4 * (sum(counts.values()) - learning)
    yield f"memory      {fixed / 1e9:.2f} GB for weights, gradients and moments"
    pair = activation_bytes(model, config)
    yield _describe_activations(pair, config)
    flops = 3 * forward_flops(model) * config.data.batch_size
    yield f"arithmetic  {flops / 1e12:.2f} TFLOP a step (texts at full length)"
    total = flops * config.steps
    yield f"in all      {config.steps:,} steps, {total / 1e18:.3g} EFLOP"


def _describe_activations(pair: int, config: TrainConfig) -> str:
    pair *= GRAPH_FACTOR
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
    pixel_values, input_ids = probe_pairs(config.model, torch.device("meta"))
    return _bytes_of_graphs(Towers(model), pixel_values, input_ids)[1]


def probe_pairs(config: CLIPConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return blank pictures and texts of full length, as many as a measurement needs."""
    side, length = config.vision.image_size, config.tokenizer.max_length
    pixel_values = torch.zeros(PROBE_PAIRS, 3, side, side, device=device)
    input_ids = torch.ones(PROBE_PAIRS, length, dtype=torch.long, device=device)
    input_ids[:, -1] = getattr(config.text, "eos_id", None) or 1
    return pixel_values, input_ids


def forward_flops(model: CLIP) -> int:
    """Return the floating-point operations of one pair in both towers; `model` is on "meta"."""
    pixel_values, input_ids = probe_pairs(model.config, torch.device("meta"))
    with FlopCounterMode(display=False) as counter:
        model.embed(pixel_values, input_ids)
    return int(counter.get_total_flops()) // PROBE_PAIRS


def choose_chunk_size(config: TrainConfig, towers: nn.Module, device: torch.device) -> int:
    """Return the configured chunk size, or the largest that fits `memory.limit`.

    It is measured on a few pairs of full length, so that it does not depend on the first batch.

    Raises:
        TrainError: a batch with batch norms would be divided.
    """
    local = config.data.batch_size // world_size()
    size = config.memory.chunk_size or config.data.batch_size
    if config.memory.limit:
        spare = config.memory.limit - unavailable_bytes(config, device)
        size = largest_chunk(towers, *probe_pairs(config.model, device), spare)
    require_whole_batch(towers, size, local)
    return size


def unavailable_bytes(config: TrainConfig, device: torch.device) -> int:
    """Return the memory of the pictures of a batch and, on a CPU, of the libraries."""
    local = config.data.batch_size // world_size()
    pixels = 3 * config.model.vision.image_size**2 * local
    return PIXEL_BYTES * pixels + (0 if device.type == "cuda" else LIBRARY_BYTES)


def largest_chunk(towers: nn.Module, pixel_values: Tensor, input_ids: Tensor, limit: int) -> int:
    """Return the pairs that fit beside weights, gradients and AdamW's two moments.

    Args:
        pixel_values: `PROBE_PAIRS` pictures or more, of the size of the training.
        input_ids: their texts.
        limit: bytes.

    Returns:
        At least 1, even if not one pair fits.
    """
    fixed = 4 * sum(weight.nbytes for weight in towers.parameters())
    constant, pair = _bytes_of_graphs(towers, pixel_values, input_ids)
    spare = limit - fixed - GRAPH_FACTOR * constant
    return max(1, int(spare // max(1, GRAPH_FACTOR * pair)))


def _bytes_of_graphs(towers: nn.Module, pixel_values: Tensor, input_ids: Tensor) -> tuple[int, int]:
    """Return the bytes of a graph that do not depend on its pairs, and those of one pair."""
    fewer, more = (
        saved_bytes(towers, pixel_values[:count], input_ids[:count])
        for count in (PROBE_PAIRS - 1, PROBE_PAIRS)
    )
    pair = more - fewer
    return fewer - (PROBE_PAIRS - 1) * pair, pair


def saved_bytes(towers: nn.Module, pixel_values: Tensor, input_ids: Tensor) -> int:
    """Return the bytes that the graph of these pairs keeps for backward, without weights."""
    weights = {_storage_id(weight) for weight in towers.parameters()}
    # tensors are held until the end, or the id of a freed storage is used again
    saved: dict[int, tuple[int, Tensor]] = {}

    def count(tensor: Tensor) -> Tensor:
        if _storage_id(tensor) not in weights:
            saved[_storage_id(tensor)] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    statistics = {name: buffer.clone() for name, buffer in towers.named_buffers()}
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        outputs = towers(pixel_values, input_ids)
    del outputs
    for name, buffer in towers.named_buffers():  # batch norms have counted the pairs
        buffer.copy_(statistics[name])
    return sum(size for size, _ in saved.values())


def _storage_id(tensor: Tensor) -> int:
    """Return the identity of a storage, on "meta" too, where all have address 0."""
    return int(tensor.untyped_storage()._cdata)
