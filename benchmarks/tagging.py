"""How right tags are, and what corrections teach.

    python benchmarks/tagging.py ../shared/data [MODEL [EMBEDS.npz]]

Truth: the captions of flickr8k-val and the tags of twotower/library/captioned.txt, which people who
describe a picture hardly leave out. A picture shows a tag if two of its five captions name it, does
not if none does, and what one of them names is left out. mAP is over the tags that five pictures
of a half show at least; precision, recall and ECE are over all tags and pictures at once, also
tags that no picture shows.

Corrections: the pictures are halved, on one half the tags get theirs, in the order of the review
page (least sure first) and answered by the captions, on the other it is measured; then the other
way round, for three ways to halve. The peers: a fixed cosine of 0.28, and the tag that softmax puts
first; neither learns.

EMBEDS.npz has image embeds of the model made elsewhere (`val`, `train`), in the order of the data.
For a model without a calibration, the curve of tags is fitted on flickr8k-train, as `twotower
calibrate` does. Writes results/tagging.csv (the rows of this model in it) and the table in
docs/tagging.md.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import twotower
from twotower.encode.encoder import Encoder
from twotower.evaluate.calibration import calibration as calibration_error
from twotower.library.calibrate import (
    TagCurve,
    background_texts,
    measure_background,
    read_calibration,
)
from twotower.library.fit import Pictures, fit_tags
from twotower.library.labelled import captioned_tags
from twotower.library.tag_vectors import tag_vectors
from twotower.library.tags import TAUGHT
from twotower.library.teach import learn
from twotower.library.vocabulary import read_vocabulary
from twotower.pairs.sources import open_source

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "tagging.csv"
PAGE = HERE.parent / "docs" / "tagging.md"
MARKS = "<!-- written by benchmarks/tagging.py -->", "<!-- until here -->"
CORRECTIONS = (0, 1, 5, 20)
ASKED = (0.9, 0.8, 0.7)
HALVINGS = 3
FEWEST = 5  # pictures that show a tag, for its average precision to mean something
COSINE = 0.28
COLUMNS = (
    *("model", "method", "asked", "corrections", "mAP"),
    *("precision", "recall", "tags a picture", "ECE"),
)

Numbers = NDArray[np.float64]
Floats = NDArray[np.float32]
Truths = NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """Pictures by tags: what orders them, the probability, and which are given."""

    order: NDArray[np.floating]
    probability: NDArray[np.floating]
    given: Truths


def main() -> None:
    data = Path(sys.argv[1])
    model = twotower.load(sys.argv[2] if len(sys.argv) > 2 else None)
    made = dict(np.load(sys.argv[3])) if len(sys.argv) > 3 else {}
    name = model.config.name if not made else str(made["name"])
    curve = tag_curve(model, data, made.get("train"))
    val = pictures(model, data / "flickr8k-val", made.get("val"))
    said = captioned_tags(val.captions)
    answers = np.stack([one.answers for one in said], axis=1)
    vocabulary = read_vocabulary()
    tags = [vocabulary.find(one.name) for one in said]
    vectors = tag_vectors(model, [tag for tag in tags if tag is not None])
    print(f"{len(said)} tags, {int(((answers == 1).sum(axis=0) >= FEWEST).sum())} of them for mAP")
    rows = [
        (name, *row)
        for row in measured(curve, model.logit_scale, vectors, val.image_embeds, answers)
    ]
    write(name, rows)


def tag_curve(model: Encoder, data: Path, train_embeds: Floats | None) -> TagCurve:
    calibration = read_calibration(model.directory)
    if calibration is not None and calibration.tags is not None:
        return calibration.tags
    train = pictures(model, data / "flickr8k-train", train_embeds)
    texts = model.encode_text(background_texts())
    curve = fit_tags(model, measure_background(train.image_embeds, texts), [train])
    assert curve is not None  # its pictures have five captions
    return curve


def pictures(model: Encoder, folder: Path, image_embeds: Floats | None) -> Pictures:
    source = open_source(folder)
    pairs = [source[number] for number in range(len(source))]
    if image_embeds is None:
        image_embeds = model.encode_image([pair.picture for pair in pairs])
    there = np.isfinite(image_embeds.sum(axis=1))  # of some, vectors made elsewhere may be missing
    captions = [pair.captions for pair, one in zip(pairs, list(there), strict=True) if one]
    return Pictures(image_embeds[there], captions)


def measured(
    curve: TagCurve, scale: float, vectors: Floats, image_embeds: Floats, answers: NDArray[np.int8]
) -> Iterator[tuple[str, ...]]:
    """Rows of the table behind the model's name."""
    cosines = image_embeds @ vectors.T
    softmax = np.exp(scale * (cosines - cosines.max(axis=1, keepdims=True)))
    softmax /= softmax.sum(axis=1, keepdims=True)
    argmax = np.arange(len(vectors)) == cosines.argmax(axis=1)[:, None]
    peers = {
        f"cosine {COSINE}": Scores(cosines, np.clip(cosines, 0, 1), cosines >= COSINE),
        "softmax, first": Scores(softmax, softmax, argmax),
    }
    for name, scores in peers.items():
        tested = [
            (
                Scores(scores.order[some], scores.probability[some], scores.given[some]),
                answers[some],
            )
            for _, some in halves(len(answers))
        ]
        yield (name, "", "", *summarise(tested))
    for count in CORRECTIONS:
        judged = list(judged_halves(curve, vectors, image_embeds, answers, count))
        for asked in ASKED:
            cutoff = min(curve.cutoff(asked), asked if count >= TAUGHT else 2.0)
            tested = [(Scores(p, p, p >= cutoff), truth) for p, truth in judged]
            yield ("twotower", f"{asked:.1f}", str(count), *summarise(tested))


