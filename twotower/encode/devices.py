"""The names of engines, and the devices of onnxruntime: which of its providers computes.

The engine of a model is named "onnxruntime", or with its device, such as "onnxruntime:cuda".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twotower.errors import EngineError

ENGINE_NAMES = ("onnxruntime", "onnxruntime-int8", "openvino", "openvino-bf16", "torch")
AUTO, CPU = "auto", "cpu"
CPU_PROVIDER = "CPUExecutionProvider"
PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "dml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
# "auto" takes these if they are there. The others compile a model for minutes, or round more.
AUTOMATIC = ("cuda",)
DEVICES = (AUTO, CPU, *PROVIDERS)
INSTALL = {
    "cuda": "pip install onnxruntime-gpu (instead of onnxruntime)",
    "tensorrt": "pip install onnxruntime-gpu (instead of onnxruntime) and TensorRT",
    "coreml": "use onnxruntime on macOS",
    "dml": "on Windows: pip install onnxruntime-directml (instead of onnxruntime)",
    "openvino": "pip install onnxruntime-openvino (instead of onnxruntime)",
}


def split_engine(engine: str) -> tuple[str, str]:
    """Return the runtime and the device of an engine's name.

    Raises:
        EngineError: there is no such device.
    """
    runtime, _, device = engine.partition(":")
    if device and device not in DEVICES:
        raise EngineError(device, "no such device", f"choose one of {', '.join(DEVICES)}")
    return runtime, device or AUTO


def choose_device(device: str, available: Sequence[str]) -> str:
    """Return "cpu" or a key of `PROVIDERS`.

    Args:
        available: the providers of this onnxruntime.

    Raises:
        EngineError: this onnxruntime does not have the provider of `device`.
    """
    if device == AUTO:
        return next((name for name in AUTOMATIC if PROVIDERS[name] in available), CPU)
    if device != CPU and PROVIDERS[device] not in available:
        raise EngineError(
            f"--device {device}",
            f"this onnxruntime has no {PROVIDERS[device]}",
            f"{INSTALL[device]}, or leave it out",
        )
    return device


def prepare_options(options: Any, device: str) -> None:
    """Set what a provider requires in `SessionOptions`."""
    if device == "dml":
        options.enable_mem_pattern = False  # DirectML has neither this nor parallel execution


def fallback_message(device: str, error: Exception) -> str:
    """Return the line that is shown when the CPU computes instead of `device`."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
    return f"--device {device} failed ({reason}); the CPU is used"
