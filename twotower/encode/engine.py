"""What runs a tower: onnxruntime by default, OpenVINO or torch on request, one small interface."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from twotower.errors import EngineError

# patches: the image tower, place by place; cells, tokens: what the two towers pool, before they do
Tower = Literal["vision", "text", "patches", "cells", "tokens"]


class Engine(Protocol):
    """A started tower."""

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """pixel_values [n, 3, S, S] or input_ids [n, L] -> features, not of unit length.

        They are [n, embed_dim], or [n, patches, embed_dim] of the patches; of cells and tokens
        what the towers pool, [n, cells, width] or [n, L, width].
        """


def start_engine(name: str, directory: Path, tower: Tower, threads: int | None = None) -> Engine:
    """Load one tower of a model directory.

    Args:
        name: "onnxruntime", "openvino" or "torch".
        tower: "patches" is for torch, and for vision transformers with a class token.
        threads: CPU threads; by default the engine takes all cores.

    Raises:
        EngineError: unknown name, the package is not installed, or the graph cannot be read.
    """
    if name not in ENGINES:
        raise EngineError(f"no engine {name!r}; there are {', '.join(ENGINES)}")
    try:
        return ENGINES[name](directory, tower, threads)
    except ModuleNotFoundError as error:
        raise EngineError(
            f"the {name} engine needs the package {error.name!r}: {INSTALL[name]}"
        ) from None


def graph_path(directory: Path, tower: Tower) -> Path:
    """The ONNX graph of a tower; its weights are read from `model.safetensors` beside it."""
    path = directory / f"{tower}.onnx"
    if not path.is_file():
        raise EngineError(f"{path}: no such file; make it with: twotower convert {directory} NEW")
    return path


def _onnxruntime(directory: Path, tower: Tower, threads: int | None) -> Engine:
    session = start_session(graph_path(directory, tower), threads)
    name = session.get_inputs()[0].name
    return lambda batch: np.asarray(session.run(None, {name: batch})[0], np.float32)


def start_session(path: Path, threads: int | None = None) -> Any:
    """onnxruntime's `InferenceSession` of a graph.

    Raises:
        EngineError: the graph cannot be read.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    # int8 weights become float32 once, at load, instead of being unpacked at every call
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # threads that spin while they wait take, at load, the core from the one that unpacks weights
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [one for one in wanted if one in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        raise EngineError(f"{path}: onnxruntime cannot load it ({_first_line(error)})") from None


def _openvino(directory: Path, tower: Tower, threads: int | None) -> Engine:
    # Without these two OpenVINO may compute in bfloat16 and quantise activations for int8 weights.
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    path = graph_path(directory, tower)
    try:
        compiled = _openvino_core().compile_model(path, "CPU", settings)
    except RuntimeError as error:
        raise EngineError(f"{path}: OpenVINO cannot load it ({_first_line(error)})") from None
    return lambda batch: np.array(compiled(batch)[0], np.float32)


_CORE_LOCK = threading.Lock()
_CORE: list[Any] = []


def _openvino_core() -> Any:
    """Return the only `openvino.Core` of this process, which lives until its end.

    Each Core of OpenVINO 2026.4 installs a signal stack (`sigaltstack`). If two are freed in the
    order in which they were made, the stack of the earlier one is restored although it is unmapped,
    and the next signal with a Python handler, such as Ctrl-C, is a segmentation fault
    (tests/encode/openvino_signal_stack.py shows it without this package).
    """
    import openvino

    with _CORE_LOCK:
        if not _CORE:
            _CORE.append(openvino.Core())
    return _CORE[0]


def _torch(directory: Path, tower: Tower, threads: int | None) -> Engine:
    import torch

    from twotower.model.weights import load_model

    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(directory)
    module = (model.text if tower in ("text", "tokens") else model.vision).to(device)
    method = {"patches": "patch_features", "cells": "grid", "tokens": "tokens"}.get(tower)
    compute = getattr(module, method) if method else module

    def run(batch: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            features = compute(torch.from_numpy(batch).to(device))
        return np.asarray(features.float().cpu().numpy(), np.float32)

    return run


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


ENGINES: dict[str, Callable[[Path, Tower, int | None], Engine]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torch,
}
INSTALL = {
    "onnxruntime": "pip install onnxruntime",
    "openvino": "pip install 'twotower[openvino]'",
    "torch": "pip install 'twotower[train]'",
}