def judged_halves(
    curve: TagCurve,
    vectors: Floats,
    image_embeds: Floats,
    answers: NDArray[np.int8],
    count: int,
) -> Iterator[tuple[Numbers, NDArray[np.int8]]]:
    """Probabilities and answers of halves whose other half had `count` corrections a tag."""
    logits = curve.logits(vectors, image_embeds)
    for taught, tested in halves(len(image_embeds)):
        after = logits[tested].copy()
        for tag in range(len(vectors)) if count else ():
            decided = taught[answers[taught, tag] >= 0]
            asked = decided[np.argsort(np.abs(logits[decided, tag]), kind="stable")[:count]]
            lesson = learn(
                curve.background,
                image_embeds[asked],
                logits[asked, tag],
                answers[asked, tag] == 1,
            )
            after[:, tag] += lesson.departure(curve.background, image_embeds[tested])
        yield 1 / (1 + np.exp(-after)), answers[tested]


def halves(count: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Places of `count` pictures that are taught, and of those that are tested."""
    random = np.random.default_rng(0)
    for _ in range(HALVINGS):
        order = random.permutation(count)
        yield order[: count // 2], order[count // 2 :]
        yield order[count // 2 :], order[: count // 2]


def summarise(tested: Sequence[tuple[Scores, NDArray[np.int8]]]) -> tuple[str, ...]:
    """mAP, precision, recall, tags a picture and ECE; the mean over the halves."""
    found = []
    for scores, answers in tested:
        decided, true = answers >= 0, answers == 1
        enough = np.flatnonzero(true.sum(axis=0) >= FEWEST)
        precisions = [
            average_precision(scores.order[decided[:, tag], tag], true[decided[:, tag], tag])
            for tag in enough
        ]
        given = scores.given & decided
        error = calibration_error(scores.probability[decided].astype(np.float64), true[decided])
        found.append(
            (
                float(np.mean(precisions)),
                float(true[given].mean()) if given.any() else np.nan,
                float((given & true).sum() / true.sum()),
                float(given.sum() / len(given)),
                error.ece,
            )
        )
    columns = ([one for one in column if not np.isnan(one)] for column in zip(*found, strict=True))
    return tuple(f"{np.mean(column):.3f}" if column else "" for column in columns)


def average_precision(scores: NDArray[np.floating], true: Truths) -> float:
    """The mean of the precision at each true one, best score first."""
    hits = true[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def write(name: str, rows: list[tuple[str, ...]]) -> None:
    kept: list[tuple[str, ...]] = []
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            kept = [tuple(row) for row in csv.reader(file)][1:]
    rows = [row for row in kept if row[0] != name] + rows
    with RESULTS.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    table = ["", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    table += ["| " + " | ".join(row) + " |" for row in rows]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page = f"{before}{MARKS[0]}\n" + "\n".join(table) + f"\n\n{MARKS[1]}{after}"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
