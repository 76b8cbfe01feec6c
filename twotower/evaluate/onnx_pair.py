"""An encoder of two ONNX graphs, one for pictures and one for texts, from any source."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from twotower.arrays import Float32Array
from twotower.encode.runtimes import import_onnxruntime
from twotower.errors import ModelError
from twotower.inputs.preprocess import Preprocess, PreprocessConfig
from twotower.inputs.tokenizer import OPENAI_TOKENIZER, TokenizerConfig, load_tokenizer
from twotower.model.config import is_model_directory, read_config

# Names of a pair relative to its folder: plain, Xenova's and transformers.js', Immich's.
NAMES = (
    ("vision.onnx", "text.onnx"),
    ("vision_model.onnx", "text_model.onnx"),
    ("onnx/vision_model.onnx", "onnx/text_model.onnx"),
    ("visual/model.onnx", "textual/model.onnx"),
    ("visual.onnx", "textual.onnx"),
)
TEMPLATES = ("a photo of a {}.",)
WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)


def find_graphs(model: str) -> tuple[Path, Path] | None:
    """Return the graph for pictures and the graph for texts, or None if `model` is no such pair.

    Args:
        model: two paths with a comma between, or a folder.
    """
    halves = model.split(",")
    if len(halves) == 2 and all(half.strip().endswith(".onnx") for half in halves):
        return Path(halves[0].strip()), Path(halves[1].strip())
    folder = Path(model)
    if any((folder / name).exists() for name in WEIGHTS):  # `load` opens such a folder
        return None
    for vision, text in NAMES:
        if (folder / vision).is_file() and (folder / text).is_file():
            return folder / vision, folder / text
    return None


class OnnxPair:
    """An object with `encode_image` and `encode_text` for `ObjectModel`.

    A `config.json` in the folder of the graphs, or in its parent, decides the preprocessing and the
    tokenizer: one of this package exactly, one of a transformers CLIP as transformers does it.
    Without one they are those of OpenAI's CLIP, in the sizes of the graphs' inputs.

    Raises:
        ModelError: a graph is missing or damaged, has other inputs, or belongs to a model with
            another preprocessing.
    """

    def __init__(self, vision: Path, text: Path) -> None:
        self.paths = vision, text
        self._vision, self._text = _open_graph(vision), _open_graph(text)
        size = _input_shape(self._vision, vision, 4, "pixel_values [n, 3, height, width]")[3]
        length = _input_shape(self._text, text, 2, "input_ids [n, context_length]")[1]
        folders = (vision.parent, vision.parent.parent)
        folder = next((path for path in folders if (path / "config.json").is_file()), None)
        preprocess, tokenizer, self.templates = _read_settings(folder)
        self.preprocess_config = replace(preprocess, image_size=size or preprocess.image_size)
        tokenizer = replace(tokenizer, context_length=length or tokenizer.context_length)
        self._preprocess = Preprocess(self.preprocess_config)
        self._tokenizer = load_tokenizer(tokenizer, folder)

    def encode_image(self, pictures: list[PIL.Image.Image]) -> Float32Array:
        """Return image_features [n, embed_dim]."""
        pixel_values = np.stack([self._preprocess(picture) for picture in pictures])
        return self._run(self._vision, self.paths[0], pixel_values)

    def encode_text(self, texts: list[str], batch_size: int = 64) -> Float32Array:
        """Return text_features [n, embed_dim]."""
        batches = []
        for start in range(0, len(texts), batch_size):
            tokens = self._tokenizer(texts[start : start + batch_size])
            batches.append(
                self._run(self._text, self.paths[1], tokens.input_ids, tokens.attention_mask)
            )
        return np.concatenate(batches)

    def describe(self) -> dict[str, Any]:
        """Return the fingerprint of both graphs, the engine and the preprocessing."""
        return {
            "fingerprint": self._graphs_hash,
            "engine": "onnxruntime",
            "preprocess": asdict(self.preprocess_config),
        }

    @cached_property
    def _graphs_hash(self) -> str:
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def _run(self, session: Any, path: Path, *arrays: NDArray[Any]) -> Float32Array:
        types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
        feed = {
            node.name: array.astype(types.get(node.type, np.float32))
            for node, array in zip(session.get_inputs(), arrays, strict=False)
        }
        outputs = [node.name for node in session.get_outputs()]
        pooled = [name for name in outputs if name.endswith("_embeds")]  # transformers' exports
        try:
            features = session.run(pooled[:1] or outputs[:1], feed)[0]
        except Exception as error:  # onnxruntime has no base class of its exceptions
            raise _graph_error(path, error) from None
        return np.asarray(features, np.float32)


def _open_graph(path: Path) -> Any:
    onnxruntime = import_onnxruntime()
    try:
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no base class of its exceptions
        raise _graph_error(path, error) from None


def _graph_error(path: Path, error: Exception) -> ModelError:
    reason = str(error).splitlines()[0][:200]
    return ModelError(path, reason, "give a graph that onnxruntime can run")


def _input_shape(session: Any, path: Path, rank: int, expected: str) -> list[int | None]:
    """Return the shape of a graph's first input, with None for variable sizes."""
    shape = session.get_inputs()[0].shape
    if len(shape) != rank:
        raise ModelError(
            path,
            f"its first input has the shape {shape}",
            f"give a graph with the input {expected}",
        )
    return [size if isinstance(size, int) else None for size in shape]


def _read_settings(
    folder: Path | None,
) -> tuple[PreprocessConfig, TokenizerConfig, tuple[str, ...]]:
    """Return preprocessing, tokenizer and templates by the `config.json` in a folder."""
    if folder is None:
        return PreprocessConfig(), OPENAI_TOKENIZER, TEMPLATES
    if is_model_directory(folder):
        config = read_config(folder)
        return config.preprocess, config.tokenizer, config.templates
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError, TypeError):
        model_type = None
    if model_type != "clip":
        raise ModelError(
            folder / "config.json",
            f"model_type is {model_type!r}, but the preprocessing of 'clip' alone is known",
            "put a config.json of this package beside the graphs, or give the folder with its "
            "weights",
        )
    preprocess = PreprocessConfig(rgb="before_resize", crop_offset="floor")
    return preprocess, replace(OPENAI_TOKENIZER, cleaning="huggingface", pad_id=49407), TEMPLATES
