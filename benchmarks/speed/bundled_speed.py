"""Compare the speed of the bundled models with ViT-B/32's, and plot accuracy against milliseconds.

    python benchmarks/speed/bundled_speed.py DATA [MODEL_DIRECTORY ...]

From decoded pixels (uint8, 224 x 224) through preprocessing and the runtime to unit vectors, in
batches of 32, the models in turn, each in onnxruntime and in OpenVINO. ViT-B/32 is in float32 with
random weights, which are as fast as trained ones. Other model directories (earlier versions, those
of `students.py`) are measured in onnxruntime. The accuracy is that on `cifar10-dev` and
`flickr8k-val`, of the bundled models as results/bundled.csv has it. Writes
results/bundled_speed.csv and docs/bundled_speed.png.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

import twotower
from benchmarks.table import ROOT, read_results, write_results
from twotower.encode.encoder import Encoder
from twotower.evaluate.models import open_model
from twotower.evaluate.retrieval import evaluate_retrieval
from twotower.evaluate.sets import open_set
from twotower.evaluate.zero_shot import evaluate_zero_shot
from twotower.pairs.sources import open_source

ROUNDS, PICTURES = 5, 64
COLUMNS = ("model", "ms_per_picture", "times_vit_b_32", "cifar10_dev_top1", "flickr8k_val_r1")
CAPTION = "two dogs playing in the snow beside a wooden fence"
PEER = "ViT-B-32, float32"
BUNDLED = ("base", "small")
OPENVINO = ", OpenVINO"  # end of the name of a model that OpenVINO runs

Row = tuple[str, float, float, float, float]  # name, ms a picture, times ViT-B/32, accuracies


def main() -> None:
    data, directories = Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]]
    with tempfile.TemporaryDirectory() as folder:
        vit = untrained("ViT-B-32", Path(folder) / "ViT-B-32")
        models = {PEER: vit} | {f"twotower-{name}": twotower.load(name) for name in BUNDLED}
        models |= {
            f"{name}{OPENVINO}": Encoder(model.directory, engine="openvino")
            for name, model in models.items()
        }
        models |= {directory.name: Encoder(directory) for directory in directories}
        seconds = time_models(models)
    text = statistics.median(
        seconds_of(lambda: models["twotower-base"].encode_text([CAPTION])) for _ in range(30)
    )
    rows: list[Row] = []
    for name, taken in seconds.items():
        peer = PEER + OPENVINO if name.endswith(OPENVINO) else PEER
        if name.startswith((PEER, "twotower")):
            scores = stored_accuracy(name)
        else:
            scores = accuracy(models[name], data)
        rows.append((name, 1000 * taken, seconds[peer] / taken, *scores))
    write_results("bundled_speed.csv", COLUMNS, [*map(format_row, rows), text_row(text)])
    draw([row for row in rows if row[3] == row[3]], ROOT / "docs" / "bundled_speed.png")


def untrained(name: str, directory: Path) -> Encoder:
    """Return an encoder of a preset, with random weights."""
    from twotower.encode.convert import write_directory
    from twotower.model.clip import CLIP

    config = twotower.preset(name)
    write_directory(config, CLIP(config).state_dict(), [], directory)
    return Encoder(directory)


def time_models(models: Mapping[str, Encoder]) -> dict[str, float]:
    """Return the median seconds for a picture of each model."""
    pixels = list(np.random.default_rng(0).integers(0, 256, (PICTURES, 224, 224, 3), np.uint8))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(ROUNDS + 1):
        for name, model in models.items():
            taken = seconds_of(partial(model.encode_image, pixels))
            if turn:  # turn 0 starts the engine
                seconds[name].append(taken / PICTURES)
    return {name: statistics.median(runs) for name, runs in seconds.items()}


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def accuracy(model: Encoder, data: Path) -> tuple[float, float]:
    """Return top-1 on CIFAR-10 and text-to-image R@1 on Flickr8k, as shares of 1."""
    opened = open_model(model.directory)
    labelled = open_set(str(data / "cifar10-dev" / "cifar10-dev.npz"))
    retrieval = evaluate_retrieval(opened, open_source(data / "flickr8k-val"))
    return (
        float(evaluate_zero_shot(opened, labelled)["top1"]),
        float(retrieval["text_to_image"]["recall_at_1"]),
    )


def stored_accuracy(name: str) -> tuple[float, float]:
    """Return the same two as results/bundled.csv has them; nan for other models."""
    shares = {
        (row["set"].partition(",")[0], row["measure"]): float(row["value"])
        for row in read_results("bundled.csv")
        if row["model"] == name
    }
    cifar, retrieval = ("CIFAR-10", "top1"), ("flickr8k-val", "text_to_image.recall_at_1")
    return shares.get(cifar, float("nan")), shares.get(retrieval, float("nan"))


def format_row(row: Row) -> tuple[str, ...]:
    name, milliseconds, times, *scores = row
    return (name, f"{milliseconds:.2f}", f"{times:.2f}", *(f"{score:.3f}" for score in scores))


def text_row(seconds: float) -> tuple[str, ...]:
    return ("twotower, one text", f"{1000 * seconds:.2f}", "", "", "")


def draw(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    titles = ("CIFAR-10 dev, top-1, %", "Flickr8k val, text to image R@1, %")
    for axes, title, column in zip(panels, titles, (3, 4), strict=True):
        for row in rows:
            marker = "*" if row[0].startswith("twotower") else "o"
            axes.plot(row[1], 100 * row[column], marker, markersize=8, label=row[0])
        axes.set(xscale="log", xlabel="ms a picture, two cores", ylabel=title)
        axes.grid(alpha=0.3)
    panels[0].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
