"""How good the bundled model is, on pictures it was not trained on.

    python benchmarks/bundled.py ../shared/data

Writes results/bundled.csv: accuracy and recall with 95 % intervals (Wilson), chance beside them.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import twotower
from twotower.encode.classify import check_templates, zero_shot_classifier
from twotower.encode.encoder import Encoder

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "bundled.csv"

Row = tuple[str, str, NDArray[np.bool_], float]  # set, measure, right or wrong of each, chance


def main() -> None:
    data = Path(sys.argv[1])
    model = twotower.load()
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("set", "measure", "n", "value", "low", "high", "chance"))
        for name, measure, right, chance in measure_all(model, data):
            low, high = wilson(int(right.sum()), len(right))
            row = (name, measure, len(right), *(f"{one:.3f}" for one in (right.mean(), low, high)))
            writer.writerow((*row, f"{chance:.3f}"))
            print(*row, f"{chance:.3f}")


def measure_all(model: Encoder, data: Path) -> Iterator[Row]:
    yield from classify_cifar(model, data / "cifar10-dev" / "cifar10-dev.npz")
    yield from classify_examples(model)
    yield from retrieve_flickr(model, data / "flickr8k-val")


def classify_cifar(model: Encoder, path: Path) -> Iterator[Row]:
    with np.load(path, allow_pickle=False) as file:
        images, labels, classnames = file["images"], file["labels"], file["class_names"].tolist()
    image_embeds = model.encode_image(list(images))
    for name in ("plain", "photo", "ensemble"):
        classifier = zero_shot_classifier(model, classnames, check_templates(name, model))
        predicted = (image_embeds @ classifier.T).argmax(axis=1)
        yield "cifar10-dev", f"top-1, templates {name}", predicted == labels, 1 / len(classnames)


def classify_examples(model: Encoder) -> Iterator[Row]:
    """Our own photographs against 100 words, several of which may be right for one."""
    labels = (ROOT / "examples" / "labels.txt").read_text(encoding="utf-8").splitlines()
    with (ROOT / "examples" / "expected.csv").open(encoding="utf-8") as file:
        expected = {row["file"]: set(row["labels"].split("|")) for row in csv.DictReader(file)}
    pictures = [ROOT / "examples" / "photos" / name for name in expected]
    answers = [
        [label.label for label in answer.labels]
        for answer in twotower.classify(pictures, labels, model=model, top=5)
    ]
    for top in (1, 5):
        right = [bool(e & set(a[:top])) for e, a in zip(expected.values(), answers, strict=True)]
        chance = float(np.mean([share(len(e), len(labels), top) for e in expected.values()]))
        yield "examples/photos", f"top-{top} of {len(labels)} words", np.array(right), chance


def retrieve_flickr(model: Encoder, folder: Path) -> Iterator[Row]:
    """Captions to pictures and back; a picture is found by any one of its captions."""
    pictures = sorted(folder.glob("*.jpg"))
    captions: list[str] = []
    owner: list[int] = []
    for index, picture in enumerate(pictures):
        own = json.loads(picture.with_suffix(".json").read_text(encoding="utf-8"))["captions"]
        captions += own
        owner += [index] * len(own)
    scores = model.encode_text(captions) @ model.encode_image(pictures).T  # [captions, pictures]
    belongs = np.array(owner)
    for k in (1, 5, 10):
        found = np.argsort(-scores, axis=1)[:, :k] == belongs[:, None]
        yield "flickr8k-val", f"text to image R@{k}", found.any(axis=1), k / len(pictures)
    for k in (1, 5, 10):
        best = np.argsort(-scores.T, axis=1)[:, :k]
        found = belongs[best] == np.arange(len(pictures))[:, None]
        chance = share(5, len(captions), k)
        yield "flickr8k-val", f"image to text R@{k}", found.any(axis=1), chance


def share(right: int, total: int, drawn: int) -> float:
    """The chance that at least one of `right` is among `drawn` of `total`."""
    return 1 - math.comb(total - right, drawn) / math.comb(total, drawn)


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion (Wilson 1927)."""
    middle, margin = right + z**2 / 2, z * math.sqrt(right * (n - right) / n + z**2 / 4)
    return (middle - margin) / (n + z**2), (middle + margin) / (n + z**2)


if __name__ == "__main__":
    main()
