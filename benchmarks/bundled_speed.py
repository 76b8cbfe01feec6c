"""The bundled model's speed beside ViT-B/32's, and accuracy against milliseconds.

    python benchmarks/bundled_speed.py DATA [MODEL_DIRECTORY ...]

From decoded pixels (uint8, 224 x 224) through preprocessing and onnxruntime to unit vectors, in
batches of 32, the models in turn; ViT-B/32 in float32 with fresh weights, whose speed is that of
trained ones. Further model directories (earlier versions, the teacher) are measured likewise.
Accuracy is `cifar10-dev`'s. Writes results/bundled_speed.csv and docs/bundled_speed.png.
"""

from __future__ import annotations

import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import twotower
from twotower.encode.encoder import Encoder
from twotower.evaluate.models import open_model
from twotower.evaluate.sets import open_set
from twotower.evaluate.zero_shot import evaluate_zero_shot

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "bundled_speed.csv"
ROUNDS, PICTURES = 5, 64
CAPTION = "two dogs playing in the snow beside a wooden fence"


def main() -> None:
    data, others = Path(sys.argv[1]), [Path(one) for one in sys.argv[2:]]
    pixels = list(np.random.default_rng(0).integers(0, 256, (PICTURES, 224, 224, 3), np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        models = {"ViT-B-32, float32": fresh("ViT-B-32", Path(folder) / "ViT-B-32")}
        models |= {"twotower-small": twotower.load()} | {one.name: Encoder(one) for one in others}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(ROUNDS + 1):
            for name, model in models.items():
                taken = seconds_of(partial(model.encode_image, pixels))
                if turn:  # the first one starts the engine
                    seconds[name].append(taken / PICTURES)
    text = statistics.median(
        seconds_of(lambda: models["twotower-small"].encode_text([CAPTION])) for _ in range(30)
    )
    peer = statistics.median(seconds["ViT-B-32, float32"])
    rows = []
    for name, runs in seconds.items():
        own = statistics.median(runs)
        trained = name != "ViT-B-32, float32"
        top1 = accuracy(models[name], data) if trained else float("nan")
        rows.append((name, 1000 * own, peer / own, top1))
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("model", "ms_per_picture", "times_vit_b_32", "cifar10_dev_top1"))
        for name, milliseconds, times, top1 in rows:
            writer.writerow((name, f"{milliseconds:.2f}", f"{times:.2f}", f"{top1:.3f}"))
            print(name, f"{milliseconds:.2f} ms", f"{times:.2f} x", f"{top1:.3f}")
        writer.writerow(("twotower-small, one text", f"{1000 * text:.2f}", "", ""))
    print(f"one text: {1000 * text:.2f} ms")
    draw([row for row in rows if row[3] == row[3]], ROOT / "docs" / "bundled_speed.png")


def fresh(name: str, directory: Path) -> Encoder:
    """A preset with weights that nobody trained."""
    from twotower.encode.export import write_directory
    from twotower.model.clip import CLIP

    config = twotower.preset(name)
    write_directory(config, CLIP(config).state_dict(), [], directory)
    return Encoder(directory)


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def accuracy(model: Encoder, data: Path) -> float:
    labelled = open_set(str(data / "cifar10-dev" / "cifar10-dev.npz"))
    return float(evaluate_zero_shot(open_model(model.directory), labelled)["top1"])


def draw(rows: list[tuple[str, float, float, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for name, milliseconds, _, top1 in rows:
        axes.plot(milliseconds, 100 * top1, "o")
        axes.annotate(name, (milliseconds, 100 * top1), xytext=(6, -3), textcoords="offset points")
    axes.set(xscale="log", xlabel="ms a picture, two cores", ylabel="CIFAR-10 dev top-1, %")
    axes.set_xlim(right=3 * max(row[1] for row in rows))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
