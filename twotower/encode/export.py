"""Weights to ONNX, and models from one form to another; every result is checked before it exists.

The graphs hold no weights: their tensors point into `model.safetensors` (ONNX external data), so
one file of weights serves torch, onnxruntime and OpenVINO alike.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from twotower.encode.encoder import Encoder
from twotower.encode.golden import (
    GOLDEN_COSINE,
    GOLDEN_TEXTS,
    Golden,
    VerificationError,
    golden_pictures,
    write_golden,
)
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.config import CLIPConfig, read_config

if TYPE_CHECKING:  # torch and onnx are imported where they are used: reading this file is cheap
    import onnx
    import torch

    from twotower.model.clip import CLIP
    from twotower.model.fusion import FusionHead

HEAD_CONFIG, HEAD_WEIGHTS, HEAD_GRAPH = "head.json", "head.safetensors", "head.onnx"

Format = Literal["twotower", "transformers", "open_clip"]
FORMATS: tuple[Format, ...] = ("twotower", "transformers", "open_clip")


class ExportError(ValueError):
    """A conversion that cannot be done; nothing was written."""


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

    if not is_ours(source):
        foreign = read_foreign(source)
        return foreign.config, foreign.tensors, foreign.files
    config = read_config(source)
    files = (source / config.tokenizer.file,) if config.tokenizer.file else ()
    return config, dequantize(read_safetensors(source / WEIGHTS_FILE)), files


def is_ours(source: Path) -> bool:
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


def refuse_taken(destination: Path) -> None:
    """Raises ExportError where something has the name already."""
    if destination.exists():
        raise ExportError(f"{destination}: already exists; choose another name or remove it first")


@contextmanager
def new_directory(destination: Path) -> Iterator[Path]:
    """A directory that appears under its name only when all in it is written and checked.

    Raises:
        ExportError: the name is taken, or was taken meanwhile; or it cannot be written.
    """
    refuse_taken(destination)
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
            raise ExportError(f"{destination}: cannot be written ({error})") from None
        except OSError:
            refuse_taken(destination)
            raise


def export_onnx(model: CLIP, directory: Path) -> None:
    """Write the four graphs, whose weights are `model.safetensors`' own bytes.

    `vision.onnx` and `text.onnx` are the towers, `cells.onnx` and `tokens.onnx` what they pool.
    """
    import torch

    from twotower.model.clip import Cells, TokenVectors

    config = model.config
    size, context_length = config.vision.image_size, config.tokenizer.context_length
    n = torch.export.Dim("n")
    of_pixels: dict[int, Any] = {0: n}
    of_ids: dict[int, Any] = {0: n}
    if config.text.kind != "transformer" or config.text.causal:
        of_ids[1] = torch.export.Dim("length", min=2, max=context_length)
    pixel_values = torch.zeros(2, 3, size, size)
    input_ids = torch.ones(2, context_length, dtype=torch.long)
    pixels, ids = {"pixel_values": pixel_values}, {"input_ids": input_ids}
    _export(model.vision, directory / "vision.onnx", pixels, (of_pixels,), prefix="vision.")
    _export(model.text, directory / "text.onnx", ids, (of_ids,), prefix="text.")
    _export(Cells(model.vision), directory / "cells.onnx", pixels, (of_pixels,))
    _export(TokenVectors(model.text), directory / "tokens.onnx", ids, (of_ids,))


def write_head(head: FusionHead, directory: Path) -> None:
    """Write a head that answers questions into a folder that is there.

    DIRECTORY/head.json           sizes, answers, and which model it belongs to
    DIRECTORY/head.safetensors    weights, float16
    DIRECTORY/head.onnx           the graph: cells, tokens, real, picture -> logits
    """
    import torch
    from safetensors.torch import save_file

    config = head.config
    halves = {name: one.detach().half().contiguous() for name, one in head.state_dict().items()}
    save_file(halves, directory / HEAD_WEIGHTS)
    text = json.dumps(asdict(config), indent=1, ensure_ascii=False)
    (directory / HEAD_CONFIG).write_text(text + "\n", encoding="utf-8")
    pictures, questions = torch.export.Dim("pictures"), torch.export.Dim("questions")
    length = torch.export.Dim("length")
    inputs = {
        "cells": torch.zeros(2, config.cells, config.vision_width),
        "tokens": torch.zeros(3, 4, config.text_width),
        "real": torch.ones(3, 4, dtype=torch.bool),
        "picture": torch.tensor([0, 1, 1]),
    }
    of_questions = {0: questions, 1: length}
    shapes = ({0: pictures}, of_questions, of_questions, {0: questions})
    _export(head.eval(), directory / HEAD_GRAPH, inputs, shapes, weights=HEAD_WEIGHTS)


def _export(
    module: torch.nn.Module,
    path: Path,
    inputs: Mapping[str, torch.Tensor],
    shapes: tuple[Any, ...],
    prefix: str = "",
    weights: str = "model.safetensors",
) -> None:
    """Write a module's graph, whose parameters are those of `weights` under `prefix`."""
    import onnx
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, we do not
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            optimize=False,  # keeps the parameters' own names, by which they are found again
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=[f"{prefix.removesuffix('.')}_features" if prefix else path.stem],
            verbose=False,
        )
        assert program is not None
        program.save(Path(scratch) / "graph.onnx", external_data=True)
        graph = onnx.load(Path(scratch) / "graph.onnx")
    parameters = [one.name for one in graph.graph.initializer]
    graph = _simplify(graph)
    _point_to_weights(graph, parameters, prefix, path.parent / weights)
    onnx.save(graph, path)


