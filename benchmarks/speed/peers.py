"""Compare engines on ViT-B/32 and the bundled models: rates, start-up, memory, and rounding.

    python benchmarks/speed/peers.py [OPEN_CLIP]

OPEN_CLIP is a folder with open_clip, timm and torchvision (`pip install --no-deps --target`).
ViT-B/32 has the same random weights in all libraries; its text has 12 tokens, which open_clip and
plain graphs pad to 77. Each method runs in a process of its own, because idle thread pools disturb
the next library, and the processes take turns. Rates are pictures or texts a second, medians;
ratios are to open_clip, within a round. `of_peak` is the share of the rate of a float32 matrix
product of 2048 x 2048 in this run. Writes results/peers.csv and docs/peers.png.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.table import ROOT, write_results

ROUNDS = 5
BATCHES = (1, 8, 32)
GFLOP = {"ViT-B-32": 8.82, "base": 35.1}  # of a picture: twice the multiplications of its products
TEXT = "two dogs playing in the snow beside a wooden fence"
PEER = "open_clip"
COLUMNS = (
    *("model", "method", "batch_1", "batch_8", "batch_32", "one_text"),
    *("ratio_1", "ratio_8", "ratio_32", "ratio_text", "of_peak", "cosine"),
    *("start_seconds", "first_picture_seconds", "peak_mb"),
)

Encode: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]  # pixel_values -> features
EncodeText: TypeAlias = Callable[[str], NDArray[Any]]


# --- methods, each in a process of its own --------------------------------------------------------


def twotower_engine(folder: Path, engine: str) -> tuple[Encode, EncodeText]:
    import twotower

    model = twotower.load(folder if folder.exists() else folder.name, engine=engine)
    return model.encode_pixels, lambda text: model.encode_text([text])


def open_clip_model(folder: Path) -> tuple[Encode, EncodeText]:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import open_clip

    model = open_clip.create_model(f"local-dir:{folder / 'open_clip'}").eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32-quickgelu")

    def encode(pixel_values: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            return model.encode_image(torch.from_numpy(pixel_values)).numpy()

    def encode_text(text: str) -> NDArray[Any]:
        with torch.inference_mode():
            return model.encode_text(tokenizer([text])).numpy()

    return encode, encode_text


def transformers_model(folder: Path) -> tuple[Encode, EncodeText]:
    import torch
    from transformers import AutoTokenizer, CLIPModel

    model = CLIPModel.from_pretrained(folder / "transformers").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "transformers")

    def encode(pixel_values: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            output = model.vision_model(pixel_values=torch.from_numpy(pixel_values))
            return model.visual_projection(output.pooler_output).numpy()

    def encode_text(text: str) -> NDArray[Any]:
        with torch.inference_mode():
            output = model.text_model(**tokenizer([text], return_tensors="pt"))
            return model.text_projection(output.pooler_output).numpy()

    return encode, encode_text


def onnxruntime_graphs(folder: Path, name: str) -> tuple[Encode, EncodeText]:
    """Return the graphs as rclip and others run them: texts padded to 77 tokens."""
    import onnxruntime

    from twotower.encode.runtimes import import_onnxruntime
    from twotower.inputs.tokenizer import load_tokenizer
    from twotower.model.config import read_config

    import_onnxruntime()
    tokenizer = load_tokenizer(read_config(folder / "model").tokenizer)
    vision, text = (
        onnxruntime.InferenceSession(folder / "model" / f"plain_{tower}{name}.onnx")
        for tower in ("vision", "text")
    )
    return (
        lambda pixel_values: vision.run(None, {vision.get_inputs()[0].name: pixel_values})[0],
        lambda words: text.run(None, {text.get_inputs()[0].name: tokenizer([words]).input_ids})[0],
    )


METHODS: dict[str, Callable[[Path], tuple[Encode, EncodeText]]] = {
    PEER: open_clip_model,
    "transformers": transformers_model,
    "onnxruntime": lambda folder: onnxruntime_graphs(folder, ""),
    "onnxruntime, quantize_dynamic": lambda folder: onnxruntime_graphs(folder, "_int8"),
    "twotower": lambda folder: twotower_engine(folder / "model", "onnxruntime"),
    "twotower, int8": lambda folder: twotower_engine(folder / "model", "onnxruntime-int8"),
    "twotower, OpenVINO": lambda folder: twotower_engine(folder / "model", "openvino"),
}
BUNDLED_METHODS: dict[str, Callable[[Path], tuple[Encode, EncodeText]]] = {
    "twotower": lambda folder: twotower_engine(folder, "onnxruntime"),
    "twotower, int8": lambda folder: twotower_engine(folder, "onnxruntime-int8"),
    "twotower, OpenVINO": lambda folder: twotower_engine(folder, "openvino"),
}


def work(
    methods: dict[str, Callable[[Path], tuple[Encode, EncodeText]]], name: str, folder: Path
) -> None:
    """Serve a method: a batch size, or 0 for a text, from stdin; seconds and vectors to stdout."""
    started = time.perf_counter()
    encode, encode_text = methods[name](folder)
    loaded = time.perf_counter() - started
    pixel_values = np.load(folder.parent / "pixel_values.npy")
    features = encode(pixel_values[:1])
    first_seconds = time.perf_counter() - started
    encode_text(TEXT)
    features = encode(pixel_values)  # so that the peak has the largest batch
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1000
    answer({"loaded": loaded, "first": first_seconds, "peak": peak, "features": features.tolist()})
    for line in sys.stdin:
        batch = int(line)
        started = time.perf_counter()
        if batch:
            encode(pixel_values[:batch])
        else:
            encode_text(TEXT)
        answer({"seconds": time.perf_counter() - started})


def answer(tree: dict[str, Any]) -> None:
    print(json.dumps(tree), flush=True)


# --- the run --------------------------------------------------------------------------------------


@dataclass
class Worker:
    """A process of a method, its first answer, and the seconds of each batch size."""

    model: str
    method: str
    process: subprocess.Popen[str]
    facts: dict[str, Any]
    seconds: dict[int, list[float]] = field(default_factory=dict)

    def measure(self, batch: int) -> None:
        assert self.process.stdin and self.process.stdout
        print(batch, file=self.process.stdin, flush=True)
        seconds = json.loads(self.process.stdout.readline())["seconds"]
        self.seconds.setdefault(batch, []).append(seconds)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        model, method, directory_name = sys.argv[2:]
        work(METHODS if model == "ViT-B-32" else BUNDLED_METHODS, method, Path(directory_name))
        return
    packages = sys.argv[1:2]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "models"
        folder.mkdir()
        prepare(folder)
        rows: list[tuple[str, ...]] = []
        for model, methods in {"ViT-B-32": METHODS, "base": BUNDLED_METHODS}.items():
            directory = folder if model == "ViT-B-32" else folder / model
            names = [name for name in methods if name != PEER or packages]
            workers = [start(model, name, directory, packages) for name in names]
            rows += compare(workers, peak_gflops())
    write_results("peers.csv", COLUMNS, rows)
    draw(rows, ROOT / "docs" / "peers.png")


def prepare(folder: Path) -> None:
    """Write ViT-B/32 with random weights in every form, and pixel_values."""
    import onnxruntime
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    import twotower
    from twotower.encode.convert import convert, write_directory
    from twotower.model.clip import CLIP

    torch.manual_seed(0)
    config = twotower.preset("ViT-B-32")
    write_directory(config, CLIP(config).state_dict(), [], folder / "model")
    for form in ("open_clip", "transformers"):
        convert(folder / "model", folder / form, to=form)
    for tower in ("vision", "text"):
        options = onnxruntime.SessionOptions()  # weights become constants, which can be quantised
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        plain = folder / "model" / f"plain_{tower}.onnx"  # beside its weights
        options.optimized_model_filepath = str(plain)
        onnxruntime.InferenceSession(folder / "model" / f"{tower}.onnx", options)
        quantize_dynamic(
            plain,
            plain.with_stem(f"plain_{tower}_int8"),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
        )
    twotower.load(folder / "model", engine="onnxruntime-int8").verify()  # writes its graph
    twotower.load("base", engine="onnxruntime-int8").verify()
    pixel_values = np.random.default_rng(0).standard_normal((max(BATCHES), 3, 224, 224))
    for parent in (folder.parent, folder):
        np.save(parent / "pixel_values.npy", pixel_values.astype(np.float32))


def start(model: str, method: str, folder: Path, packages: list[str]) -> Worker:
    """Start the process of a method, and wait until it has answered once."""
    search = [str(ROOT), *(packages if method == PEER else ()), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.speed.peers", "--worker", model, method, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(search)},
    )
    assert process.stdout
    print("started", model, method, file=sys.stderr)
    return Worker(model, method, process, json.loads(process.stdout.readline()))


def peak_gflops() -> float:
    """Return the rate of a float32 matrix product of 2048 x 2048, the best of some."""
    square = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        square @ square
        seconds.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(seconds) / 1e9


def compare(workers: list[Worker], gflops: float) -> list[tuple[str, ...]]:
    """Measure in turns, and return the rows of a model; the first worker is the peer."""
    for _ in range(ROUNDS):
        for batch in (0, *BATCHES):
            for worker in workers:
                worker.measure(batch)
    for worker in workers:
        assert worker.process.stdin
        worker.process.stdin.close()
        worker.process.wait()
    return [row(worker, workers[0], gflops) for worker in workers]


def row(worker: Worker, peer: Worker, gflops: float) -> tuple[str, ...]:
    rates = {
        batch: max(batch, 1) / statistics.median(seconds)
        for batch, seconds in worker.seconds.items()
    }
    ratios = {
        batch: statistics.median(
            theirs / ours for theirs, ours in zip(peer.seconds[batch], seconds, strict=True)
        )
        for batch, seconds in worker.seconds.items()
    }
    share = rates[BATCHES[-1]] * GFLOP[worker.model] / gflops
    ours, theirs = (np.array(item.facts["features"]) for item in (worker, peer))
    cosines = (ours * theirs).sum(axis=1)
    cosines /= np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    order = (*BATCHES, 0)
    return (
        *(worker.model, worker.method, *(f"{rates[batch]:.1f}" for batch in order)),
        *(f"{ratios[batch]:.2f}" for batch in order),
        *(f"{share:.2f}", f"{cosines.min():.4f}"),
        *(f"{worker.facts['loaded']:.2f}", f"{worker.facts['first']:.2f}"),
        f"{worker.facts['peak']:.0f}",
    )


def draw(rows: list[tuple[str, ...]], path: Path) -> None:
    """Draw the ratios for ViT-B/32 as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if row[0] == "ViT-B-32"]
    titles = ("1 picture", "8 pictures", "32 pictures", "1 text")
    figure, panels = pyplot.subplots(1, 4, figsize=(11, 2.8), sharey=True, layout="constrained")
    names = [row[1] for row in reversed(rows)]
    colors = ["#2563eb" if name.startswith("twotower") else "#9ca3af" for name in names]
    for number, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        bars = axes.barh(names, [float(row[6 + number]) for row in reversed(rows)], color=colors)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("times the rate of open_clip, ViT-B/32, two cores", fontsize=9)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
