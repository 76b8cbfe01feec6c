"""Engines for the towers of a model directory, in onnxruntime, OpenVINO and torch."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array
from twotower.encode.devices import (
    AUTO,
    CPU,
    choose_device,
    split_engine,
)
from twotower.encode.runtimes import import_onnxruntime, import_openvino
from twotower.encode.sessions import Tower, graph_path, start_session, unreadable_graph
from twotower.errors import EngineError
from twotower.model.config import read_config


class Engine(Protocol):
    """A tower in a runtime."""

    def __call__(self, batch: NDArray[Any]) -> Float32Array:
        """Compute features, not of unit length.

        Args:
            batch: pixel_values [n, 3, S, S] or input_ids [n, L].

        Returns:
            [n, embed_dim] of vision and text, [n, patches, width] of patches, [n, L, width] of
            tokens, [n, patches, embed_dim] of patch_features.
        """


# In the messages of onnxruntime, OpenVINO and torch, which have no common class of exception.
_OUT_OF_MEMORY = (
    "bad_alloc",
    "failed to allocate",
    "can't allocate",
    "out of memory",
    "arena::allocate",
)


class HalvingEngine:
    """An engine that computes a batch in halves where the memory is too small for the whole.

    The size that was possible is kept for the batches that follow.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._max_rows: int | None = None

    def __call__(self, batch: NDArray[Any]) -> Float32Array:
        """Compute features as `Engine` does.

        Raises:
            EngineError: the memory is too small for a single row.
        """
        outputs: list[Float32Array] = []
        start = 0
        while start < len(batch) or not outputs:
            rows = batch[start : start + (self._max_rows or len(batch))]
            try:
                outputs.append(self._engine(rows))
                start += len(rows)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(len(rows))
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def _halve(self, rows: int) -> None:
        if rows <= 1:
            raise EngineError(
                "a batch of 1",
                "does not fit into the memory",
                "close other programs, or choose a smaller model",
            ) from None
        self._max_rows = rows // 2
        warnings.warn(
            f"the memory is too small for a batch of {rows}; {self._max_rows} are computed at once",
            stacklevel=3,
        )


def is_out_of_memory(error: Exception) -> bool:
    """Return True for the errors of numpy and of the engines when memory cannot be allocated."""
    if isinstance(error, MemoryError):
        return True
    return any(message in str(error).lower() for message in _OUT_OF_MEMORY)


def start_engine(name: str, directory: Path, tower: Tower, threads: int | None = None) -> Engine:
    """Load a tower of a model directory.

    Args:
        name: a key of `ENGINES`; with a device, such as "onnxruntime:cuda".
        threads: CPU threads; by default all cores.

    Raises:
        EngineError: the name is unknown, its package is not installed, it does not have the device,
            or it cannot read the graph.
    """
    runtime, device = split_engine(name)
    if runtime not in ENGINES:
        raise EngineError(runtime, "no such engine", f"choose one of {', '.join(ENGINES)}")
    if device not in DEVICES_OF_ENGINES.get(runtime, (device,)):
        raise EngineError(
            f"--engine {runtime}", f"does not have the device {device}", "leave it out"
        )
    try:
        return ENGINES[runtime](directory, tower, threads, device)
    except ModuleNotFoundError as error:
        raise EngineError(
            f"the {runtime} engine", f"needs the package {error.name!r}", INSTALL[runtime]
        ) from None


def accelerator(name: str) -> str | None:
    """Return the device of an onnxruntime engine, or of "auto", if it is not the CPU."""
    runtime, device = split_engine(name)
    if runtime not in ("onnxruntime", AUTO):
        return None
    device = choose_device(device, import_onnxruntime().get_available_providers())
    return None if device == CPU else device


def _start_onnxruntime(directory: Path, tower: Tower, threads: int | None, device: str) -> Engine:
    return _start_graph(graph_path(directory, tower), threads, device)


def _start_int8(directory: Path, tower: Tower, threads: int | None, device: str) -> Engine:
    """Start the image tower in int8, and other towers in float32."""
    from twotower.encode.int8 import int8_graph, rows_at_once

    if tower != "vision":
        return _start_onnxruntime(directory, tower, threads, device)
    path = int8_graph(directory)
    try:
        engine = _start_graph(path, threads, device)
    except EngineError:  # damaged: it is only a file of the cache
        path.unlink(missing_ok=True)
        engine = _start_graph(int8_graph(directory), threads, device)
    rows = rows_at_once(read_config(directory).vision)

    def run(batch: NDArray[Any]) -> Float32Array:
        starts = range(0, len(batch), rows)
        features = [engine(batch[start : start + rows]) for start in starts]
        return np.concatenate(features) if features else engine(batch)

    return run