def _simplify(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Fold the exporter's shape arithmetic and casts, leaving every parameter as it is.

    For that the parameters are inputs of the graph meanwhile: inputs cannot be folded or fused.
    """
    from onnx import helper
    from onnxscript import optimizer

    inputs = len(graph.graph.input)
    for one in graph.graph.initializer:
        kind = helper.make_tensor_type_proto(one.data_type, one.dims)
        graph.graph.input.append(helper.make_value_info(one.name, kind))
    del graph.graph.initializer[:]
    graph = optimizer.optimize(graph)
    for node in graph.graph.node:  # notes with stack traces of this machine, larger than the graph
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.metadata_props[:], graph.graph.metadata_props[:], graph.graph.value_info[:]
    del graph.graph.input[inputs:]
    return graph


def _point_to_weights(
    graph: onnx.ModelProto, parameters: Sequence[str], prefix: str, weights: Path
) -> None:
    """Make each parameter a reference into the file of weights.

    float32 is read in place; float16 goes through a Cast, int8 through a DequantizeLinear. Of a
    table of int8 that is only looked up (token embeds, half of a small text tower) nothing but the
    rows looked up is unpacked, so that the model starts sooner.
    """
    from onnx import TensorProto, helper

    from twotower.model.weights import INT8, SCALE

    stored = _stored_tensors(weights)

    def refer(name: str, key: str) -> None:
        dtype, dims, offset, length = stored[key]
        tensor = TensorProto(name=name, data_type=_ONNX_TYPES[dtype], dims=dims)
        tensor.data_location = TensorProto.EXTERNAL
        for field, value in (("location", weights.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=field, value=str(value))
        graph.graph.initializer.append(tensor)

    nodes = []
    body = list(graph.graph.node)
    for name in parameters:
        key = prefix + name
        users = [one for one in body if name in one.input]
        if key + INT8 in stored:
            refer(name + INT8, key + INT8)
            refer(name + SCALE, key + SCALE)
            if [one.op_type for one in users] == ["Gather"] and users[0].input[0] == name:
                place = body.index(users[0])
                body[place : place + 1] = _look_up(users[0], name + INT8, name + SCALE)
                continue
            inputs = [name + INT8, name + SCALE]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [name], axis=0))
        elif stored[key][0] == "F32":
            refer(name, key)
        else:
            refer(f"{name}.half", key)
            nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    del graph.graph.node[:]
    graph.graph.node.extend(nodes + body)


def _look_up(gather: onnx.NodeProto, table: str, scales: str) -> list[onnx.NodeProto]:
    """What gathers the same rows from int8 with a scale for each row."""
    from onnx import TensorProto, helper

    output, ids = gather.output[0], gather.input[1]
    return [
        helper.make_node("Gather", [table, ids], [f"{output}.int8"], axis=0),
        helper.make_node("Gather", [scales, ids], [f"{output}.scales"], axis=0),
        helper.make_node("Constant", [], [f"{output}.last"], value_ints=[-1]),
        helper.make_node("Unsqueeze", [f"{output}.scales", f"{output}.last"], [f"{output}.scale"]),
        helper.make_node("Cast", [f"{output}.int8"], [f"{output}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{output}.float", f"{output}.scale"], [output]),
    ]


_ONNX_TYPES = {"F32": 1, "I8": 3, "I64": 7, "F16": 10}  # safetensors' name: onnx.TensorProto's


def _stored_tensors(path: Path) -> dict[str, tuple[str, list[int], int, int]]:
    """Name -> (dtype, shape, offset in the file, length in bytes) of a safetensors file."""
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_size))
    start = 8 + header_size
    return {
        name: (entry["dtype"], entry["shape"], start + begin, end - begin)
        for name, entry in header.items()
        if name != "__metadata__"
        for begin, end in [entry["data_offsets"]]
    }
