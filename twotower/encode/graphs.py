"""ONNX graphs of a model directory, written for its configuration; no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from twotower.encode.onnx import WeightReferences
from twotower.encode.sessions import GRAPH_FILES, Tower
from twotower.model.config import CLIPConfig, GraphTextConfig, ResNetConfig, ViTConfig
from twotower.model.graph import Graph, Value
from twotower.model.graphs import (
    patch_features_graph,
    patches_graph,
    text_graph,
    tokens_graph,
    vision_graph,
)
from twotower.model.weight_files import WEIGHTS_FILE

if TYPE_CHECKING:  # importing this file is cheap
    import onnx

OPSET, IR_VERSION = 20, 10  # onnxruntime 1.20 knows both
Axes: TypeAlias = list[int | str]  # of a tensor; a variable size has a name

GRAPHS: dict[Tower, Callable[[CLIPConfig], tuple[Graph, Value]]] = {
    "vision": vision_graph,
    "text": text_graph,
    "patches": patches_graph,
    "tokens": tokens_graph,
    "patch_features": patch_features_graph,
}


def write_graphs(config: CLIPConfig, directory: Path, towers: Iterable[Tower]) -> None:
    """Write graphs that refer to `model.safetensors` in the same directory.

    Args:
        towers: those of a configuration for which `model.graphs.has_graph` is true.
    """
    import onnx

    for tower in towers:
        graph, output = GRAPHS[tower](config)
        model = make_model(graph, output, _input(config, tower), _output(config, tower))
        WeightReferences(model, directory / WEIGHTS_FILE).replace(graph.weights)
        onnx.save(model, directory / GRAPH_FILES[tower])


def make_model(
    graph: Graph, output: Value, input_info: onnx.ValueInfoProto, output_info: onnx.ValueInfoProto
) -> onnx.ModelProto:
    """Make the protocol buffer of a graph, without its weights.

    Args:
        output: the value that gets the name of `output_info`.
    """
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node(
            node.operator,
            node.inputs,
            [output_info.name if name == output else name for name in node.outputs],
            **node.attributes,
        )
        for node in graph.nodes
    ]
    constants = [numpy_helper.from_array(*pair[::-1]) for pair in graph.constants.items()]
    return helper.make_model(
        helper.make_graph(nodes, output_info.name, [input_info], [output_info], constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="twotower",
    )


def _input(config: CLIPConfig, tower: Tower) -> onnx.ValueInfoProto:
    from onnx import TensorProto, helper

    if tower in ("text", "tokens"):
        axes = ["n", _length(config)]
        return helper.make_tensor_value_info("input_ids", TensorProto.INT64, axes)
    size = config.vision.image_size
    return helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, size, size])


def _output(config: CLIPConfig, tower: Tower) -> onnx.ValueInfoProto:
    from onnx import TensorProto, helper

    vision, text = config.vision, config.text
    assert not isinstance(text, GraphTextConfig)  # by `has_graph`
    patches: Axes = ["n"]
    if isinstance(vision, ViTConfig):
        patches += [(vision.image_size // vision.patch_size) ** 2, vision.width]
    elif isinstance(vision, ResNetConfig):
        patches += [(vision.image_size // 32) ** 2, 32 * vision.width]
    axes: dict[Tower, Axes] = {
        "vision": ["n", config.embed_dim],
        "text": ["n", config.embed_dim],
        "patches": patches,
        "tokens": ["n", _length(config), text.width],
        "patch_features": [*patches[:-1], config.embed_dim],
    }
    stem = Path(GRAPH_FILES[tower]).stem
    name = f"{stem}_features" if tower in ("vision", "text") else stem
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, axes[tower])


def _length(config: CLIPConfig) -> int | str:
    """Return the number of tokens that a text needs, or the name of a variable one."""
    return config.tokenizer.max_length if config.needs_padding else "length"
