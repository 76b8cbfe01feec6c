"""The files of a hub repository that a model needs: one copy of its weights, and its settings.

Repositories often have the same weights for several libraries (safetensors, pickles, TensorFlow,
Flax, ONNX in several precisions).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

SETTINGS = (".json", ".txt", ".model")
OPEN_CLIP_CONFIG, GOLDEN = "open_clip_config.json", "golden.safetensors"
# Weights in the order of preference, each with its shards: (stem, suffix).
OPEN_CLIP_WEIGHTS = (("open_clip_model", ".safetensors"), ("open_clip_pytorch_model", ".bin"))
WEIGHTS = (("model", ".safetensors"), ("pytorch_model", ".bin"))
# Pairs of graphs of transformers.js, of fastembed and of Immich, in full precision.
GRAPHS = (
    *("onnx/vision_model.onnx", "onnx/text_model.onnx"),
    *("visual/model.onnx", "textual/model.onnx"),
    "model.onnx",
)
NESTED = re.compile(r"\d+_\w+")  # a module of sentence-transformers, such as 0_CLIPModel


def needed_files(names: Iterable[str]) -> list[str]:
    """Return the files to download, sorted.

    Args:
        names: all files of a repository, relative to its root, with slashes.
    """
    names = sorted(names)
    if GOLDEN in names:  # a model directory of this package
        return [name for name in names if PurePosixPath(name).suffix in (*SETTINGS, *_TENSORS)]
    folders = {""} | {folder for name in names if NESTED.fullmatch(folder := _folder(name))}
    weights = [file for folder in folders for file in _weights(folder, names)]
    if not weights:
        weights = [name for name in names if name.removesuffix("_data") in GRAPHS]
    folders |= {_folder(name) for name in weights}
    return sorted({*weights, *(name for name in names if _is_setting(name, folders))})


_TENSORS = (".safetensors", ".onnx")


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _is_setting(name: str, folders: set[str]) -> bool:
    indexes = (".safetensors.index.json", ".bin.index.json", ".h5.index.json")
    return _folder(name) in folders and name.endswith(SETTINGS) and not name.endswith(indexes)


def _weights(folder: str, names: list[str]) -> list[str]:
    """Return the weights of a folder: one file, or an index and its shards."""
    prefix = f"{folder}/" if folder else ""
    kinds = OPEN_CLIP_WEIGHTS if prefix + OPEN_CLIP_CONFIG in names else WEIGHTS
    for stem, suffix in kinds:
        single, index = f"{prefix}{stem}{suffix}", f"{prefix}{stem}{suffix}.index.json"
        if single in names:
            return [single]
        if index in names:
            shard = re.compile(rf"{re.escape(prefix + stem)}-\d+-of-\d+{re.escape(suffix)}")
            return [index, *filter(shard.fullmatch, names)]
    return []
