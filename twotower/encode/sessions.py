"""The graphs of a model directory, and sessions of onnxruntime that compute them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal, TypeAlias

from twotower.encode.devices import (
    AUTO,
    CPU,
    CPU_PROVIDER,
    PROVIDERS,
    choose_device,
    fallback_message,
    prepare_options,
)
from twotower.encode.runtimes import import_onnxruntime
from twotower.errors import EngineError
from twotower.model.config import read_config

# vision, text: the towers. patches, tokens: the towers without pooling. patch_features: the image
# tower with each patch in the shared space, for vision transformers with a class token.
Tower: TypeAlias = Literal["vision", "text", "patches", "tokens", "patch_features"]

GRAPH_FILES: dict[Tower, str] = {  # in a model directory
    "vision": "vision.onnx",
    "text": "text.onnx",
    "patches": "cells.onnx",
    "tokens": "tokens.onnx",
    "patch_features": "patch_features.onnx",
}


def graph_path(directory: Path, tower: Tower) -> Path:
    """Return the ONNX graph of a tower. Raises `EngineError` if it does not exist."""
    if tower in ("text", "tokens"):
        directory = read_config(directory).text_directory(directory)
    path = directory / GRAPH_FILES[tower]
    if not path.is_file():
        raise EngineError(path, "no such file", f"make it with: twotower convert {directory} NEW")
    return path


def start_session(path: Path | bytes, threads: int | None = None, device: str = AUTO) -> Any:
    """Load a graph, in a file or in memory, as an `InferenceSession` of onnxruntime.

    If the provider of the device cannot start, the CPU is used and a warning shown.

    Raises:
        EngineError: the graph cannot be read, or this onnxruntime does not have the device.
    """
    onnxruntime = import_onnxruntime()
    device = choose_device(device, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    # int8 weights become float32 once, when loading, instead of in every call
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # spinning threads would compete with the thread that converts the weights
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    prepare_options(options, device)
    if device != CPU:
        providers = [PROVIDERS[device], CPU_PROVIDER]
        try:
            session = onnxruntime.InferenceSession(path, options, providers=providers)
            if PROVIDERS[device] in session.get_providers():
                return session
            raise EngineError(PROVIDERS[device], "did not start", "see the messages above")
        except Exception as error:  # onnxruntime's exceptions have no public base class
            warnings.warn(fallback_message(device, error), stacklevel=2)
    try:
        return onnxruntime.InferenceSession(path, options, providers=[CPU_PROVIDER])
    except Exception as error:  # as above
        name = "the graph" if isinstance(path, bytes) else path
        raise unreadable_graph(name, "onnxruntime", error) from None


def unreadable_graph(path: str | Path, runtime: str, error: Exception) -> EngineError:
    """Return the error for a graph that an engine cannot load."""
    reason = str(error).strip().splitlines()[0][:200]
    return EngineError(
        path, f"{runtime} cannot load it ({reason})", "convert or download the model again"
    )
