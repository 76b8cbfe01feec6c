"""The weights of a model directory: `model.safetensors`, beside `config.json`.

Tensors keep their precision. `quantize` converts matrices to int8 with one scale for each output
row, stored as `NAME.int8` and `NAME.scale`: about a quarter of the size of float32.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from twotower.errors import ModelError
from twotower.model.clip import CLIP
from twotower.model.config import CONFIG_FILE, CLIPConfig, read_config

WEIGHTS_FILE = "model.safetensors"
INT8, SCALE = ".int8", ".scale"
MIN_ROW = 32  # values; of shorter rows a scale each would save little


def save_weights(
    config: CLIPConfig, tensors: Mapping[str, Tensor], directory: Path, int8: bool = False
) -> None:
    """Write `config.json` and `model.safetensors`.

    Args:
        tensors: under the names of `CLIP.state_dict()`.
        int8: quantise them.

    Raises:
        ModelError: a tensor is missing, unexpected or of a shape that `config` does not have.
    """
    check_tensors(config, tensors, directory / WEIGHTS_FILE)
    stored = quantize(tensors) if int8 else tensors
    directory.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.detach().contiguous() for name, tensor in stored.items()}
    save_file(contiguous, directory / WEIGHTS_FILE)
    (directory / CONFIG_FILE).write_text(config.to_json() + "\n", encoding="utf-8")


def load_model(directory: Path) -> CLIP:
    """Load the torch model of a directory, in float32 and evaluation mode.

    Raises:
        ModelError: a file is missing or damaged, or its tensors do not fit the configuration.
    """
    config = read_config(directory)
    return build_model(config, dequantize(read_safetensors(directory / WEIGHTS_FILE)), directory)


def build_model(config: CLIPConfig, tensors: Mapping[str, Tensor], source: Path) -> CLIP:
    """Build a model of `config` with `tensors` in float32; `source` is named in errors."""
    check_tensors(config, tensors, source)
    with torch.device("meta"):
        model = CLIP(config)
    floats = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    model.load_state_dict(floats, assign=True)
    return model.eval()


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file.

    Raises:
        ModelError: the file is missing, truncated, or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except FileNotFoundError:
        raise ModelError(
            path, "no such file, so the weights are missing", "copy or download the model again"
        ) from None
    except (SafetensorError, OSError) as error:
        raise ModelError(
            path, f"not a complete safetensors file ({error})", "copy or download it again"
        ) from None


def check_tensors(config: CLIPConfig, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Check that names and shapes are exactly those of the architecture. Raises `ModelError`."""
    expected = expected_shapes(config)
    missing, extra = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing:
        raise mismatch(source, f"lacks {_quote(missing, extra)} of {config.name}")
    if extra:
        raise mismatch(source, f"holds {_quote(extra, ())}, which {config.name} does not have")
    for name, shape in expected.items():
        actual = tuple(tensors[name].shape)
        if actual != shape:
            reason = f"{name} has shape {actual}, but {config.name} needs {tuple(shape)}"
            raise mismatch(source, reason)


def mismatch(source: Path, reason: str) -> ModelError:
    """Return the error for weights that do not fit their configuration."""
    return ModelError(source, reason, "use weights and configuration of the same model")


def expected_shapes(config: CLIPConfig) -> dict[str, torch.Size]:
    """Return name and shape of every tensor of an architecture, in order, without allocating."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in CLIP(config).state_dict().items()}


def quantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert matrices, convolutions and embeddings to int8, with a scale for each row of axis 0.

    The scale is symmetric around zero: value = int8 * scale. Vectors, scalars, positional embeds
    and tensors with short rows, such as depthwise filters, are left unchanged.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = tensor.ndim < 2 or tensor[0].numel() < MIN_ROW
        if short or not tensor.is_floating_point() or name.endswith("pos_embed"):
            stored[name] = tensor
            continue
        rows = tensor.float().flatten(1)
        scale = (rows.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        stored[name + INT8] = (rows / scale[:, None]).round().to(torch.int8).view(tensor.shape)
        stored[name + SCALE] = scale
    return stored


def dequantize(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Invert `quantize`, up to its rounding."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if name.endswith(INT8):
            scale = stored[name.removesuffix(INT8) + SCALE]
            shape = (-1, *[1] * (tensor.ndim - 1))
            tensors[name.removesuffix(INT8)] = tensor.float() * scale.view(shape)
        elif not (name.endswith(SCALE) and name.removesuffix(SCALE) + INT8 in stored):
            tensors[name] = tensor
    return tensors


def _quote(names: Iterable[str], candidates: Iterable[str]) -> str:
    """Quote the least of `names`, with the most similar candidate and the number of the others."""
    ordered = sorted(names)
    close = difflib.get_close_matches(ordered[0], candidates, 1)
    more = f" (and {len(ordered) - 1} more)" if len(ordered) > 1 else ""
    similar = f" (found instead: {close[0]!r})" if close else ""
    return f"{ordered[0]!r}{similar}{more}"
