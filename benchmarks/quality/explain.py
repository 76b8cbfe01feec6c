"""Does the heat map point at the right thing? And how long does it take?

    python benchmarks/quality/explain.py [MODEL]

Pairs of example photographs side by side, each asked for what one of them shows: the hottest place
should lie in that half (chance: one half). Writes results/explain.csv; the time, which depends on
what else runs, is printed alone.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

import twotower
from twotower.encode.explain import explain
from twotower.evaluate.intervals import wilson

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results" / "explain.csv"
PAIRS = 40


def main() -> None:
    model = twotower.load(sys.argv[1] if len(sys.argv) > 1 else None)
    with (ROOT / "examples" / "expected.csv").open(encoding="utf-8") as file:
        expected = {row["file"]: row["labels"].split("|") for row in csv.DictReader(file)}
    random = np.random.default_rng(0)
    names, right, seconds = sorted(expected), 0, []
    for number in range(PAIRS):
        two = apart(names, expected, random, 2)
        pair = Image.new("RGB", (448, 224))
        for place, name in enumerate(two):
            square = model.preprocess.square(ROOT / "examples" / "photos" / name)
            pair.paste(square.resize((224, 224)), (224 * place, 0))
        side = number % 2
        start = time.perf_counter()
        explanation = explain(model, pair, f"a photo of a {expected[two[side]][0]}")
        seconds.append(time.perf_counter() - start)
        right += int(explanation.peak[0] > 0.5) == side
    low, high = wilson(right / PAIRS, PAIRS)
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("model", "pairs", "right_half", "low", "high"))
        row = (model.config.name, PAIRS, *(f"{one:.3f}" for one in (right / PAIRS, low, high)))
        writer.writerow(row)
        print(*row, f"{np.median(seconds):.1f} seconds a pair")


def apart(
    names: list[str], expected: dict[str, list[str]], random: np.random.Generator, count: int
) -> list[str]:
    """Some pictures that share no label."""
    while True:
        some = [names[int(i)] for i in random.choice(len(names), count, replace=False)]
        labels = [label for one in some for label in set(expected[one])]
        if len(labels) == len(set(labels)):
            return some


if __name__ == "__main__":
    main()
