"""The files of weights, as numpy arrays: `model.safetensors`, beside `config.json`. No torch.

Tensors keep their precision. `quantize` converts matrices to int8 with one scale for each output
row, stored as `NAME.int8` and `NAME.scale`: about a quarter of the size of float32. Linear layers
can also be stored in 4 bits, with a scale for each 32 values of a row, as `NAME.int4` and
`NAME.scale`: about a seventh.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from twotower.errors import ModelError
from twotower.model.config import CONFIG_FILE, CLIPConfig
from twotower.model.graph import Shape
from twotower.model.graphs import has_graphs, weight_shapes

Arrays: TypeAlias = dict[str, NDArray[Any]]
Tensors: TypeAlias = Mapping[str, Any]  # numpy arrays or torch tensors

WEIGHTS_FILE = "model.safetensors"
TEXT_PREFIX = "text."  # of the tensors of the text tower
INT8, INT4, SCALE = ".int8", ".int4", ".scale"
MIN_ROW = 32  # values; of shorter rows a scale each would save little
GROUP = 32  # values in 4 bits that share a scale


def as_arrays(tensors: Tensors) -> Arrays:
    """Return tensors of torch as arrays that share their memory, and arrays as they are."""
    return {
        name: tensor if isinstance(tensor, np.ndarray) else tensor.detach().cpu().numpy()
        for name, tensor in tensors.items()
    }


def save_weights(config: CLIPConfig, tensors: Tensors, directory: Path, int8: bool = False) -> None:
    """Write `config.json` and `model.safetensors`, without a text tower in another folder.

    Args:
        tensors: under the names of `CLIP.state_dict()`, or quantised.
        int8: quantise those that are not.

    Raises:
        ModelError: a tensor is missing, unexpected or of a shape that `config` does not have.
    """
    arrays = as_arrays(tensors)
    check_shapes(config, dequantize(arrays), directory / WEIGHTS_FILE)
    kept = {
        name: array
        for name, array in arrays.items()
        if config.text_folder is None or not name.startswith(TEXT_PREFIX)
    }
    directory.mkdir(parents=True, exist_ok=True)
    save_arrays(quantize(kept) if int8 else kept, directory / WEIGHTS_FILE)
    (directory / CONFIG_FILE).write_text(config.to_json() + "\n", encoding="utf-8")


def save_arrays(
    arrays: Mapping[str, NDArray[Any]], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write arrays to a safetensors file."""
    in_order = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    save_file(in_order, path, metadata)


def read_stored(config: CLIPConfig, directory: Path) -> Arrays:
    """Read the tensors of both towers as they are stored (`dequantize`).

    Raises:
        ModelError: a file is missing or damaged.
    """
    arrays = read_arrays(directory / WEIGHTS_FILE)
    if config.text_folder is not None:
        shared = read_arrays(config.text_directory(directory) / WEIGHTS_FILE)
        arrays |= {name: shared[name] for name in shared if name.startswith(TEXT_PREFIX)}
    return arrays


def read_arrays(path: Path) -> Arrays:
    """Read all tensors of a safetensors file; bfloat16 as float32, which is exact.

    Raises:
        ModelError: the file is missing, truncated, or not a safetensors file.
    """
    try:
        with safe_open(path, framework="np") as file:
            headers = stored_tensors(path)
            return {
                name: _read_bfloat16(path, header)
                if header.dtype == "BF16"
                else file.get_tensor(name)
                for name, header in headers.items()
            }
    except FileNotFoundError:
        raise ModelError(
            path, "no such file, so the weights are missing", "copy or download the model again"
        ) from None
    except (SafetensorError, OSError) as error:
        raise ModelError(
            path, f"not a complete safetensors file ({error})", "copy or download it again"
        ) from None
    except (TypeError, AttributeError, KeyError) as error:
        raise ModelError(
            path, f"has a type of numbers that numpy lacks ({error})", "save it as float32"
        ) from None


