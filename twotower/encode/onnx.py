"""ONNX graphs of towers and answer heads, whose weights are in a safetensors file beside them.

A graph holds no weights: its tensors refer to bytes of `model.safetensors` (ONNX external data), so
that torch, onnxruntime and OpenVINO share one file of weights.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from twotower.encode.sessions import GRAPH_FILES, Tower
from twotower.model.weight_files import INT4, INT8, SCALE, stored_tensors

if TYPE_CHECKING:  # torch and onnx are imported in functions: importing this file is cheap
    import onnx
    import torch

    from twotower.model.answer_head import FusionHead
    from twotower.model.clip import CLIP
    from twotower.model.config import CLIPConfig

Inputs: TypeAlias = "Mapping[str, torch.Tensor]"  # examples, by name
Axes: TypeAlias = dict[int, Any]  # of an input, those of variable length
CONTRIB = "com.microsoft"  # operators beyond ONNX that onnxruntime and OpenVINO know
HEAD_CONFIG, HEAD_WEIGHTS, HEAD_GRAPH = "head.json", "head.safetensors", "head.onnx"


TEXT_TOWERS: tuple[Tower, ...] = ("text", "tokens")


def vision_towers(config: CLIPConfig) -> tuple[Tower, ...]:
    """Return the towers of a model's pictures that have a graph."""
    if config.vision.kind == "naflex":  # its patches are no fixed grid
        return ("vision",)
    towers: tuple[Tower, ...] = ("vision", "patches")
    return (*towers, "patch_features") if config.embeds_patches else towers


def export_onnx(model: CLIP, directory: Path, towers: Sequence[Tower]) -> None:
    """Write graphs of a model, which refer to `model.safetensors` in the same directory."""
    import torch

    from twotower.model.text import TokenEncoder
    from twotower.model.vision import PatchEncoder, PatchFeatures

    config = model.config
    vision: Any = model.vision
    size, length = config.vision.image_size, config.tokenizer.max_length
    n = torch.export.Dim("n")
    pixel_axes: Axes = {0: n}
    id_axes: Axes = {0: n}
    if not config.needs_padding:
        id_axes[1] = torch.export.Dim("length", min=2, max=length)
    pixels = {"pixel_values": torch.zeros(2, config.preprocess.channels, size, size)}
    ids = {"input_ids": torch.ones(2, length, dtype=torch.long)}
    modules: dict[Tower, tuple[torch.nn.Module, Inputs, Axes, str]] = {
        "vision": (model.vision, pixels, pixel_axes, "vision."),
        "text": (model.text, ids, id_axes, "text."),
        "patches": (PatchEncoder(vision), pixels, pixel_axes, ""),
        "patch_features": (PatchFeatures(vision), pixels, pixel_axes, ""),
        "tokens": (TokenEncoder(model.text), ids, id_axes, ""),
    }
    for tower in towers:
        module, inputs, axes, prefix = modules[tower]
        _export(module, directory / GRAPH_FILES[tower], inputs, (axes,), prefix)


def write_head(head: FusionHead, directory: Path) -> None:
    """Write a head that answers questions into an existing folder.

    DIRECTORY/head.json           sizes, answers, and the model that the head belongs to
    DIRECTORY/head.safetensors    weights, float16
    DIRECTORY/head.onnx           the graph: cells, tokens, real, picture -> logits
    """
    import torch
    from safetensors.torch import save_file

    config = head.config
    weights = head.state_dict().items()
    halves = {name: tensor.detach().half().contiguous() for name, tensor in weights}
    save_file(halves, directory / HEAD_WEIGHTS)
    text = json.dumps(asdict(config), indent=1, ensure_ascii=False)
    (directory / HEAD_CONFIG).write_text(text + "\n", encoding="utf-8")
    pictures, questions = torch.export.Dim("pictures"), torch.export.Dim("questions")
    question_axes = {0: questions, 1: torch.export.Dim("length")}
    inputs = {  # under the names that graphs have so far; "cells" are patches
        "cells": torch.zeros(2, config.cells, config.vision_width),
        "tokens": torch.zeros(3, 4, config.text_width),
        "real": torch.ones(3, 4, dtype=torch.bool),
        "picture": torch.tensor([0, 1, 1]),
    }
    axes = ({0: pictures}, question_axes, question_axes, {0: questions})
    _export(head.eval(), directory / HEAD_GRAPH, inputs, axes, weights=HEAD_WEIGHTS)


def _export(
    module: torch.nn.Module,
    path: Path,
    inputs: Inputs,
    axes: tuple[Axes, ...],
    prefix: str = "",
    weights: str = "model.safetensors",
) -> None:
    """Write the graph of a module.

    Args:
        axes: of each input.
        prefix: of its parameters in the file `weights`.
    """
    import onnx
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            optimize=False,  # it would rename the parameters
            dynamic_shapes=axes,
            input_names=list(inputs),
            output_names=[f"{prefix.removesuffix('.')}_features" if prefix else path.stem],
            verbose=False,
        )
        assert program is not None
        program.save(Path(scratch) / "graph.onnx", external_data=True)
        model = onnx.load(Path(scratch) / "graph.onnx")
    parameters = [tensor.name for tensor in model.graph.initializer]
    model = _simplify(model)
    WeightReferences(model, path.parent / weights).replace(parameters, prefix)
    onnx.save(model, path)


