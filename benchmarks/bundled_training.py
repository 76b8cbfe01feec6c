"""The bundled model's accuracy while it learns.

    python benchmarks/bundled_training.py DATA DEV_SETS DESTINATION

Makes the model as `twotower train bundled` does and asks it about `cifar10-dev` and
`flickr8k-val`, of which it learns nothing, every 400 image steps. Writes
results/bundled_training.csv and docs/bundled_training.png.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from twotower.encode.export import write_directory
from twotower.evaluate.models import open_model
from twotower.evaluate.retrieval import evaluate_retrieval, open_captions
from twotower.evaluate.sets import open_set
from twotower.evaluate.zero_shot import evaluate_zero_shot
from twotower.model.clip import CLIP
from twotower.train.bundled import bundled, minilm_folder

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "bundled_training.csv"
COLUMNS = ("step", "cifar10_dev_top1", "flickr8k_val_text_to_image_recall_at_1")


def main() -> None:
    data, dev, destination = map(Path, sys.argv[1:4])
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)

        def watch(step: int, model: CLIP) -> None:
            row = (step, *(f"{share:.4f}" for share in scores(model, dev)))
            print(*row, flush=True)
            writer.writerow(row)
            file.flush()

        bundled(data, destination, say=print, watch=watch)
    draw()


def scores(model: CLIP, dev: Path) -> tuple[float, float]:
    """top-1 on cifar10-dev, text to image recall at 1 on flickr8k-val."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "model"
        vocabulary = minilm_folder() / "vocab.txt"
        write_directory(model.config, model.state_dict(), [vocabulary], directory)
        encoder = open_model(directory)
        cifar = evaluate_zero_shot(encoder, open_set(str(dev / "cifar10-dev" / "cifar10-dev.npz")))
        flickr = evaluate_retrieval(encoder, open_captions(str(dev / "flickr8k-val")))
    return cifar["top1"], flickr["text_to_image"]["recall_at_1"]


def draw() -> None:
    with RESULTS.open() as file:
        rows = [[float(one) for one in row] for row in list(csv.reader(file))[1:]]
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for column, label in ((1, "CIFAR-10 dev, top-1"), (2, "Flickr8k val, text to image R@1")):
        axes.plot([row[0] for row in rows], [100 * row[column] for row in rows], "o-", label=label)
    axes.set(xlabel="image steps of 32 pictures", ylabel="%", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(ROOT / "docs" / "bundled_training.png", dpi=110)


if __name__ == "__main__":
    main()
