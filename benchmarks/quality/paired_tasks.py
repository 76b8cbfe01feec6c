"""Two tasks for a change of an image tower: the same pictures before and after, paired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twotower.arrays import Float32Array, Float64Array, Int64Array
from twotower.encode.encoder import Encoder
from twotower.evaluate.embedding import make_classifier
from twotower.evaluate.intervals import bootstrap
from twotower.evaluate.models import TwotowerModel
from twotower.evaluate.retrieval import retrieval_ranks
from twotower.evaluate.sets import open_set
from twotower.inputs.pictures import Picture
from twotower.pairs.sources import open_source

COLUMNS = (
    *("set", "measure", "items", "before", "after", "points", "low", "high"),
    *("mean_cosine", "least_cosine"),
)


@dataclass(frozen=True)
class Task:
    """Pictures, and how well their embeds do with the texts of a model.

    Attributes:
        score: image_embeds [n, embed_dim] -> the score of each picture [n], from 0 to 1.
    """

    name: str
    measure: str
    pictures: Sequence[Picture]
    score: Callable[[Float32Array], Float64Array]


def cifar10(encoder: Encoder, data: Path, limit: int) -> Task:
    """Zero-shot classification of `limit` pictures that are drawn from `data`/cifar10-dev."""
    labelled = open_set(str(data / "cifar10-dev" / "cifar10-dev.npz"))
    rows = np.random.default_rng(0).permutation(len(labelled.keys))[:limit]
    subset = labelled.take(rows)
    model = TwotowerModel(encoder, encoder.config.name)
    classifier = make_classifier(model, labelled.classes, encoder.config.templates)
    labels = np.array(subset.labels)

    def score(image_embeds: Float32Array) -> Float64Array:
        return ((image_embeds @ classifier.T).argmax(axis=1) == labels).astype(np.float64)

    pictures = [subset.pictures[number] for number in range(len(labels))]
    return Task("cifar10-dev", "top-1 of 10 names", pictures, score)


def flickr8k(encoder: Encoder, data: Path) -> Task:
    """Search for the photographs of `data`/flickr8k-val by their captions."""
    source = open_source(data / "flickr8k-val")
    pairs = [source[number] for number in range(len(source))]
    captions = [caption for pair in pairs for caption in pair.captions]
    owners: Int64Array = np.repeat(np.arange(len(pairs)), [len(pair.captions) for pair in pairs])
    text_embeds = encoder.encode_text(captions)

    def score(image_embeds: Float32Array) -> Float64Array:
        ranks, _ = retrieval_ranks(image_embeds, text_embeds, owners)
        return np.bincount(owners, ranks == 0) / np.bincount(owners)  # of each picture's captions

    pictures = [pair.picture for pair in pairs]
    return Task("flickr8k-val", "recall at 1, text to image", pictures, score)


def compare(task: Task, before: Float32Array, after: Float32Array) -> tuple[str, ...]:
    """Return the values of `COLUMNS`, with the 95 % interval of the difference in points."""
    scores = [task.score(image_embeds) for image_embeds in (before, after)]
    difference = scores[1] - scores[0]
    n = len(difference)
    [interval] = bootstrap(lambda drawn: np.array([drawn @ difference / n]), n)
    points = (100 * difference.mean(), *(100 * interval))
    cosines = (before * after).sum(axis=1)
    return (
        *(task.name, task.measure, str(n), *(f"{score.mean():.4f}" for score in scores)),
        *(f"{value:.2f}" for value in points),
        *(f"{value:.5f}" for value in (cosines.mean(), cosines.min())),
    )
