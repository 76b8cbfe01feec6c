"""Import onnxruntime and OpenVINO with their telemetry off: no network, no device id.

onnxruntime (from version 1.29 on) and OpenVINO report their use to their makers, and keep an
identifier in the home folder. This package imports them nowhere else.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

_OPENVINO_TELEMETRY = "openvino_telemetry"


def import_onnxruntime() -> ModuleType:
    """Import onnxruntime without telemetry. Raises `ModuleNotFoundError`."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, at the first import
    onnxruntime = importlib.import_module("onnxruntime")
    onnxruntime.disable_telemetry_events()  # if the program had imported it before
    return onnxruntime


def import_openvino() -> ModuleType:
    """Import OpenVINO without telemetry. Raises `ModuleNotFoundError`.

    OpenVINO reports through the package `openvino_telemetry`, and runs without it. No setting turns
    it off for a single process.
    """
    if "openvino" in sys.modules or _OPENVINO_TELEMETRY in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[_OPENVINO_TELEMETRY] = None  # type: ignore[assignment]  # as if not installed
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[_OPENVINO_TELEMETRY]
