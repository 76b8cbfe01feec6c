"""Weights to ONNX, and models from one form to another; every result is checked before it exists.

The graphs hold no weights: their tensors point into `model.safetensors` (ONNX external data), so
one file of weights serves torch, onnxruntime and OpenVINO alike.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from twotower.encode.encoder import Encoder
from twotower.encode.golden import (
    GOLDEN_COSINE,
    GOLDEN_TEXTS,
    Golden,
    golden_pictures,
    write_golden,
)
from twotower.errors import VerificationError
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.config import CLIPConfig, read_config

if TYPE_CHECKING:  # torch and onnx are imported where they are used: reading this file is cheap
    import torch

    from twotower.model.clip import CLIP
from twotower.encode.onnx import export_onnx
from twotower.errors import ModelError

Format = Literal["twotower", "transformers", "open_clip"]
FORMATS: tuple[Format, ...] = ("twotower", "transformers", "open_clip")


def convert(source: Path, destination: Path, to: Format = "twotower") -> None:
    """Read a model from any form and write it to `destination` in the form `to`.

    Args:
        source: our directory, a transformers or open_clip directory, or an OpenAI archive.

    Raises:
        ExportError: `destination` exists, or the form cannot hold this model.
        VerificationError: what was written does not give the source's vectors; it is removed.
    """
    config, tensors, files = read_any(source)
    if to == "twotower":
        write_directory(config, tensors, files, destination)
    else:
        write_foreign(config, tensors, files, destination, to)


def read_any(source: Path) -> tuple[CLIPConfig, dict[str, torch.Tensor], tuple[Path, ...]]:
    """Configuration, tensors in our names, and vocabulary files of a model in any form."""
    from twotower.model.foreign import read_foreign
    from twotower.model.weights import WEIGHTS_FILE, dequantize, read_safetensors

    if not is_model_directory(source):
        foreign = read_foreign(source)
        return foreign.config, foreign.tensors, foreign.files
    config = read_config(source)
    files = (source / config.tokenizer.file,) if config.tokenizer.file else ()
    return config, dequantize(read_safetensors(source / WEIGHTS_FILE)), files


def is_model_directory(source: Path) -> bool:
    """Whether a path is a directory that `write_directory` made (and not transformers' own)."""
    try:
        tree = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(tree, dict) and "embed_dim" in tree


def write_directory(
    config: CLIPConfig,
    tensors: Mapping[str, torch.Tensor],
    files: Sequence[Path],
    destination: Path,
    int8: bool = False,
) -> None:
    """Write our model directory: config, weights, vocabulary, golden vectors and ONNX graphs.

    Raises:
        VerificationError: onnxruntime does not reproduce the torch model's vectors.
    """
    from twotower.model.weights import load_model, save_weights

    with new_directory(destination) as directory:
        save_weights(config, tensors, directory, int8)
        for file in files:
            shutil.copyfile(file, directory / file.name)
        model = load_model(directory)
        write_golden(make_golden(model, directory), directory)
        export_onnx(model, directory)
        Encoder(directory).verify()


def write_foreign(
    config: CLIPConfig,
    tensors: Mapping[str, torch.Tensor],
    files: Sequence[Path],
    destination: Path,
    to: Format,
) -> None:
    """Write a transformers or open_clip directory and read it back to compare its vectors."""
    from twotower.model.foreign import read_foreign, write_open_clip, write_transformers
    from twotower.model.weights import build_model

    write: Callable[..., None] = {
        "transformers": write_transformers,
        "open_clip": write_open_clip,
    }[to]
    with new_directory(destination) as directory:
        for file in files:
            shutil.copyfile(file, directory / file.name)
        write(config, tensors, directory)
        again = read_foreign(directory)
        inputs = _golden_inputs(config, directory)
        before = _embeds(build_model(config, tensors, destination), *inputs)
        after = _embeds(build_model(again.config, again.tensors, destination), *inputs)
        for what, ours, theirs in zip(("picture", "text"), before, after, strict=True):
            cosine = float((ours * theirs).sum(axis=1).min())
            if not cosine >= GOLDEN_COSINE:
                raise VerificationError(
                    f"{destination}: as {to} a golden {what} comes out at cosine {cosine:.6f}, "
                    f"not {GOLDEN_COSINE} or more; nothing was written"
                )
        _warn_of_other_inputs(config, again.config, to)


def _warn_of_other_inputs(config: CLIPConfig, written: CLIPConfig, to: Format) -> None:
    """Say what the other side does to pictures and texts that this model was not given."""
    ours = asdict(config.preprocess) | {"cleaning": config.tokenizer.cleaning}
    theirs = asdict(written.preprocess) | {"cleaning": written.tokenizer.cleaning}
    changes = [f"{key} {ours[key]} -> {theirs[key]}" for key in ours if ours[key] != theirs[key]]
    if changes:
        warnings.warn(
            f"{config.name}: the weights are the same, but {to} prepares pictures and texts its "
            f"own way: {', '.join(changes)}",
            stacklevel=2,
        )


def make_golden(model: CLIP, directory: Path) -> Golden:
    """What the torch model itself answers to the golden pictures and texts."""
    image_embeds, text_embeds = _embeds(model, *_golden_inputs(model.config, directory))
    return Golden(golden_pictures(), list(GOLDEN_TEXTS), image_embeds, text_embeds)


def _golden_inputs(
    config: CLIPConfig, directory: Path
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """pixel_values [n, 3, S, S] and input_ids [t, context_length], padded in full."""
    preprocess = Preprocess(config.preprocess)
    pixel_values = np.stack([preprocess(picture) for picture in golden_pictures()])
    return pixel_values, load_tokenizer(config.tokenizer, directory)(GOLDEN_TEXTS).input_ids


def _embeds(
    model: CLIP, pixel_values: NDArray[np.float32], input_ids: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    import torch

    with torch.inference_mode():
        output = model(torch.from_numpy(pixel_values), torch.from_numpy(input_ids))
    return output.image_embeds.numpy(), output.text_embeds.numpy()


def require_free_destination(destination: Path) -> None:
    """Raises ExportError where something has the name already."""
    if destination.exists():
        raise ModelError(f"{destination}: already exists; choose another name or remove it first")


@contextmanager
def new_directory(destination: Path) -> Iterator[Path]:
    """A directory that appears under its name only when all in it is written and checked.

    Raises:
        ExportError: the name is taken, or was taken meanwhile; or it cannot be written.
    """
    require_free_destination(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=destination.parent) as temporary:
        directory = Path(temporary) / "model"
        directory.mkdir()
        try:
            yield directory
            for path in filter(Path.is_file, directory.iterdir()):
                # safetensors writes for the owner alone; the directory's mode follows the umask
                path.chmod(directory.stat().st_mode & 0o666)
            directory.rename(destination)
        except SafetensorError as error:  # its form of a full disk
            raise ModelError(f"{destination}: cannot be written ({error})") from None
        except OSError:
            require_free_destination(destination)
            raise