def _start_graph(path: Path, threads: int | None, device: str) -> Engine:
    session = start_session(path, threads, device)
    pixels_or_ids = session.get_inputs()[0]
    name = pixels_or_ids.name
    return _fit_batches(lambda batch: session.run(None, {name: batch})[0], pixels_or_ids.shape)


def _start_openvino(
    directory: Path, tower: Tower, threads: int | None, device: str, precision: str = "f32"
) -> Engine:
    # Without these, OpenVINO may choose bfloat16, and quantise activations for int8 weights.
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    path = graph_path(directory, tower)
    try:
        compiled = _openvino_core().compile_model(path, "CPU", settings)
    except RuntimeError as error:
        raise unreadable_graph(path, "OpenVINO", error) from None
    axes = compiled.inputs[0].partial_shape
    sizes = [axis.get_length() if axis.is_static else None for axis in axes]
    return _fit_batches(lambda batch: np.array(compiled(batch)[0]), sizes)


def _fit_batches(compute: Callable[[NDArray[Any]], NDArray[Any]], shape: Sequence[Any]) -> Engine:
    """Compute batches with a graph whose input may have a fixed number of rows or tokens.

    Graphs of other exporters have; positions after the end of a text are padded with 0.

    Args:
        shape: of the input; the size of a variable axis is no integer.
    """
    length = shape[1] if len(shape) == 2 and isinstance(shape[1], int) else 0

    def run(batch: NDArray[Any]) -> Float32Array:
        if batch.shape[1] < length:
            batch = np.pad(batch, ((0, 0), (0, length - batch.shape[1])))
        if shape[0] == 1:
            return np.concatenate([compute(row[None]) for row in batch]).astype(np.float32)
        return np.asarray(compute(batch), np.float32)

    return run


_CORE_LOCK = threading.Lock()
_CORE: list[Any] = []


def _openvino_core() -> Any:
    """Return the only `openvino.Core` of this process, which lives until its end.

    Each Core of OpenVINO 2026.4 installs a signal stack (`sigaltstack`). If two are freed in the
    order in which they were made, the stack of the earlier one is restored although it is unmapped,
    and the next signal with a Python handler, such as Ctrl-C, is a segmentation fault
    (tests/encode/openvino_signal_stack.py shows it without this package).
    """
    with _CORE_LOCK:
        if not _CORE:
            _CORE.append(import_openvino().Core())
    return _CORE[0]


def _start_torch(directory: Path, tower: Tower, threads: int | None, device: str) -> Engine:
    import torch

    from twotower.model.weights import load_model

    if threads:
        torch.set_num_threads(threads)
    if device == AUTO:
        device = "cuda" if torch.cuda.is_available() else CPU
    model = load_model(directory)
    module = (model.text if tower in ("text", "tokens") else model.vision).to(device)
    compute = module if tower in ("vision", "text") else getattr(module, tower)

    def run(batch: NDArray[Any]) -> Float32Array:
        with torch.inference_mode():
            features = compute(torch.from_numpy(batch).to(device))
        return np.asarray(features.float().cpu().numpy(), np.float32)

    return run


ENGINES: dict[str, Callable[[Path, Tower, int | None, str], Engine]] = {
    "onnxruntime": _start_onnxruntime,
    "onnxruntime-int8": _start_int8,
    "openvino": _start_openvino,
    "openvino-bf16": partial(_start_openvino, precision="bf16"),  # if the CPU has it
    "torch": _start_torch,
}
DEVICES_OF_ENGINES = {  # the others: any
    "onnxruntime-int8": (AUTO, CPU),
    "openvino": (AUTO, CPU),
    "openvino-bf16": (AUTO, CPU),
    "torch": (AUTO, CPU, "cuda"),
}
ROUNDING_ENGINES = ("onnxruntime-int8", "openvino-bf16")
INSTALL = {
    "onnxruntime": "pip install onnxruntime",
    "onnxruntime-int8": "pip install onnxruntime onnx",
    "openvino": "pip install 'twotower[openvino]'",
    "openvino-bf16": "pip install 'twotower[openvino]'",
    "torch": "pip install 'twotower[train]'",
}
