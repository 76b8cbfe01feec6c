"""Our own model directory: `config.json`, `model.safetensors`, and a vocabulary where needed.

Tensors keep the precision they came in; `quantize` turns matrices into int8 with one scale per
output row, stored as `NAME.int8` and `NAME.scale`, about a quarter of the size of float32.
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
SHORT_ROW = 32  # values


def save_weights(
    config: CLIPConfig, tensors: Mapping[str, Tensor], directory: Path, int8: bool = False
) -> None:
    """Write `config.json` and `model.safetensors`; `tensors` are named as `CLIP.state_dict()`.

    Raises:
        WeightsFileError: a tensor is missing, extra or of another shape than `config` says.
    """
    check_tensors(config, tensors, directory / WEIGHTS_FILE)
    stored = quantize(tensors) if int8 else tensors
    directory.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.detach().contiguous() for name, tensor in stored.items()}
    save_file(contiguous, directory / WEIGHTS_FILE)
    (directory / CONFIG_FILE).write_text(config.to_json() + "\n", encoding="utf-8")


def load_model(directory: Path) -> CLIP:
    """The torch model of a directory, in float32 and evaluation mode.

    Raises:
        WeightsFileError: a file is missing, truncated or foreign, or its tensors do not fit.
    """
    config = read_config(directory)
    return build_model(config, dequantize(read_safetensors(directory / WEIGHTS_FILE)), directory)


def build_model(config: CLIPConfig, tensors: Mapping[str, Tensor], source: Path) -> CLIP:
    """A model of `config` with `tensors` in float32; `source` is named in errors."""
    check_tensors(config, tensors, source)
    with torch.device("meta"):
        model = CLIP(config)
    floats = {
        name: one.float() if one.is_floating_point() else one for name, one in tensors.items()
    }
    model.load_state_dict(floats, assign=True)
    return model.eval()


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file.

    Raises:
        WeightsFileError: missing, truncated, or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; the weights are missing") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: not a complete safetensors file ({error}); copy or download it again"
        ) from None


def check_tensors(config: CLIPConfig, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Names and shapes must be exactly those of the architecture."""
    expected = expected_shapes(config)
    missing, extra = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing:
        raise ModelError(f"{source}: lacks {_name_some(missing, extra)} of {config.name}")
    if extra:
        raise ModelError(
            f"{source}: holds {_name_some(extra, ())}, which {config.name} does not have"
        )
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ModelError(
                f"{source}: {name} has shape {tuple(tensors[name].shape)}, but {config.name} "
                f"needs {tuple(shape)}; the weights and the configuration do not belong together"
            )


def expected_shapes(config: CLIPConfig) -> dict[str, torch.Size]:
    """Name and shape of every tensor of an architecture, in order, without allocating any."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in CLIP(config).state_dict().items()}


def quantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices, convolutions and embeddings to int8, one scale for each row of the first axis.

    Symmetric around zero, so that value = int8 * scale. What is small stays as it is: vectors,
    scalars, and rows so short (depthwise filters) that a scale each would save little.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = tensor.ndim < 2 or tensor[0].numel() < SHORT_ROW
        if short or not tensor.is_floating_point() or name.endswith("pos_embed"):
            stored[name] = tensor
            continue
        rows = tensor.float().flatten(1)
        scale = (rows.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        stored[name + INT8] = (rows / scale[:, None]).round().to(torch.int8).view(tensor.shape)
        stored[name + SCALE] = scale
    return stored


def dequantize(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `quantize` up to its rounding; float tensors pass through."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if name.endswith(INT8):
            scale = stored[name.removesuffix(INT8) + SCALE]
            shape = (-1, *[1] * (tensor.ndim - 1))
            tensors[name.removesuffix(INT8)] = tensor.float() * scale.view(shape)
        elif not (name.endswith(SCALE) and name.removesuffix(SCALE) + INT8 in stored):
            tensors[name] = tensor
    return tensors


def _name_some(names: Iterable[str], others: Iterable[str]) -> str:
    """'"a" (and 3 more)', with a near name among `others` if there is one."""
    ordered = sorted(names)
    close = difflib.get_close_matches(ordered[0], others, 1)
    more = f" (and {len(ordered) - 1} more)" if len(ordered) > 1 else ""
    near = f" (found instead: {close[0]!r})" if close else ""
    return f"{ordered[0]!r}{near}{more}"
