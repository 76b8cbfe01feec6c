"""The engine that embeds pictures fastest on this machine, measured once for each model."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from filelock import FileLock

from twotower.arrays import Float32Array, normalize
from twotower.encode.devices import AUTO, CPU, ENGINE_NAMES, split_engine
from twotower.encode.engine import ROUNDING_ENGINES, Engine, accelerator, start_engine
from twotower.encode.golden import GOLDEN_COSINE, golden_hash, read_golden
from twotower.encode.machine import available_threads, instruction_sets, processor
from twotower.errors import TwotowerError
from twotower.files import atomic_write, cache_folder
from twotower.inputs.preprocess import Preprocess
from twotower.model.config import read_config
from twotower.progress import Progress, ReportProgress

EXACT, INT8, OPENVINO, BFLOAT16, _ = ENGINE_NAMES
EXACT_ON_CPU = f"{EXACT}:{CPU}"
ROUNDED_COSINE = 0.99  # least cosine with golden vectors of an engine that rounds
GAIN = 1.1  # a faster engine must be this many times as fast, or the difference may be noise
BATCH, ROUNDS = 4, 3  # of the measurement
MEASURED_FROM = 500  # pictures; for fewer, measuring takes longer than it saves


@dataclass(frozen=True)
class EngineChoice:
    """The result of a measurement.

    Attributes:
        engine: the name of the engine.
        speed: pictures in a second, as a multiple of onnxruntime in float32.
        cosine: the lowest with the golden vectors of the model's pictures.
    """

    engine: str
    speed: float
    cosine: float


def golden_cosine(engine: str, kind: str = "picture") -> float:
    """Return the least cosine with golden vectors that an engine must reach.

    Args:
        kind: of the vectors, "picture" or "text"; int8 is for pictures alone.
    """
    runtime = split_engine(engine)[0]
    rounds = runtime in ROUNDING_ENGINES and (kind == "picture" or runtime != INT8)
    return ROUNDED_COSINE if rounds else GOLDEN_COSINE


def known_engine(engine: str, directory: Path, threads: int | None) -> str:
    """Return the engine that "auto" means before a measurement: an earlier choice, or onnxruntime.

    Args:
        engine: "auto", with or without a device. One that is not the CPU computes in onnxruntime.
    """
    device = split_engine(engine)[1]
    if device not in (AUTO, CPU):
        return f"{EXACT}:{device}"
    if choice := read_choice(directory, threads):
        return choice.engine
    return EXACT if device == AUTO else EXACT_ON_CPU


def choose_engine(engine: str, directory: Path, threads: int | None, report: ReportProgress) -> str:
    """Return the fastest engine for the pictures of a model; measure if no choice is stored.

    Engines must reproduce the golden vectors of the model (`golden_cosine`).

    Args:
        engine: the result of `known_engine`.
    """
    if accelerator(engine):
        return engine
    try:
        folder = cache_folder() / "engines"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):  # two measurements at once would disturb each other
            choice = read_choice(directory, threads)
            if choice is None:
                choice = measure(directory, threads, report)
                with atomic_write(_choice_path(directory, threads)) as file:
                    json.dump(asdict(choice), file)
    except (TwotowerError, OSError):  # such as a cache that cannot be written
        return engine
    return choice.engine


def measure(directory: Path, threads: int | None, report: ReportProgress) -> EngineChoice:
    """Compare the engines that are installed, in alternation with the fastest so far."""
    golden = read_golden(directory)
    preprocess = Preprocess(read_config(directory).preprocess)
    pixel_values = np.stack([preprocess(picture) for picture in golden.pictures])
    names = [EXACT_ON_CPU, *_alternatives()]

    def start(number: int) -> tuple[Engine, float]:
        stage = f"Measuring which engine is fastest here: {names[number]}"
        report(Progress(number, len(names), stage=stage))
        engine = start_engine(names[number], directory, "vision", threads)
        embeds = normalize(engine(pixel_values))
        return engine, float((embeds * golden.image_embeds).sum(axis=1).min())

    fastest, cosine = start(0)
    choice = EngineChoice(EXACT_ON_CPU, 1.0, round(cosine, 5))
    for number in range(1, len(names)):
        try:
            engine, cosine = start(number)
            speed = _relative_speed(engine, fastest, pixel_values[:BATCH])
        except Exception:  # of a library, or the tower has no such form: it is not chosen
            continue
        if cosine >= golden_cosine(names[number]) and speed >= GAIN:
            fastest = engine
            choice = EngineChoice(names[number], round(choice.speed * speed, 2), round(cosine, 5))
    report(Progress(len(names), len(names), stage=f"Using {choice.engine}"))
    return choice


def _relative_speed(engine: Engine, rival: Engine, pixel_values: Float32Array) -> float:
    """Return how many times as fast an engine is as another, in the best of some rounds."""
    seconds: dict[Engine, float] = {}
    for _ in range(ROUNDS):
        for candidate in (engine, rival):
            start = time.perf_counter()
            candidate(pixel_values)
            elapsed = time.perf_counter() - start
            seconds[candidate] = min(elapsed, seconds.get(candidate, elapsed))
    return seconds[rival] / seconds[engine]


def _alternatives() -> Iterator[str]:
    """Yield engines that may be faster than onnxruntime in float32."""
    yield INT8
    if _version("openvino"):
        yield OPENVINO
        if {"avx512_bf16", "amx_bf16"} & set(instruction_sets()):
            yield BFLOAT16


def read_choice(directory: Path, threads: int | None) -> EngineChoice | None:
    """Return the choice of an earlier measurement, if there is one for this machine."""
    try:
        tree = json.loads(_choice_path(directory, threads).read_text(encoding="utf-8"))
        return EngineChoice(**tree)
    except (TwotowerError, OSError, ValueError, TypeError):
        return None


def _choice_path(directory: Path, threads: int | None) -> Path:
    """Return the file of the choice for a model and this machine."""
    engines = [_version(name) for name in ("twotower", "onnxruntime", "openvino")]
    machine = [processor(), instruction_sets(), threads or available_threads(), engines]
    digest = hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:12]
    return cache_folder() / "engines" / f"{golden_hash(directory)}-{digest}.json"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
