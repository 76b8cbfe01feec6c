"""Model directories from two ONNX graphs of any source, one for pictures and one for texts.

The weights of the graphs are moved into `model.safetensors`, so that the result is a model
directory like others, of which no layers are known.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twotower.encode.devices import CPU
from twotower.encode.onnx import ONNX_TYPES, WeightReferences
from twotower.encode.sessions import GRAPH_FILES, Tower, start_session
from twotower.errors import EngineError, ModelError
from twotower.inputs.preprocess import PreprocessConfig
from twotower.inputs.tokenizer import OPENAI_TOKENIZER, TokenizerConfig
from twotower.model.config import (
    CONFIG_FILE,
    CLIPConfig,
    GraphTextConfig,
    GraphVisionConfig,
    is_model_directory,
    read_config,
)
from twotower.model.weight_files import WEIGHTS_FILE, Arrays, save_arrays

if TYPE_CHECKING:  # onnx is imported in functions: importing this file is cheap
    import onnx

# Names of a pair relative to its folder: plain, Xenova's and transformers.js', Immich's.
NAMES = (
    ("vision.onnx", "text.onnx"),
    ("vision_model.onnx", "text_model.onnx"),
    ("onnx/vision_model.onnx", "onnx/text_model.onnx"),
    ("visual/model.onnx", "textual/model.onnx"),
    ("visual.onnx", "textual.onnx"),
)
WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
LOGIT_SCALE = math.log(100)  # of OpenAI's CLIP, for graphs, which have none
MIN_BYTES = 1024  # of a tensor that is moved; smaller ones include shapes
INPUTS: dict[Tower, str] = {"vision": "pixel_values", "text": "input_ids"}
MIN_IR_VERSION = 4  # earlier ones list weights as inputs
OUTPUTS = ("image_embeds", "text_embeds", "embedding", "pooler_output")


class OnnxPair(NamedTuple):
    """The graph for pictures and the graph for texts."""

    vision: Path
    text: Path


class InputSettings(NamedTuple):
    """The preparation of the inputs of a pair.

    Attributes:
        vocabulary: the folder of the files of the tokenizer.
        padded: True if texts need padding to the whole context.
    """

    preprocess: PreprocessConfig
    tokenizer: TokenizerConfig
    vocabulary: Path
    padded: bool = False
    templates: tuple[str, ...] = ("a photo of a {}.",)


def find_pair(folder: Path) -> OnnxPair | None:
    """Return the graphs in a folder, or None if there are none or the weights are beside them."""
    if any((folder / name).exists() for name in WEIGHTS):
        return None
    for vision, text in NAMES:
        if (folder / vision).is_file() and (folder / text).is_file():
            return OnnxPair(folder / vision, folder / text)
    return None


def graph_in(path: Path) -> Path:
    """Return the graph that a path names: a file, or the `model.onnx` of a folder (Qdrant's)."""
    graph = path / "model.onnx" if path.is_dir() else path
    if not graph.is_file():
        raise ModelError(path, "no ONNX graph", "give a .onnx file, or a folder with model.onnx")
    return graph


def write_pair(pair: OnnxPair, directory: Path) -> CLIPConfig:
    """Write configuration, weights, vocabulary and graphs of a pair into an empty directory.

    A `config.json` near the graphs decides the preparation of inputs: of this package, of a
    transformers CLIP or SigLIP, or of open_clip (Immich). Without one it is that of OpenAI's CLIP,
    in the sizes of the graphs' inputs.

    Returns:
        The configuration.

    Raises:
        ModelError: a graph is missing or damaged, or has other inputs; or the preparation of its
            inputs is not supported.
    """
    image_shape = _input_shape(pair.vision, "pixel_values [n, 3, height, width]")
    text_shape = _input_shape(pair.text, "input_ids [n, context_length]")
    settings = _read_settings(pair)
    size = image_shape[3] or settings.preprocess.image_size
    length = text_shape[1] or settings.tokenizer.context_length
    _write_weights(pair, directory)
    config = CLIPConfig(
        name=_name(pair),
        embed_dim=_embed_dim(pair, directory, (size, length)),
        vision=GraphVisionConfig(size),
        text=GraphTextConfig(length, settings.padded),
        preprocess=replace(settings.preprocess, image_size=size),
        tokenizer=replace(settings.tokenizer, context_length=length),
        templates=settings.templates,
    )
    for name in config.tokenizer.files:
        shutil.copyfile(settings.vocabulary / name, directory / name)
    (directory / CONFIG_FILE).write_text(config.to_json() + "\n", encoding="utf-8")
    return config


def _name(pair: OnnxPair) -> str:
    """Return the name of the folder of a pair."""
    folder = pair.vision.resolve().parent
    return folder.parent.name if folder.name in ("onnx", "visual") else folder.name


# --- preparation of inputs -----------------------------------------------------------------------


def _read_settings(pair: OnnxPair) -> InputSettings:
    """Read the settings in the folder of the graphs, in that of the texts, or in their parent."""
    folders = (pair.vision.parent, pair.text.parent, pair.vision.parent.parent)
    for folder in folders:
        if (folder / CONFIG_FILE).is_file():
            return _settings_in(folder, pair)
    return InputSettings(PreprocessConfig(), OPENAI_TOKENIZER, pair.text.parent)


def _settings_in(folder: Path, pair: OnnxPair) -> InputSettings:
    if is_model_directory(folder):
        ours = read_config(folder)
        vocabulary = ours.text_directory(folder)
        return InputSettings(
            ours.preprocess, ours.tokenizer, vocabulary, ours.needs_padding, ours.templates
        )
    from twotower.model.foreign import open_clip, transformers
    from twotower.model.foreign.rename import read_json

    tree = read_json(folder / CONFIG_FILE)
    if "vision_cfg" in tree:  # Immich's, of open_clip
        preprocess, tokenizer = open_clip.read_input_settings(
            tree, read_json(pair.vision.parent / "preprocess_cfg.json"), pair.text.parent
        )
        return InputSettings(preprocess, tokenizer, pair.text.parent, tokenizer.kind != "bpe")
    theirs = transformers.read_settings(folder)
    return InputSettings(theirs.preprocess, theirs.tokenizer, folder, theirs.needs_padding)


# --- graphs --------------------------------------------------------------------------------------


def _input_shape(path: Path, expected: str) -> list[int | None]:
    """Return the shape of a graph's main input, with None for variable sizes.

    Args:
        expected: the name of that input, and its axes.
    """
    try:
        session = start_session(path, device=CPU)
    except EngineError as error:
        raise ModelError(path, error.reason, "give a graph that onnxruntime can run") from None
    shape = _main_input(session.get_inputs(), expected.split()[0]).shape
    if len(shape) != expected.count(",") + 1:
        reason = f"its first input has the shape {shape}"
        raise ModelError(path, reason, f"give a graph with the input {expected}")
    return [size if isinstance(size, int) else None for size in shape]


def _embed_dim(pair: OnnxPair, directory: Path, sizes: tuple[int, int]) -> int:
    """Compute a blank picture and text with the graphs in `directory`; return their embed_dim.

    Args:
        sizes: image_size and context_length.
    """
    image_size, length = sizes
    blanks: dict[Tower, NDArray[Any]] = {
        "vision": np.zeros((1, 3, image_size, image_size), np.float32),
        "text": np.zeros((1, length), np.int64),
    }
    shapes = []
    for (tower, blank), path in zip(blanks.items(), pair, strict=True):
        session = start_session(directory / GRAPH_FILES[tower], device=CPU)
        try:
            shapes.append(session.run(None, {INPUTS[tower]: blank})[0].shape)
        except Exception as error:  # onnxruntime's exceptions have no public base class
            reason = f"cannot be computed ({str(error).splitlines()[0][:200]})"
            raise ModelError(path, reason, "give a graph that onnxruntime can run") from None
    if len(shapes[0]) != 2 or shapes[0] != shapes[1]:
        reason = f"computes vectors of shape {shapes[0]}, but {pair.text} of {shapes[1]}"
        raise ModelError(pair.vision, reason, "give two graphs that compute [n, embed_dim]")
    return int(shapes[0][1])


def _main_input(inputs: Any, name: str) -> Any:
    """Return the input of this name; unknown names mean the first."""
    return next((value for value in inputs if value.name == name), inputs[0])


def _output(outputs: Any) -> Any:
    """Return the output with the pooled vectors; unknown names mean the first."""
    by_name = {output.name: output for output in outputs}
    return next((by_name[name] for name in OUTPUTS if name in by_name), outputs[0])


def _write_weights(pair: OnnxPair, directory: Path) -> None:
    """Write both graphs with the names of our inputs, and their weights into one file."""
    import onnx

    models: dict[Tower, onnx.ModelProto] = {
        "vision": onnx.load(pair.vision),
        "text": onnx.load(pair.text),
    }
    for tower, model in models.items():
        _adapt_inputs(model.graph, INPUTS[tower], (pair.vision, pair.text)[tower == "text"])
        _keep_output(model.graph)
        model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    arrays: Arrays = {"logit_scale": np.array(LOGIT_SCALE, np.float32)}
    moved = {tower: _move_weights(model, tower, arrays) for tower, model in models.items()}
    save_arrays(arrays, directory / WEIGHTS_FILE)
    for tower, model in models.items():
        references = WeightReferences(model, directory / WEIGHTS_FILE)
        for name in moved[tower]:
            references.add(name, f"{tower}.{name}")
        onnx.save(model, directory / GRAPH_FILES[tower])


def _move_weights(model: onnx.ModelProto, tower: Tower, arrays: Arrays) -> list[str]:
    """Move the large tensors of a graph to `arrays`, under the prefix of the tower."""
    from onnx import numpy_helper

    kept, moved = [], []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.data_type in ONNX_TYPES.values() and array.nbytes >= MIN_BYTES:
            arrays[f"{tower}.{tensor.name}"] = array
            moved.append(tensor.name)
        else:
            kept.append(tensor)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return moved


def _adapt_inputs(graph: onnx.GraphProto, name: str, path: Path) -> None:
    """Name the first input, take int64 ids, and attend to all positions.

    Raises:
        ModelError: the graph has an input that is not known.
    """
    from onnx import TensorProto, helper

    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    source = _main_input(inputs, name)
    kind = source.type.tensor_type.elem_type
    our_kind = TensorProto.INT64 if name == "input_ids" else TensorProto.FLOAT
    nodes = []
    if (source.name, kind) != (name, our_kind):
        nodes.append(helper.make_node("Cast", [name], [f"{name}.cast"], to=kind))
        _rename_uses(graph, source.name, f"{name}.cast")
    for mask in inputs:
        if mask.name == source.name:
            continue
        if mask.name != "attention_mask":
            reason = f"needs the input {mask.name!r}"
            raise ModelError(path, reason, "give a graph with one input, or with attention_mask")
        fill = helper.make_tensor("fill", TensorProto.INT64, [1], [1])
        nodes += [
            helper.make_node("Shape", [name], ["mask.shape"]),
            helper.make_node("ConstantOfShape", ["mask.shape"], ["mask.int64"], value=fill),
            helper.make_node(
                "Cast", ["mask.int64"], [mask.name], to=mask.type.tensor_type.elem_type
            ),
        ]
    source.name, source.type.tensor_type.elem_type = name, our_kind
    body = [*nodes, *graph.node]
    del graph.input[:], graph.node[:]
    graph.input.append(source)
    graph.node.extend(body)


def _rename_uses(graph: onnx.GraphProto, name: str, new_name: str) -> None:
    for node in graph.node:
        node.input[:] = [new_name if value == name else value for value in node.input]


def _keep_output(graph: onnx.GraphProto) -> None:
    """Keep the output with the pooled vectors alone, which engines read as the first."""
    output = _output(graph.output)
    del graph.output[:]
    graph.output.append(output)