def _simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold the exporter's shape arithmetic and casts, and keep every parameter.

    Parameters are made inputs of the graph for that, since inputs are never folded or fused.
    """
    from onnx import helper
    from onnxscript import optimizer

    inputs = len(model.graph.input)
    for tensor in model.graph.initializer:
        kind = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        model.graph.input.append(helper.make_value_info(tensor.name, kind))
    del model.graph.initializer[:]
    model = optimizer.optimize(model)
    for node in model.graph.node:  # stack traces of this machine, larger than the graph
        del node.metadata_props[:]
        node.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    del model.graph.input[inputs:]
    return model


class WeightReferences:
    """Replaces the parameters of a graph by references into a safetensors file.

    float32 is read in place; float16 goes through a Cast, int8 through a DequantizeLinear. Of an
    int8 table that is only gathered from (token embeds, half of a small text tower) just the
    gathered rows are converted, so that the model starts sooner.
    """

    def __init__(self, model: onnx.ModelProto, weights: Path) -> None:
        self.model, self.graph, self.file = model, model.graph, weights.name
        self.stored = stored_tensors(weights)

    def replace(self, parameters: Iterable[str], prefix: str = "") -> None:
        """Replace `parameters`, which are stored under `prefix`."""
        body = list(self.graph.node)
        head = [node for name in parameters for node in self._nodes_for(name, prefix + name, body)]
        del self.graph.node[:]
        self.graph.node.extend(head + body)
        if any(node.domain == CONTRIB for node in self.graph.node):
            self.model.opset_import.add(domain=CONTRIB, version=1)

    def _nodes_for(self, name: str, key: str, body: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Return the nodes that compute a parameter; change `body` if it is only gathered from."""
        from onnx import TensorProto, helper

        if key + INT4 in self.stored:
            inputs = [name + INT4, name + SCALE]
            self.add(inputs[0], key + INT4)
            self.add(f"{name}.half", key + SCALE)
            for transpose in [node for node in body if name in node.input]:
                _multiply_int4(body, transpose, inputs, self.stored[key + INT4].shape)
            half = [f"{name}.half"]
            return [helper.make_node("Cast", half, inputs[1:], to=TensorProto.FLOAT)]
        if key + INT8 in self.stored:
            inputs = [name + INT8, name + SCALE]
            self.add(name + INT8, key + INT8)
            self.add(name + SCALE, key + SCALE)
            users = [node for node in body if name in node.input]
            if [node.op_type for node in users] == ["Gather"] and users[0].input[0] == name:
                position = body.index(users[0])
                body[position : position + 1] = _gather_int8(users[0], *inputs)
                return []
            return [helper.make_node("DequantizeLinear", inputs, [name], axis=0)]
        if self.stored[key].dtype == "F32":
            self.add(name, key)
            return []
        self.add(f"{name}.half", key)
        return [helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)]

    def add(self, name: str, key: str) -> None:
        """Add a parameter that is the stored tensor `key`."""
        from onnx import TensorProto

        stored = self.stored[key]
        tensor = TensorProto(name=name, data_type=ONNX_TYPES[stored.dtype], dims=stored.shape)
        tensor.data_location = TensorProto.EXTERNAL
        location = {"location": self.file, "offset": stored.offset, "length": stored.length}
        for field, value in location.items():
            tensor.external_data.add(key=field, value=str(value))
        self.graph.initializer.append(tensor)


def _multiply_int4(
    body: list[onnx.NodeProto],
    transpose: onnx.NodeProto,
    weight: Sequence[str],
    shape: Sequence[int],
) -> None:
    """Replace the products with a transposed parameter by products with its 4-bit form.

    Args:
        weight: the names of its levels and scales.
        shape: of the levels, [out, in / GROUP, GROUP / 2].
    """
    from onnx import helper

    out_features, groups, group_bytes = shape
    sizes: dict[str, Any] = {
        "N": out_features,
        "K": 2 * groups * group_bytes,
        "block_size": 2 * group_bytes,
    }
    body.remove(transpose)
    for position, node in enumerate(body):
        if transpose.output[0] in node.input:
            assert transpose.op_type == "Transpose" and node.op_type == "MatMul"
            body[position] = helper.make_node(
                "MatMulNBits",
                [node.input[0], *weight],
                node.output,
                domain=CONTRIB,
                bits=4,
                **sizes,
            )


def _gather_int8(gather: onnx.NodeProto, table: str, scales: str) -> Iterator[onnx.NodeProto]:
    """Yield nodes that gather the same rows from int8 with a scale for each row."""
    from onnx import TensorProto, helper

    output, ids = gather.output[0], gather.input[1]
    yield helper.make_node("Gather", [table, ids], [f"{output}.int8"], axis=0)
    yield helper.make_node("Gather", [scales, ids], [f"{output}.scales"], axis=0)
    yield helper.make_node("Constant", [], [f"{output}.last"], value_ints=[-1])
    yield helper.make_node("Unsqueeze", [f"{output}.scales", f"{output}.last"], [f"{output}.scale"])
    yield helper.make_node("Cast", [f"{output}.int8"], [f"{output}.float"], to=TensorProto.FLOAT)
    yield helper.make_node("Mul", [f"{output}.float", f"{output}.scale"], [output])


ONNX_TYPES = {"F32": 1, "U8": 2, "I8": 3, "I64": 7, "F16": 10}  # of safetensors -> onnx.TensorProto
