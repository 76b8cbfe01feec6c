"""Test whether heat maps point at the right picture, and time them.

    python benchmarks/quality/explain.py [MODEL]

Two example photographs are placed side by side and explained for the label of one of them: the
hottest place should lie in its half (chance: one half). Writes the row of the model in
results/explain.csv. The time, which depends on the load of the machine, is only printed.
"""

from __future__ import annotations

import csv
import sys
import time

import numpy as np
from PIL import Image

import twotower
from benchmarks.table import ROOT, read_results, write_results
from twotower.encode.explain import explain
from twotower.evaluate.intervals import wilson

PAIRS = 40
COLUMNS = ("model", "pairs", "right_half", "low", "high")


def main() -> None:
    model = twotower.load(sys.argv[1] if len(sys.argv) > 1 else None)
    labels = read_labels()
    random = np.random.default_rng(0)
    names, right, seconds = sorted(labels), 0, []
    for number in range(PAIRS):
        chosen = draw_distinct(names, labels, random, 2)
        pair = Image.new("RGB", (448, 224))
        for column, name in enumerate(chosen):
            square = model.preprocess.square(ROOT / "examples" / "photos" / name)
            pair.paste(square.resize((224, 224)), (224 * column, 0))
        side = number % 2
        start = time.perf_counter()
        explanation = explain(model, pair, f"a photo of a {labels[chosen[side]][0]}")
        seconds.append(time.perf_counter() - start)
        right += int(explanation.peak[0] > 0.5) == side
    low, high = wilson(right / PAIRS, PAIRS)
    numbers = (f"{share:.3f}" for share in (right / PAIRS, low, high))
    name = model.config.name
    earlier_rows = [
        [row[column] for column in COLUMNS]
        for row in read_results("explain.csv")
        if row["model"] != name
    ]
    write_results("explain.csv", COLUMNS, [*earlier_rows, (name, PAIRS, *numbers)])
    print(f"{np.median(seconds):.1f} seconds a pair")


def read_labels() -> dict[str, list[str]]:
    """Return the labels of each example photograph."""
    with (ROOT / "examples" / "expected.csv").open(encoding="utf-8") as file:
        return {row["file"]: row["labels"].split("|") for row in csv.DictReader(file)}


def draw_distinct(
    names: list[str], labels: dict[str, list[str]], random: np.random.Generator, count: int
) -> list[str]:
    """Draw pictures that share no label."""
    while True:
        drawn = [names[int(i)] for i in random.choice(len(names), count, replace=False)]
        drawn_labels = [label for name in drawn for label in set(labels[name])]
        if len(drawn_labels) == len(set(drawn_labels)):
            return drawn


if __name__ == "__main__":
    main()
