"""Draw the accuracy of the bundled model during the training of its image tower.

    python docs/training_curve.py

The values are in benchmarks/results/bundled_training.csv (docs/measurements/bundled-model.md).
"""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

ROOT = Path(__file__).parents[1]
EXAMPLES = 50
LINES = {
    "cifar10_dev_top1": "CIFAR-10 dev, top-1",
    "flickr8k_val_recall_at_1": "Flickr8k val, R@1",
    "flickr8k_val_recall_at_5": "Flickr8k val, R@5",
    "examples_top1": "example photographs, top-1",
}


def main() -> None:
    path = ROOT / "benchmarks" / "results" / "bundled_training.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows]
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for name, label in LINES.items():
        total = EXAMPLES if name.startswith("examples") else 1  # a count, or a share of 1
        values = [100 * float(row[name]) / total for row in rows]
        axes.plot(steps, values, "o-", label=label)
    starts = {row["round"]: step for row, step in reversed([*zip(rows, steps, strict=True)])}
    for number, step in starts.items():
        axes.axvline(step, color="0.8", zorder=0)
        axes.text(step + 10, 3, f"round {number}", color="0.4", fontsize="small")
    axes.set(xlabel="steps of the image tower's rounds", ylabel="%", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper left", ncols=2)
    figure.savefig(ROOT / "docs" / "bundled_training.png", dpi=110)


if __name__ == "__main__":
    main()