class StoredTensor(NamedTuple):
    """A tensor of a safetensors file: its type, shape, and location in bytes."""

    dtype: str
    shape: list[int]
    offset: int
    length: int


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Read the header of a safetensors file."""
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_size))
    start = 8 + header_size
    return {
        name: StoredTensor(entry["dtype"], entry["shape"], start + begin, end - begin)
        for name, entry in header.items()
        if name != "__metadata__"
        for begin, end in [entry["data_offsets"]]
    }


def _read_bfloat16(path: Path, stored: StoredTensor) -> NDArray[np.float32]:
    count = stored.length // 2
    halves = np.fromfile(path, "<u2", count, offset=stored.offset).astype(np.uint32)
    return (halves << 16).view(np.float32).reshape(stored.shape)


def check_shapes(config: CLIPConfig, tensors: Tensors, source: Path) -> None:
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
            reason = f"{name} has shape {actual}, but {config.name} needs {shape}"
            raise mismatch(source, reason)


def mismatch(source: Path, reason: str) -> ModelError:
    """Return the error for weights that do not fit their configuration."""
    return ModelError(source, reason, "use weights and configuration of the same model")


def expected_shapes(config: CLIPConfig) -> dict[str, Shape]:
    """Return name and shape of every tensor of an architecture, without allocating.

    torch describes the towers that have no graph in `graphs.py`.
    """
    if has_graphs(config):
        return weight_shapes(config)
    import torch

    from twotower.model.clip import CLIP

    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in CLIP(config).state_dict().items()}


def quantize(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Convert matrices, convolutions and embeddings to int8, with a scale for each row of axis 0.

    The scale is symmetric around zero: value = int8 * scale. Vectors, scalars, positional embeds
    and tensors with short rows, such as depthwise filters, are left unchanged, and so are tensors
    that are stored in int8 or 4 bits already.
    """
    stored: Arrays = {}
    for name, array in arrays.items():
        short = array.ndim < 2 or array[0].size < MIN_ROW
        kept = name.endswith(("pos_embed", SCALE)) or not np.issubdtype(array.dtype, np.floating)
        stored |= {name: array} if short or kept else _quantize_rows(name, array)
    return stored


def _quantize_rows(name: str, array: NDArray[Any]) -> Arrays:
    rows = array.astype(np.float32).reshape(len(array), -1)
    scale = np.maximum(np.abs(rows).max(axis=1) / np.float32(127), np.finfo(np.float32).tiny)
    levels = np.rint(rows / scale[:, None]).astype(np.int8)
    return {name + INT8: levels.reshape(array.shape), name + SCALE: scale}


def dequantize(stored: Mapping[str, NDArray[Any]]) -> Arrays:
    """Invert `quantize`, up to its rounding, and expand weights in 4 bits."""
    arrays: Arrays = {}
    for name, array in stored.items():
        stem, _, kind = name.rpartition(".")
        if f".{kind}" == INT8:
            scale = stored[stem + SCALE].reshape(-1, *[1] * (array.ndim - 1))
            arrays[stem] = array.astype(np.float32) * scale
        elif f".{kind}" == INT4:
            arrays[stem] = expand_groups(unpack_levels(array), stored[stem + SCALE])
        elif f".{kind}" != SCALE or not (stem + INT8 in stored or stem + INT4 in stored):
            arrays[name] = array
    return arrays


def pack_levels(levels: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack levels [out, in] from -8 to 7 into uint8 [out, in / GROUP, GROUP / 2].

    The earlier of two values is in the lower bits; onnxruntime's MatMulNBits reads them in place.
    """
    pairs = (levels + 8).astype(np.uint8).reshape(len(levels), -1, GROUP // 2, 2)
    return np.asarray(pairs[..., 0] | pairs[..., 1] << 4, np.uint8)


def unpack_levels(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Invert `pack_levels`."""
    pairs = np.stack([packed & 15, packed >> 4], axis=-1)
    return pairs.astype(np.int8).reshape(len(packed), -1) - np.int8(8)


def expand_groups(levels: NDArray[np.int8], scale: NDArray[Any]) -> NDArray[np.float32]:
    """Multiply levels [out, in] by the scale [out, in / GROUP] of their group -> float32."""
    groups = levels.astype(np.float32).reshape(*scale.shape, GROUP)
    return (groups * scale.astype(np.float32)[:, :, None]).reshape(levels.shape)


def _quote(names: Iterable[str], candidates: Iterable[str]) -> str:
    """Quote the least of `names`, with the most similar candidate and the number of the others."""
    ordered = sorted(names)
    close = difflib.get_close_matches(ordered[0], candidates, 1)
    more = f" (and {len(ordered) - 1} more)" if len(ordered) > 1 else ""
    similar = f" (found instead: {close[0]!r})" if close else ""
    return f"{ordered[0]!r}{similar}{more}"
