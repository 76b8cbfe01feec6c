"""Order pictures by one word and by two: cosines, probabilities, and both as in a search.

    python benchmarks/quality/combinations.py ../shared/data [MODEL]

The words are those that the captions of flickr8k-val agree on, each alone and in pairs. "Both
words" needs at least three pictures that show both; "first without second" at least three that show
the first word alone, three that show both, and at least a quarter as many of the latter. The
measure is the average precision over the pictures that the captions decide, averaged over words or
pairs. Writes results/combinations.csv (the rows of this model in it).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import twotower
from benchmarks.table import read_results, write_results
from twotower.arrays import BoolArray, Float32Array, Float64Array
from twotower.calibration.calibration import read_calibration
from twotower.calibration.captions import word_queries
from twotower.calibration.curves import embed_queries
from twotower.encode.encoder import Encoder
from twotower.pairs.sources import open_source
from twotower.search.ranking import COSINE_WEIGHT

COLUMNS = ("model", "kind", "method", "queries", "mean_average_precision")
MIN_PICTURES = 3

Scores = dict[str, Float64Array]


def main() -> None:
    model = twotower.load(sys.argv[2] if len(sys.argv) > 2 else None)
    source = open_source(Path(sys.argv[1]) / "flickr8k-val")
    pairs = [source[number] for number in range(len(source))]
    image_embeds = model.encode_image([pair.picture for pair in pairs])
    captions = [pair.captions for pair in pairs]
    precisions: dict[tuple[str, str], list[float]] = {}
    for kind, methods, truth in combinations(model, image_embeds, captions):
        for name, scores in methods.items():
            precision = average_precision(scores, truth)
            precisions.setdefault((kind, name), []).append(precision)
    rows = [
        (model.config.name, kind, name, len(values), f"{np.mean(values):.3f}")
        for (kind, name), values in precisions.items()
    ]
    earlier = [tuple(row.values()) for row in read_results("combinations.csv")]
    earlier = [row for row in earlier if row[0] != model.config.name]
    write_results("combinations.csv", COLUMNS, [*earlier, *rows])


def combinations(
    model: Encoder, image_embeds: Float32Array, captions: list[tuple[str, ...]]
) -> Iterator[tuple[str, Scores, BoolArray]]:
    """Yield the kind, the scores of each method and the truth, of the decided pictures."""
    calibration = read_calibration(model)
    if calibration is None:
        raise SystemExit(f"{model.directory}: no calibration; make one with: twotower calibrate")
    queries = word_queries(captions, min_matching=2)
    texts = [query.text for query in queries]
    embeds = embed_queries(model, texts)
    size = len(image_embeds)
    shows, undecided = (np.zeros((len(queries), size), bool) for _ in range(2))
    for row, query in enumerate(queries):
        shows[row, query.matching] = True
        undecided[row, query.unknown] = True
    scores = (embeds @ image_embeds.T).astype(np.float64)
    judged = [
        calibration.text.prepare([text], embed) for text, embed in zip(texts, embeds, strict=True)
    ]
    logits = calibration.text.logits(judged, image_embeds).T
    yes, no = -np.logaddexp(0, -logits), -np.logaddexp(0, logits)
    for a in range(len(queries)):
        methods = {
            "a search": yes[a] + COSINE_WEIGHT * scores[a],
            "probability": yes[a],
            "cosine": scores[a],
        }
        yield "one word", select(methods, ~undecided[a]), shows[a, ~undecided[a]]
        for b in range(len(queries)):
            if set(queries[a].text.split()) & set(queries[b].text.split()):
                continue
            decided = ~undecided[a] & ~undecided[b]
            both_shown, without = shows[a] & shows[b] & decided, shows[a] & ~shows[b] & decided
            if a < b and both_shown.sum() >= MIN_PICTURES:
                methods = {
                    "a search": yes[a] + yes[b] + COSINE_WEIGHT * (scores[a] + scores[b]),
                    "product of probabilities": yes[a] + yes[b],
                    "sum of vectors": scores[a] + scores[b],
                    "first word alone": scores[a],
                }
                yield "both words", select(methods, decided), both_shown[decided]
            enough = min(both_shown.sum(), without.sum()) >= MIN_PICTURES
            if enough and 4 * both_shown.sum() >= without.sum():
                methods = {
                    "a search": yes[a] + no[b] + COSINE_WEIGHT * scores[a],
                    "product of probabilities": yes[a] + no[b],
                    "difference of vectors": scores[a] - scores[b],
                    "first word alone": scores[a],
                }
                yield "first without second", select(methods, decided), without[decided]


def select(methods: Scores, decided: BoolArray) -> Scores:
    return {name: scores[decided] for name, scores in methods.items()}


def average_precision(scores: Float64Array, truth: BoolArray) -> float:
    ranked = truth[np.argsort(-scores)]
    precisions = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precisions[ranked].mean())


if __name__ == "__main__":
    main()
