"""Export towers and heads as ONNX graphs over model.safetensors."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch and onnx are imported where they are used: reading this file is cheap
    import onnx
    import torch

    from twotower.model.answer_head import FusionHead
    from twotower.model.clip import CLIP

HEAD_CONFIG, HEAD_WEIGHTS, HEAD_GRAPH = "head.json", "head.safetensors", "head.onnx"


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
