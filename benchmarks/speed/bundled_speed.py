"""The bundled model's speed beside ViT-B/32's, and accuracy against milliseconds.

    python benchmarks/speed/bundled_speed.py DATA [MODEL_DIRECTORY ...]

From decoded pixels (uint8, 224 x 224) through preprocessing and onnxruntime to unit vectors, in
batches of 32, the models in turn; ViT-B/32 in float32 with fresh weights, whose speed is that of
trained ones. Further model directories (earlier versions, those of `students.py`) are measured
likewise. Accuracy is that on `cifar10-dev` and `flickr8k-val`; `teacher`, which looks long, has its
own from results/teacher.csv. Writes results/bundled_speed.csv and docs/bundled_speed.png.
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
from twotower.evaluate.retrieval import evaluate_retrieval
from twotower.evaluate.sets import open_set
from twotower.evaluate.zero_shot import evaluate_zero_shot
from twotower.pairs.sources import open_source

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "bundled_speed.csv"
ROUNDS, PICTURES = 5, 64
COLUMNS = ("model", "ms_per_picture", "times_vit_b_32", "cifar10_dev_top1", "flickr8k_val_r1")
CAPTION = "two dogs playing in the snow beside a wooden fence"

Row = tuple[str, float, float, float, float]  # name, ms a picture, times ViT-B/32, accuracies


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
    known = {"ViT-B-32, float32": (float("nan"),) * 2, "teacher": teacher_accuracy()}
    rows: list[Row] = []
    for name, runs in seconds.items():
        own = statistics.median(runs)
        scores = known[name] if name in known else accuracy(models[name], data)
        rows.append((name, 1000 * own, peer / own, *scores))
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name, milliseconds, times, *both in rows:
            row = (name, f"{milliseconds:.2f}", f"{times:.2f}", *(f"{one:.3f}" for one in both))
            writer.writerow(row)
            print(*row)
        writer.writerow(("twotower-small, one text", f"{1000 * text:.2f}", "", "", ""))
    print(f"one text: {1000 * text:.2f} ms")
    draw([row for row in rows if row[3] == row[3]], ROOT / "docs" / "bundled_speed.png")


def fresh(name: str, directory: Path) -> Encoder:
    """A preset with weights that nobody trained."""
    from twotower.encode.convert import write_directory
    from twotower.model.clip import CLIP

    config = twotower.preset(name)
    write_directory(config, CLIP(config).state_dict(), [], directory)
    return Encoder(directory)


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def accuracy(model: Encoder, data: Path) -> tuple[float, float]:
    """Top-1 on CIFAR-10 and text-to-image R@1 on Flickr8k, as shares of 1."""
    opened = open_model(model.directory)
    labelled = open_set(str(data / "cifar10-dev" / "cifar10-dev.npz"))
    found = evaluate_retrieval(opened, open_source(data / "flickr8k-val"))
    return (
        float(evaluate_zero_shot(opened, labelled)["top1"]),
        float(found["text_to_image"]["recall_at_1"]),
    )


def teacher_accuracy() -> tuple[float, float]:
    """The same two, as `twotower evaluate` measured them with `teacher.py`."""
    with (RESULTS.parent / "teacher.csv").open(newline="") as file:
        shares = {(row["set"], row["measure"]): float(row["value"]) for row in csv.DictReader(file)}
    return (
        shares["CIFAR-10", "top1"],
        shares["flickr8k-val", "text_to_image.recall_at_1"],
    )


def draw(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, both = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    titles = ("CIFAR-10 dev, top-1, %", "Flickr8k val, text to image R@1, %")
    for axes, title, column in zip(both, titles, (3, 4), strict=True):
        for row in rows:
            marker = "*" if row[0].startswith("twotower") else "o"
            axes.plot(row[1], 100 * row[column], marker, markersize=8, label=row[0])
        axes.set(xscale="log", xlabel="ms a picture, two cores", ylabel=title)
        axes.grid(alpha=0.3)
    both[0].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
