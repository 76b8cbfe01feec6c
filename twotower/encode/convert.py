"""Conversion of models between formats; a result appears only after it has been verified."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from twotower.arrays import Float32Array, normalize
from twotower.encode.encoder import Encoder
from twotower.encode.engine import start_engine
from twotower.encode.export_pair import export_pair
from twotower.encode.golden import (
    GOLDEN_COSINE,
    GOLDEN_TEXTS,
    Golden,
    golden_pictures,
    write_golden,
)
from twotower.encode.graphs import write_graphs
from twotower.encode.onnx import TEXT_TOWERS, export_onnx, vision_towers
from twotower.encode.onnx_pair import OnnxPair, find_pair, write_pair
from twotower.encode.sessions import Tower
from twotower.errors import ModelError, VerificationError
from twotower.files import atomic_folder
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.config import (
    CLIPConfig,
    GraphVisionConfig,
    graph_only,
    is_model_directory,
    read_config,
)
from twotower.model.foreign import (
    read_foreign,
    write_modules,
    write_open_clip,
    write_transformers,
)
from twotower.model.graphs import has_graphs
from twotower.model.positions import with_image_size
from twotower.model.weight_files import (
    TEXT_PREFIX,
    WEIGHTS_FILE,
    Arrays,
    Tensors,
    as_arrays,
    dequantize,
    read_stored,
    save_arrays,
    save_weights,
)

if TYPE_CHECKING:  # torch is imported in functions: importing this file is cheap
    from twotower.model.clip import CLIP

Format: TypeAlias = Literal[
    "twotower", "transformers", "open_clip", "sentence_transformers", "onnx"
]
FORMATS: tuple[Format, ...] = get_args(Format)
GOLDEN_ENGINE = "onnxruntime:cpu"  # accelerators can compute in lower precision


def convert(
    source: Path | OnnxPair,
    destination: Path,
    to: Format = "twotower",
    arch: str | None = None,
    image_size: int | None = None,
) -> None:
    """Read a model in any format and write it to `destination` in the format `to`.

    In twotower's own format, quantised weights stay quantised.

    Args:
        source: a model directory, a transformers, open_clip or sentence-transformers directory, an
            OpenAI archive, bare weights of open_clip, or a pair of ONNX graphs or its folder.
        arch: the architecture of bare weights, by open_clip's name.
        image_size: of the result, for a plain vision transformer, in pixels. The positions of
            patches are interpolated: with smaller pictures it is faster, and less accurate.

    Raises:
        ModelError: the model cannot be read, `destination` exists, the format cannot express the
            model, `image_size` does not fit it, or its architecture needs torch for the conversion,
            which is not installed.
        VerificationError: the result does not reproduce the source; it is removed.
    """
    pair = source if isinstance(source, OnnxPair) else find_pair(source)
    if pair:
        if arch is not None:
            raise ModelError(pair.vision, "a graph, which is no bare weights", "leave out --arch")
        if image_size is not None:
            raise ModelError(
                pair.vision, "a graph for one image size", "convert the original weights instead"
            )
        if to != "twotower":
            raise graph_only(str(pair.vision))
        write_pair_directory(pair, destination)
        return
    assert isinstance(source, Path)
    try:
        config, stored, files = read_any(source, arch)
        if image_size is not None:
            config, stored = with_image_size(config, stored, image_size, source)
        tensors = dequantize(stored)
        if to == "twotower":
            write_directory(config, stored, files, destination)
        elif to == "onnx":
            write_onnx(config, tensors, files, destination)
        else:
            write_foreign(config, tensors, files, destination, to)
    except ModuleNotFoundError as error:
        raise ModelError(
            source,
            f"its conversion needs the package {error.name!r}",
            "pip install 'twotower[train]' (only for the conversion)",
        ) from None


def write_pair_directory(pair: OnnxPair, destination: Path) -> None:
    """Write the model directory of a pair of ONNX graphs.

    Raises:
        ModelError: a graph or its settings cannot be used, or `destination` exists.
        VerificationError: the embeds of the golden pictures or texts are damaged, or not
            reproduced.
    """
    with new_directory(destination) as directory:
        config = write_pair(pair, directory)
        write_golden(golden_of_graphs(directory), directory)
        Encoder(directory).verify()
    warnings.warn(
        f"{config.name}: the graphs do not contain the temperature; probabilities of labels are "
        "computed with CLIP's, 100",
        stacklevel=3,
    )


def read_any(source: Path, arch: str | None = None) -> tuple[CLIPConfig, Arrays, tuple[Path, ...]]:
    """Read a model in any format; `arch` as in `convert`.

    Returns:
        Its configuration, its tensors as they are stored, and its vocabulary files.
    """
    if not is_model_directory(source):
        foreign = read_foreign(source, arch)
        return foreign.config, foreign.tensors, foreign.files
    config = read_config(source)
    if isinstance(config.vision, GraphVisionConfig):
        raise graph_only(str(source))
    files = vocabulary_files(config, source)
    return replace(config, text_folder=None), read_stored(config, source), files


def vocabulary_files(config: CLIPConfig, directory: Path) -> tuple[Path, ...]:
    """Return the files of the tokenizer of a model directory."""
    return tuple(config.text_directory(directory) / name for name in config.tokenizer.files)


def write_directory(
    config: CLIPConfig,
    tensors: Tensors,
    files: Sequence[Path],
    destination: Path,
    int8: bool = False,
) -> None:
    """Write a model directory: configuration, weights, vocabulary, golden vectors, ONNX graphs.

    The text tower is left out if `config.text_folder` names its folder (`write_text_folder`).
    Towers that have no graph in `model.graphs` are exported by torch, which then makes the golden
    vectors.

    Args:
        tensors: under the names of `CLIP.state_dict()`, or quantised.
        files: the vocabulary.
        int8: quantise the weights that are not.

    Raises:
        ModelError: `destination` exists or cannot be written.
        VerificationError: the embeds of the golden pictures or texts are damaged, or not
            reproduced.
    """
    towers = vision_towers(config) + (TEXT_TOWERS if config.text_folder is None else ())
    with new_directory(destination) as directory:
        save_weights(config, tensors, directory, int8)
        for file in files:
            shutil.copyfile(file, directory / file.name)
        if has_graphs(config):
            write_graphs(config, directory, towers)
            golden = golden_of_graphs(directory)
        else:
            golden = _export_by_torch(directory, towers)
        write_golden(golden, directory)
        Encoder(directory).verify()


def _export_by_torch(directory: Path, towers: Sequence[Tower]) -> Golden:
    """Write the graphs of the torch model of a directory; return its golden vectors."""
    from twotower.model.weights import load_model

    model = load_model(directory)
    export_onnx(model, directory, towers)
    return make_golden(model, directory)


def write_text_folder(
    config: CLIPConfig,
    tensors: Tensors,
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
    text = {name: tensor for name, tensor in tensors.items() if name.startswith(TEXT_PREFIX)}
    with new_directory(destination) as directory:
        save_arrays(as_arrays(text), directory / WEIGHTS_FILE)
        for file in files:
            shutil.copyfile(file, directory / file.name)
        write_graphs(config, directory, TEXT_TOWERS)


def write_foreign(
    config: CLIPConfig,
    tensors: Tensors,
    files: Sequence[Path],
    destination: Path,
    to: Format,
) -> None:
    """Write a directory for transformers, open_clip or sentence-transformers; read it and compare.

    Raises:
        ModelError: the format cannot express the model, or `destination` exists.
        VerificationError: the towers or weights that are read differ.
    """
    write: Callable[..., None] = {
        "transformers": write_transformers,
        "sentence_transformers": write_transformers,
        "open_clip": write_open_clip,
    }[to]
    with new_directory(destination) as directory:
        folder = directory
        if to == "sentence_transformers":
            folder = write_modules(config, directory)
        for file in files:
            shutil.copyfile(file, folder / file.name)
        write(config, tensors, folder)
        written = read_foreign(folder)
        towers = (config.vision, config.text, config.embed_dim)
        equal = towers == (written.config.vision, written.config.text, written.config.embed_dim)
        if not (equal and _equal(as_arrays(tensors), written.tensors)):
            raise VerificationError(
                destination,
                f"the model that is read from the {to} directory is not the one that was written",
                "nothing was written; use the original",
            )
        _warn_of_input_changes(config, written.config, to)


def write_onnx(
    config: CLIPConfig, tensors: Tensors, files: Sequence[Path], destination: Path
) -> None:
    """Write a pair of ONNX graphs in Xenova's layout; read it again and compare its features.

    Raises:
        ModelError: the format cannot express the model, or `destination` exists.
        VerificationError: the features of the golden pictures or texts differ.
    """
    with new_directory(destination) as directory, tempfile.TemporaryDirectory() as scratch:
        model, reread = Path(scratch) / "model", Path(scratch) / "again"
        write_directory(config, tensors, files, model)
        for file in files:
            shutil.copyfile(file, directory / file.name)
        export_pair(config, model, directory)
        pair = find_pair(directory)
        assert pair
        reread.mkdir()
        written = write_pair(pair, reread)
        for tower, batch in _golden_inputs(config, model).items():
            before, after = (
                normalize(start_engine(GOLDEN_ENGINE, folder, tower)(batch))
                for folder in (model, reread)
            )
            if not (before * after).sum(axis=1).min() >= GOLDEN_COSINE:  # also catches NaN
                raise VerificationError(
                    destination,
                    f"the {tower} graph does not reproduce the golden vectors",
                    "nothing was written; use the original",
                )
        _warn_of_input_changes(config, written, "onnx")


def _equal(before: Arrays, after: Arrays) -> bool:
    return before.keys() == after.keys() and all(
        np.array_equal(array, after[name]) for name, array in before.items()
    )


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


def golden_of_graphs(directory: Path) -> Golden:
    """Embed the golden pictures and texts with the graphs of a model directory.

    The texts have the whole context, so that `Encoder.verify` also checks that shorter ones have
    the same embeds.

    Raises:
        VerificationError: embeds that are not finite, or equal for different inputs.
    """
    config = read_config(directory)
    embeds = []
    for tower, batch in _golden_inputs(config, directory).items():
        features = start_engine(GOLDEN_ENGINE, directory, tower)(batch)
        _check_features(features, tower, directory)
        embeds.append(normalize(features))
    return Golden(golden_pictures(), list(GOLDEN_TEXTS), *embeds)


def _check_features(features: Float32Array, tower: Tower, directory: Path) -> None:
    """Raise `VerificationError` for features [n, embed_dim] that no working tower computes."""
    reason = None
    if not np.isfinite(features).all():
        reason = "computes NaN or infinity"
    elif len(np.unique(features, axis=0)) < len(features):
        reason = "computes the same for different inputs"
    if reason:
        raise VerificationError(
            directory, f"the {tower} tower {reason}", "check or download the weights again"
        )


def make_golden(model: CLIP, directory: Path) -> Golden:
    """Embed the golden pictures and texts with a torch model, and the vocabulary of `directory`."""
    import torch

    inputs = _golden_inputs(read_config(directory), directory)
    pixel_values, input_ids = inputs["vision"], inputs["text"]
    with torch.inference_mode():
        embeds = model.embed(torch.from_numpy(pixel_values), torch.from_numpy(input_ids))
    image_embeds, text_embeds = (tensor.numpy() for tensor in embeds)
    return Golden(golden_pictures(), list(GOLDEN_TEXTS), image_embeds, text_embeds)


def _golden_inputs(config: CLIPConfig, directory: Path) -> dict[Tower, NDArray[Any]]:
    """Return pixel_values [n, 3, S, S] and input_ids [t, max_length] for their towers."""
    preprocess = Preprocess(config.preprocess)
    pixel_values = np.stack([preprocess(picture) for picture in golden_pictures()])
    tokenizer = load_tokenizer(config.tokenizer, config.text_directory(directory))
    return {"vision": pixel_values, "text": tokenizer(GOLDEN_TEXTS).input_ids}


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
