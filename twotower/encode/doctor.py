"""Facts about this installation, and how fast it is: for reports of problems."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from twotower.encode.download import RECORDS, is_downloaded
from twotower.encode.fastest import read_choice
from twotower.encode.load import find_model, load
from twotower.encode.machine import available_threads, instruction_sets, processor
from twotower.encode.registry import BUNDLED_MODELS, read_registry
from twotower.encode.runtimes import import_onnxruntime
from twotower.files import cache_folder
from twotower.version import __version__

PACKAGES = (
    *("numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "openvino"),
    *("torch", "safetensors", "tokenizers", "huggingface_hub", "simsimd"),
)
SECONDS = 10.0  # of the measurement, shared by its parts


def examine(seconds: float = SECONDS) -> dict[str, Any]:
    """Return versions, hardware, cache and models; and the measured speed of the bundled models.

    Args:
        seconds: how long to measure.
    """
    return {
        "versions": {"twotower": __version__, "python": platform.python_version()} | _versions(),
        "system": {
            "platform": platform.platform(),
            "processor": processor(),
            "instruction_sets": instruction_sets(),
            "threads": available_threads(),
        },
        "onnxruntime_providers": import_onnxruntime().get_available_providers(),
        "cache": _cache(),
        "models": {
            "bundled": list(BUNDLED_MODELS),
            "downloaded": [
                model.name
                for model in read_registry().models
                if model.hub and is_downloaded(model.hub, model.revision)
            ],
        },
        "engine_auto": {name: _choice(name) for name in BUNDLED_MODELS},
        "speed": {name: _measure(name, seconds / len(BUNDLED_MODELS)) for name in BUNDLED_MODELS},
    }


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _cache() -> dict[str, Any]:
    folder = cache_folder()
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    conversions = [path for path in folder.glob("*") if (path / "golden.safetensors").is_file()]
    return {
        "folder": str(folder),
        "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        "conversions": len(conversions),
        "repositories": len(list((folder / RECORDS).glob("*.json"))),
    }


def _choice(name: str) -> dict[str, Any] | str:
    """Return what "auto" chose for a model, with its speed as a multiple of onnxruntime's."""
    choice = read_choice(find_model(name), threads=None)
    return asdict(choice) if choice else "not measured yet"


def _measure(name: str, seconds: float) -> dict[str, float]:
    """Return the lowest cosine of the golden vectors, and pictures and texts in a second."""
    model = load(name)
    cosine = model.verify()
    pixel_values = np.zeros((8, 3, model.config.vision.image_size, model.config.vision.image_size))
    batch = pixel_values.astype(np.float32)
    texts = [f"a photo of {number} cats on a red chair" for number in range(32)]
    return {
        "golden_cosine": round(cosine, 6),
        "pictures_per_second": _rate(lambda: model.encode_pixels(batch), 8, seconds / 2),
        "texts_per_second": _rate(lambda: model.encode_text(texts), 32, seconds / 2),
    }


def _rate(call: Callable[[], object], items: int, seconds: float) -> float:
    """Return the items in a second of the fastest call in this time."""
    end, fastest = time.perf_counter() + seconds, float("inf")
    while fastest == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        fastest = min(fastest, time.perf_counter() - start)
    return round(items / fastest, 1)
