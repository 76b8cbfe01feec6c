"""Two words at once, and one without another: products of probabilities against sums of vectors.

    python benchmarks/quality/combinations.py ../shared/data [MODEL]

Words that the captions of flickr8k-val agree on, every two of which at least three pictures show
together ("and"), or at least three show one without the other, and no less than a quarter as many
show both ("not"). Average precision over the pictures whose captions do not leave it open, mean
over pairs of words. Writes results/combinations.csv and its table in docs/measurements/search.md.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import twotower
from twotower.calibration.calibration import read_calibration
from twotower.calibration.captions import word_queries
from twotower.encode.encoder import Encoder
from twotower.pairs.sources import open_source

RESULTS = Path(__file__).parents[1] / "results" / "combinations.csv"
PAGE = Path(__file__).parents[2] / "docs" / "measurements" / "search.md"
MARKS = (
    "<!-- written by benchmarks/quality/combinations.py -->",
    "<!-- until here, combinations -->",
)
KINDS = {"and": "both of two words", "not": "one without the other"}
FEWEST = 3

Scores = dict[str, NDArray[np.float64]]


def main() -> None:
    model = twotower.load(sys.argv[2] if len(sys.argv) > 2 else None)
    source = open_source(Path(sys.argv[1]) / "flickr8k-val")
    pairs = [source[number] for number in range(len(source))]
    image_embeds = model.encode_image([pair.picture for pair in pairs])
    found: dict[tuple[str, str], list[float]] = {}
    captions = [pair.captions for pair in pairs]
    for kind, methods, truth in combinations(model, image_embeds, captions):
        for name, scores in methods.items():
            precision = average_precision(scores, truth)
            found.setdefault((kind, name), []).append(precision)
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("model", "kind", "method", "pairs", "mean_average_precision"))
        for (kind, name), values in found.items():
            row = (model.config.name, kind, name, len(values), f"{np.mean(values):.3f}")
            writer.writerow(row)
            print(*row)
    write_table()


def write_table() -> None:
    """Put the figures into the page."""
    with RESULTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [
        f"| {rows[0]['model']} | product of probabilities | vectors added or subtracted | the "
        "first word alone |",
        "|---|---|---|---|",
    ]
    for kind, name in KINDS.items():
        some = [row for row in rows if row["kind"] == kind]
        values = " | ".join(row["mean_average_precision"] for row in some)
        lines.append(f"| {name}, {some[0]['pairs']} pairs | {values} |")
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    _, after = rest.split(MARKS[1])
    table = "\n".join(["", *lines, ""])
    PAGE.write_text(before + MARKS[0] + table + MARKS[1] + after, encoding="utf-8")


def combinations(
    model: Encoder, image_embeds: NDArray[np.float32], captions: list[tuple[str, ...]]
) -> Iterator[tuple[str, Scores, NDArray[np.bool_]]]:
    """Kind, scores by each method, and truth, of the pictures that the captions decide."""
    calibration = read_calibration(model.directory)
    if calibration is None:
        raise SystemExit(f"{model.directory}: no calibration; make one with: twotower calibrate")
    queries = word_queries(captions, min_matching=2)
    embeds = model.encode_text([query.text for query in queries])
    size = len(image_embeds)
    shown, open_to_doubt = (np.zeros((len(queries), size), bool) for _ in range(2))
    for row, query in enumerate(queries):
        shown[row, query.matching] = True
        open_to_doubt[row, query.unknown] = True
    scores = (embeds @ image_embeds.T).astype(np.float64)
    logits = np.stack([calibration.text.logits(one, image_embeds, size) for one in embeds])
    yes, no = -np.logaddexp(0, -logits), -np.logaddexp(0, logits)
    for a in range(len(queries)):
        for b in range(len(queries)):
            if set(queries[a].text.split()) & set(queries[b].text.split()):
                continue
            sure = ~open_to_doubt[a] & ~open_to_doubt[b]
            both, without = shown[a] & shown[b] & sure, shown[a] & ~shown[b] & sure
            if a < b and both.sum() >= FEWEST:
                methods = {
                    "product of probabilities": yes[a] + yes[b],
                    "sum of vectors": scores[a] + scores[b],
                    "the first alone": scores[a],
                }
                yield "and", {name: one[sure] for name, one in methods.items()}, both[sure]
            if min(both.sum(), without.sum()) >= FEWEST and 4 * both.sum() >= without.sum():
                methods = {
                    "product of probabilities": yes[a] + no[b],
                    "difference of vectors": scores[a] - scores[b],
                    "the first alone": scores[a],
                }
                yield "not", {name: one[sure] for name, one in methods.items()}, without[sure]


def average_precision(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    ranked = truth[np.argsort(-scores)]
    precisions = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precisions[ranked].mean())


if __name__ == "__main__":
    main()
