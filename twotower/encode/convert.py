"""Conversion of models between formats; a result appears only after it has been verified."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from safetensors import SafetensorError

from twotower.arrays import Float32Array, Int64Array
from twotower.encode.encoder import Encoder
from twotower.encode.golden import (
    GOLDEN_COSINE,
    GOLDEN_TEXTS,
    Golden,
    golden_pictures,
    write_golden,
)
from twotower.encode.onnx import TEXT_TOWERS, export_onnx, vision_towers
from twotower.errors import ModelError, VerificationError
from twotower.files import atomic_folder
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.config import CLIPConfig, is_model_directory, read_config

if TYPE_CHECKING:  # torch is imported in functions: importing this file is cheap
    import torch

    from twotower.model.clip import CLIP

Format: TypeAlias = Literal["twotower", "transformers", "open_clip"]
FORMATS: tuple[Format, ...] = ("twotower", "transformers", "open_clip")


def convert(
    source: Path, destination: Path, to: Format = "twotower", arch: str | None = None
) -> None:
    """Read a model in any format and write it to `destination` in the format `to`.

    Args:
        source: a model directory, a transformers, open_clip or sentence-transformers directory, an
            OpenAI archive, or bare weights of open_clip.
        arch: the architecture of bare weights, by open_clip's name.

    Raises:
        ModelError: the model cannot be read, `destination` exists, or the format cannot express
            the model.
        VerificationError: the result does not reproduce the embeds of the source; it is removed.
    """
    config, tensors, files = read_any(source, arch)
    if to == "twotower":
        write_directory(config, tensors, files, destination)
    else:
        write_foreign(config, tensors, files, destination, to)


def read_any(
    source: Path, arch: str | None = None
) -> tuple[CLIPConfig, dict[str, torch.Tensor], tuple[Path, ...]]:
    """Read a model in any format; `arch` as in `convert`.

    Returns:
        Its configuration, its tensors under our names, and its vocabulary files.
    """
    from twotower.model.foreign import read_foreign
    from twotower.model.weights import dequantize, read_stored

    if not is_model_directory(source):
        foreign = read_foreign(source, arch)
        return foreign.config, foreign.tensors, foreign.files
    config = read_config(source)
    files = vocabulary_files(config, source)
    return replace(config, text_folder=None), dequantize(read_stored(config, source)), files


def vocabulary_files(config: CLIPConfig, directory: Path) -> tuple[Path, ...]:
    """Return the files of the tokenizer of a model directory."""
    return tuple(config.text_directory(directory) / name for name in config.tokenizer.files)


def write_directory(
    config: CLIPConfig,
    tensors: Mapping[str, torch.Tensor],
    files: Sequence[Path],
    destination: Path,
    int8: bool = False,
) -> None:
    """Write a model directory: configuration, weights, vocabulary, golden vectors, ONNX graphs.

    The text tower is left out if `config.text_folder` names its folder (`write_text_folder`).

    Args:
        tensors: under the names of `CLIP.state_dict()`, or quantised.
        files: the vocabulary.
        int8: quantise the weights that are not.

    Raises:
        ModelError: `destination` exists or cannot be written.
        VerificationError: onnxruntime does not reproduce the embeds of the torch model.
    """
    from twotower.model.weights import load_model, save_weights

    with new_directory(destination) as directory:
        save_weights(config, tensors, directory, int8)
        for file in files:
            shutil.copyfile(file, directory / file.name)
        model = load_model(directory)
        write_golden(make_golden(model, directory), directory)
        export_onnx(model, directory, vision_towers(config))
        if config.text_folder is None:
            export_onnx(model, directory, TEXT_TOWERS)
        Encoder(directory).verify()


def write_text_folder(
    config: CLIPConfig,
    tensors: Mapping[str, torch.Tensor],
    files: Sequence[Path],
    destination: Path,
) -> None:
    """Write a text tower that several models share: weights, vocabulary and ONNX graphs.

    It is checked by the golden vectors of the models that name it as their `text_folder`.

    Args:
        tensors: under the names of `CLIP.state_dict()`, or quantised.
        files: the vocabulary.

    Raises:
        ModelError: `destination` exists or cannot be written.
    """
    from twotower.model.weights import (
        TEXT_PREFIX,
        WEIGHTS_FILE,
        build_model,
        dequantize,
        save_tensors,
    )

    text = {name: tensor for name, tensor in tensors.items() if name.startswith(TEXT_PREFIX)}
    with new_directory(destination) as directory:
        save_tensors(text, directory / WEIGHTS_FILE)
        for file in files:
            shutil.copyfile(file, directory / file.name)
        model = build_model(config, dequantize(tensors), destination)
        export_onnx(model, directory, TEXT_TOWERS)


def write_foreign(
    config: CLIPConfig,
    tensors: Mapping[str, torch.Tensor],
    files: Sequence[Path],
    destination: Path,
    to: Format,
) -> None:
    """Write a transformers or open_clip directory; read it again and compare its embeds.

    Raises:
        ModelError: the format cannot express the model, or `destination` exists.
        VerificationError: the embeds of the golden pictures and texts differ.
    """
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
        written = read_foreign(directory)
        inputs = _golden_inputs(config, directory)
        before = _embed(build_model(config, tensors, destination), *inputs)
        after = _embed(build_model(written.config, written.tensors, destination), *inputs)
        for kind, ours, theirs in zip(("picture", "text"), before, after, strict=True):
            cosine = float((ours * theirs).sum(axis=1).min())
            if not cosine >= GOLDEN_COSINE:  # also catches NaN
                raise VerificationError(
                    destination,
                    f"as {to}, a golden {kind} has cosine {cosine:.6f}, below {GOLDEN_COSINE}",
                    "nothing was written; use the original",
                )
        _warn_of_input_changes(config, written.config, to)


def _warn_of_input_changes(config: CLIPConfig, written: CLIPConfig, to: Format) -> None:
    """Warn if another library prepares pictures and texts differently."""
    ours = asdict(config.preprocess) | {"cleaning": config.tokenizer.cleaning}
    theirs = asdict(written.preprocess) | {"cleaning": written.tokenizer.cleaning}
    changes = [f"{key} {ours[key]} -> {theirs[key]}" for key in ours if ours[key] != theirs[key]]
    if changes:
        warnings.warn(
            f"{config.name}: the weights are equal, but {to} prepares pictures and texts "
            f"differently: {', '.join(changes)}",
            stacklevel=2,
        )


def make_golden(model: CLIP, directory: Path) -> Golden:
    """Embed the golden pictures and texts with a torch model, and the vocabulary of `directory`."""
    inputs = _golden_inputs(read_config(directory), directory)
    image_embeds, text_embeds = _embed(model, *inputs)
    return Golden(golden_pictures(), list(GOLDEN_TEXTS), image_embeds, text_embeds)


def _golden_inputs(config: CLIPConfig, directory: Path) -> tuple[Float32Array, Int64Array]:
    """Return pixel_values [n, 3, S, S] and input_ids [t, max_length]."""
    preprocess = Preprocess(config.preprocess)
    pixel_values = np.stack([preprocess(picture) for picture in golden_pictures()])
    tokenizer = load_tokenizer(config.tokenizer, config.text_directory(directory))
    return pixel_values, tokenizer(GOLDEN_TEXTS).input_ids


def _embed(
    model: CLIP, pixel_values: Float32Array, input_ids: Int64Array
) -> tuple[Float32Array, Float32Array]:
    import torch

    with torch.inference_mode():
        embeds = model.embed(torch.from_numpy(pixel_values), torch.from_numpy(input_ids))
    image_embeds, text_embeds = (tensor.numpy() for tensor in embeds)
    return image_embeds, text_embeds


def require_free_destination(destination: Path) -> None:
    """Raise `ModelError` if a file or folder has this name."""
    if destination.exists():
        raise ModelError(destination, "already exists", "choose another name or remove it first")


@contextmanager
def new_directory(destination: Path) -> Iterator[Path]:
    """Make a directory that gets its name when the block ends without an error.

    Raises:
        ModelError: the name is taken, or the directory cannot be written.
    """
    require_free_destination(destination)
    try:
        with atomic_folder(destination, replace=False) as directory:
            yield directory
            for path in filter(Path.is_file, directory.iterdir()):
                # safetensors gives access to the owner only; the directory's mode has the umask
                path.chmod(directory.stat().st_mode & 0o666)
    except SafetensorError as error:  # such as a full disk
        raise ModelError(
            destination, f"cannot be written ({error})", "check the disk, or choose another folder"
        ) from None
    except OSError:
        require_free_destination(destination)
        raise
