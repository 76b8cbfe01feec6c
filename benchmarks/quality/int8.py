"""Measure the loss of the image tower in int8: the same pictures in both engines, paired.

    python benchmarks/quality/int8.py DATA [MODEL [PICTURES]]

DATA has `cifar10-dev` and `flickr8k-val`. Zero-shot top-1 on PICTURES (1,000) of CIFAR-10, recall
at 1 of captions on Flickr8k's 500, and the cosine of the embeds. `low` and `high` are the 95 %
interval of the difference in points. Writes results/int8.csv.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import twotower
from benchmarks.table import write_results
from twotower.arrays import Float32Array, Float64Array, Int64Array
from twotower.encode.encoder import Encoder
from twotower.evaluate.embedding import make_classifier
from twotower.evaluate.intervals import bootstrap
from twotower.evaluate.models import TwotowerModel
from twotower.evaluate.retrieval import retrieval_ranks
from twotower.evaluate.sets import open_set
from twotower.inputs.pictures import Picture
from twotower.pairs.sources import open_source

ENGINES = ("onnxruntime", "onnxruntime-int8")
COLUMNS = (
    *("model", "set", "measure", "items", "float32", "int8", "points", "low", "high"),
    *("mean_cosine", "least_cosine"),
)


def main() -> None:
    data = Path(sys.argv[1])
    name = sys.argv[2] if len(sys.argv) > 2 else "base"
    limit = int(sys.argv[3]) if len(sys.argv) > 3 else 1000
    models = [twotower.load(name, engine=engine) for engine in ENGINES]
    write_results(
        "int8.csv", COLUMNS, [cifar10(name, models, data, limit), flickr8k(name, models, data)]
    )


def cifar10(name: str, models: list[Encoder], data: Path, limit: int) -> tuple[str, ...]:
    labelled = open_set(str(data / "cifar10-dev" / "cifar10-dev.npz"))
    rows = np.random.default_rng(0).permutation(len(labelled.keys))[:limit]
    subset = labelled.take(rows)
    classifier = make_classifier(
        TwotowerModel(models[0], name), labelled.classes, models[0].config.templates
    )
    embeds = embed(models, [subset.pictures[number] for number in range(limit)])
    labels = np.array(subset.labels)
    hits = [((rows @ classifier.T).argmax(axis=1) == labels).astype(np.float64) for rows in embeds]
    return row(name, "cifar10-dev", "top-1 of 10 names", hits, embeds)


def flickr8k(name: str, models: list[Encoder], data: Path) -> tuple[str, ...]:
    source = open_source(data / "flickr8k-val")
    pairs = [source[number] for number in range(len(source))]
    embeds = embed(models, [pair.picture for pair in pairs])
    captions = [caption for pair in pairs for caption in pair.captions]
    owners: Int64Array = np.repeat(np.arange(len(pairs)), [len(pair.captions) for pair in pairs])
    text_embeds = models[0].encode_text(captions)
    hits = []
    for image_embeds in embeds:
        ranks, _ = retrieval_ranks(image_embeds, text_embeds, owners)
        recall = np.bincount(owners, ranks == 0) / np.bincount(owners)  # of each picture's captions
        hits.append(recall)
    return row(name, "flickr8k-val", "recall at 1, text to image", hits, embeds)


def embed(models: list[Encoder], pictures: list[Picture]) -> list[Float32Array]:
    return [model.encode_image(pictures) for model in models]


def row(
    name: str, data: str, measure: str, hits: list[Float64Array], embeds: list[Float32Array]
) -> tuple[str, ...]:
    """Return a row of the table, with the interval of the mean difference over pictures."""
    difference = hits[1] - hits[0]
    n = len(difference)
    [interval] = bootstrap(lambda drawn: np.array([drawn @ difference / n]), n)
    points = (100 * difference.mean(), *(100 * interval))
    cosines = (embeds[0] * embeds[1]).sum(axis=1)
    return (
        *(name, data, measure, str(n), *(f"{share.mean():.4f}" for share in hits)),
        *(f"{value:.2f}" for value in points),
        *(f"{value:.5f}" for value in (cosines.mean(), cosines.min())),
    )


if __name__ == "__main__":
    main()
