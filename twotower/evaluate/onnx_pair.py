"""Two ONNX graphs from anywhere, one for pictures and one for texts, as one encoder."""

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

from twotower.encode.convert import is_model_directory
from twotower.errors import ModelError
from twotower.inputs.preprocess import Preprocess, PreprocessConfig
from twotower.inputs.tokenizer import OPENAI_TOKENIZER, TokenizerConfig, load_tokenizer
from twotower.model.config import read_config

# How others name a pair, relative to its folder: Xenova's and transformers.js', Immich's, plain.
NAMES = (
    ("vision.onnx", "text.onnx"),
    ("vision_model.onnx", "text_model.onnx"),
    ("onnx/vision_model.onnx", "onnx/text_model.onnx"),
    ("visual/model.onnx", "textual/model.onnx"),
    ("visual.onnx", "textual.onnx"),
)
PLAIN = ("a photo of a {}.",)

WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)


def find_graphs(model: str) -> tuple[Path, Path] | None:
    """The picture's and the text's graph that `model` names, if it names a pair."""
    halves = model.split(",")
    if len(halves) == 2 and all(half.strip().endswith(".onnx") for half in halves):
        return Path(halves[0].strip()), Path(halves[1].strip())
    folder = Path(model)
    if any((folder / name).exists() for name in WEIGHTS):  # `load` knows more about such a folder
        return None
    for vision, text in NAMES:
        if (folder / vision).is_file() and (folder / text).is_file():
            return folder / vision, folder / text
    return None


class OnnxPair:
    """`encode_image` and `encode_text` over two graphs.

    Pictures and texts become inputs as a `config.json` of ours beside the graphs says; with one of
    transformers' CLIP, as that does it; without one, as OpenAI's CLIP does, in the sizes that the
    graphs ask for.

    Raises:
        OnnxPairError: a graph is missing or damaged, asks for something else, or is of a model
            whose inputs are made in another way.
    """

    def __init__(self, vision: Path, text: Path) -> None:
        self.paths = vision, text
        self._vision, self._text = _session(vision), _session(text)
        size = self._fixed(self._vision, vision, 4, "pictures [n, 3, height, width]")[3]
        length = self._fixed(self._text, text, 2, "ids [n, context_length]")[1]
        folders = (vision.parent, vision.parent.parent)
        beside = next((one for one in folders if (one / "config.json").is_file()), None)
        preprocess, tokenizer, self.templates = _settings(beside)
        self.preprocess_config = replace(preprocess, image_size=size or preprocess.image_size)
        tokenizer = replace(tokenizer, context_length=length or tokenizer.context_length)
        self._preprocess = Preprocess(self.preprocess_config)
        self._tokenizer = load_tokenizer(tokenizer, beside)

    def encode_image(self, pictures: list[PIL.Image.Image]) -> NDArray[np.float32]:
        """image_features [n, embed_dim]."""
        pixel_values = np.stack([self._preprocess(picture) for picture in pictures])
        return self._run(self._vision, self.paths[0], pixel_values)

    def encode_text(self, texts: list[str], batch_size: int = 64) -> NDArray[np.float32]:
        """text_features [n, embed_dim]."""
        rows = []
        for start in range(0, len(texts), batch_size):
            tokens = self._tokenizer(texts[start : start + batch_size])
            rows.append(
                self._run(self._text, self.paths[1], tokens.input_ids, tokens.attention_mask)
            )
        return np.concatenate(rows)

    def describe(self) -> dict[str, Any]:
        """Fingerprint of both graphs, and the preprocessing."""
        return {
            "fingerprint": self._fingerprint,
            "engine": "onnxruntime",
            "preprocess": asdict(self.preprocess_config),
        }

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def _run(self, session: Any, path: Path, *arrays: NDArray[Any]) -> NDArray[np.float32]:
        types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
        feed = {
            one.name: array.astype(types.get(one.type, np.float32))
            for one, array in zip(session.get_inputs(), arrays, strict=False)
        }
        outputs = {one.name: one.shape for one in session.get_outputs()}
        pooled = [name for name in outputs if name.endswith("_embeds")]  # transformers' exports
        try:
            answer = session.run(pooled[:1] or [next(iter(outputs))], feed)[0]
        except Exception as error:  # onnxruntime has no one exception of its own
            raise ModelError(f"{path}: {str(error).splitlines()[0][:200]}") from None
        return np.asarray(answer, np.float32)

    @staticmethod
    def _fixed(session: Any, path: Path, rank: int, what: str) -> list[int | None]:
        """The shape of a graph's first input, None where it is free."""
        shape = session.get_inputs()[0].shape
        if len(shape) != rank:
            raise ModelError(f"{path}: its first input has the shape {shape}; needed are {what}")
        return [one if isinstance(one, int) else None for one in shape]


def _settings(beside: Path | None) -> tuple[PreprocessConfig, TokenizerConfig, tuple[str, ...]]:
    """How inputs are made, by the `config.json` in a folder; and templates."""
    if beside is None:
        return PreprocessConfig(), OPENAI_TOKENIZER, PLAIN
    if is_model_directory(beside):
        config = read_config(beside)
        return config.preprocess, config.tokenizer, config.templates
    try:
        kind = json.loads((beside / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError, TypeError):
        kind = None
    if kind != "clip":
        raise ModelError(
            f"{beside / 'config.json'}: model_type is {kind!r}, and how its pictures and texts "
            "become inputs is known for 'clip' alone; put a config.json of ours beside the graphs, "
            "or give the folder with its weights"
        )
    preprocess = PreprocessConfig(rgb="before_resize", crop_offset="floor")
    return preprocess, replace(OPENAI_TOKENIZER, cleaning="huggingface", pad_id=49407), PLAIN


def _session(path: Path) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise ModelError(f"{path}: {str(error).splitlines()[0][:200]}") from None
