"""A model directory as a pair of ONNX graphs in the layout of Xenova and transformers.js.

DIRECTORY/onnx/vision_model.onnx    pixel_values -> image_embeds, not of unit length
DIRECTORY/onnx/text_model.onnx      input_ids -> text_embeds, not of unit length
DIRECTORY/config.json, preprocessor_config.json, tokenizer.json, ...    as transformers writes them
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twotower.encode.sessions import Tower, graph_path
from twotower.model.config import CLIPConfig
from twotower.model.foreign.transformers import write_settings

if TYPE_CHECKING:  # onnx is imported in functions: importing this file is cheap
    import onnx

FILES: dict[Tower, str] = {"vision": "vision_model.onnx", "text": "text_model.onnx"}
OUTPUTS: dict[Tower, str] = {"vision": "image_embeds", "text": "text_embeds"}
MAX_BYTES = 2**31 - 2**20  # of a file with its weights; protocol buffers end at 2 GiB


def export_pair(config: CLIPConfig, model_directory: Path, directory: Path) -> None:
    """Write the pair of a model directory; a vocabulary other than CLIP's must exist in it.

    Raises:
        ModelError: transformers has no CLIP or SigLIP with these inputs.
    """
    import onnx

    write_settings(config, directory)
    (directory / "onnx").mkdir()
    for tower, name in FILES.items():
        model = onnx.load(graph_path(model_directory, tower))  # with its weights
        _rename_output(model.graph, OUTPUTS[tower])
        large = model.ByteSize() > MAX_BYTES
        path = directory / "onnx" / name
        onnx.save(model, path, save_as_external_data=large, location=f"{name}_data")


def _rename_output(graph: onnx.GraphProto, name: str) -> None:
    output = graph.output[0]
    for node in graph.node:
        node.output[:] = [name if value == output.name else value for value in node.output]
        node.input[:] = [name if value == output.name else value for value in node.input]
    output.name = name
