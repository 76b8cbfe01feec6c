"""The weights of a model directory: `model.safetensors`, beside `config.json`.

Tensors keep their precision. `quantize` converts matrices to int8 with one scale for each output
row, stored as `NAME.int8` and `NAME.scale`: about a quarter of the size of float32. Linear layers
can also be stored in 4 bits, with a scale for each 32 values of a row (`GroupedWeight`), as
`NAME.int4` and `NAME.scale`: about a seventh.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from twotower.errors import ModelError
from twotower.model.clip import CLIP
from twotower.model.config import CONFIG_FILE, CLIPConfig, read_config

WEIGHTS_FILE = "model.safetensors"
TEXT_PREFIX = "text."  # of the tensors of the text tower
INT8, INT4, SCALE = ".int8", ".int4", ".scale"
MIN_ROW = 32  # values; of shorter rows a scale each would save little
GROUP = 32  # values in 4 bits that share a scale
INT4_LEVELS = (-8, 7)


def save_weights(
    config: CLIPConfig, tensors: Mapping[str, Tensor], directory: Path, int8: bool = False
) -> None:
    """Write `config.json` and `model.safetensors`, without a text tower in another folder.

    Args:
        tensors: under the names of `CLIP.state_dict()`, or quantised.
        int8: quantise those that are not.

    Raises:
        ModelError: a tensor is missing, unexpected or of a shape that `config` does not have.
    """
    check_tensors(config, dequantize(tensors), directory / WEIGHTS_FILE)
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if config.text_folder is None or not name.startswith(TEXT_PREFIX)
    }
    directory.mkdir(parents=True, exist_ok=True)
    save_tensors(quantize(kept) if int8 else kept, directory / WEIGHTS_FILE)
    (directory / CONFIG_FILE).write_text(config.to_json() + "\n", encoding="utf-8")


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to a safetensors file."""
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def load_model(directory: Path) -> CLIP:
    """Load the torch model of a directory, in float32 and evaluation mode.

    Its configuration names no other folder, since it has both towers.

    Raises:
        ModelError: a file is missing or damaged, or its tensors do not fit the configuration.
    """
    config = read_config(directory)
    tensors = dequantize(read_stored(config, directory))
    return build_model(replace(config, text_folder=None), tensors, directory)


def read_stored(config: CLIPConfig, directory: Path) -> dict[str, Tensor]:
    """Read the tensors of both towers as they are stored (`dequantize`).

    Raises:
        ModelError: a file is missing or damaged.
    """
    tensors = read_safetensors(directory / WEIGHTS_FILE)
    if config.text_folder is not None:
        shared = read_safetensors(config.text_directory(directory) / WEIGHTS_FILE)
        tensors |= {name: shared[name] for name in shared if name.startswith(TEXT_PREFIX)}
    return tensors


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


@dataclass(frozen=True)
class GroupedWeight:
    """The weight of a linear layer in 4 bits: value = level * scale of its group.

    Attributes:
        levels: int8 [out, in], from -8 to 7.
        scale: float16 [out, in / GROUP], of either sign.
    """

    levels: Tensor
    scale: Tensor

    def values(self) -> Tensor:
        """Return the weight in float32 [out, in]."""
        groups = self.levels.float().unflatten(1, (-1, GROUP))
        return (groups * self.scale.float()[:, :, None]).flatten(1)

    def stored(self, name: str) -> dict[str, Tensor]:
        """Return the tensors that a file has for the parameter `name`.

        The levels plus 8 are uint8 [out, in / GROUP, GROUP / 2], the earlier of two values in the
        lower bits; onnxruntime's MatMulNBits reads them in place.
        """
        pairs = (self.levels + 8).to(torch.uint8).unflatten(1, (-1, GROUP // 2, 2))
        packed = pairs[..., 0] | pairs[..., 1] << 4
        return {name + INT4: packed, name + SCALE: self.scale}

    @classmethod
    def from_stored(cls, packed: Tensor, scale: Tensor) -> GroupedWeight:
        """Invert `stored`."""
        pairs = torch.stack([packed & 15, packed >> 4], dim=-1)
        return cls(pairs.to(torch.int8).flatten(1) - 8, scale)


def quantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert matrices, convolutions and embeddings to int8, with a scale for each row of axis 0.

    The scale is symmetric around zero: value = int8 * scale. Vectors, scalars, positional embeds
    and tensors with short rows, such as depthwise filters, are left unchanged, and so are tensors
    that are stored in int8 or 4 bits already.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = tensor.ndim < 2 or tensor[0].numel() < MIN_ROW
        kept = name.endswith(("pos_embed", SCALE)) or not tensor.is_floating_point()
        stored |= {name: tensor} if short or kept else _quantize_rows(name, tensor)
    return stored


def _quantize_rows(name: str, tensor: Tensor) -> dict[str, Tensor]:
    rows = tensor.float().flatten(1)
    scale = (rows.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    levels = (rows / scale[:, None]).round().to(torch.int8)
    return {name + INT8: levels.view(tensor.shape), name + SCALE: scale}


def dequantize(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Invert `quantize`, up to its rounding, and expand weights in 4 bits."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        stem, _, kind = name.rpartition(".")
        if f".{kind}" == INT8:
            shape = (-1, *[1] * (tensor.ndim - 1))
            tensors[stem] = tensor.float() * stored[stem + SCALE].view(shape)
        elif f".{kind}" == INT4:
            tensors[stem] = GroupedWeight.from_stored(tensor, stored[stem + SCALE]).values()
        elif f".{kind}" != SCALE or not (stem + INT8 in stored or stem + INT4 in stored):
            tensors[name] = tensor
    return tensors


def keep_unchanged(
    stored: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return `tensors`, those that are equal to `stored` in their stored precision."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        forms = {
            key: stored[key] for kind in ("", INT8, INT4, SCALE) if (key := name + kind) in stored
        }
        unchanged = forms and torch.equal(dequantize(forms)[name].float(), tensor.float())
        kept |= forms if unchanged else {name: tensor}
    return kept


def _quote(names: Iterable[str], candidates: Iterable[str]) -> str:
    """Quote the least of `names`, with the most similar candidate and the number of the others."""
    ordered = sorted(names)
    close = difflib.get_close_matches(ordered[0], candidates, 1)
    more = f" (and {len(ordered) - 1} more)" if len(ordered) > 1 else ""
    similar = f" (found instead: {close[0]!r})" if close else ""
    return f"{ordered[0]!r}{similar}{more}"
