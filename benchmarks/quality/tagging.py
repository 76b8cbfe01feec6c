"""Measure precision and recall of tags, before and after corrections.

    python benchmarks/quality/tagging.py ../shared/data [MODEL [EMBEDS.npz]]

The truth comes from the captions of flickr8k-val, for the tags of twotower/calibration/
captioned.txt, which people who describe a picture seldom leave out. A picture shows a tag if two of
its five captions name it, and does not if none does; if one does, it is left out. mAP is over the
tags that at least five pictures of a half show; precision, recall and ECE are over all tags and
pictures together, including tags that no picture shows.

For corrections the pictures are split into halves: the tags get corrections on one half, in the
order of the review page (least sure at the front) and answered by the captions, and are measured on
the other half; then the other way round, for three random splits. The baselines are a fixed cosine
of 0.28, and the tag with the highest softmax; neither uses corrections.

These tags are those that the calibration was fitted on. Results for new tags are measured on the
same tags, by curves fitted on flickr8k-train, as `twotower calibrate` does, each without a fifth of
them.

Groups of which exactly one member applies are tagged by `twotower tag` itself, on the pictures
whose captions name something decisive (GROUPS; not if they are decisive for two members), and
compared with the most frequent member.

Pictures unlike Flickr8k's are the 50 of examples/photos. example_tags.csv has the tags that they
show, labelled by looking; tags under `open` may or may not apply.

EMBEDS.npz has image embeds that were computed elsewhere (`val`, `train`), in the order of the data.
For a model without a calibration, the curve of tags is fitted on flickr8k-train too. Writes
results/tagging.csv (the rows of this model in it) and results/tag_groups.csv.
"""

from __future__ import annotations

import csv
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import twotower
from benchmarks.table import ROOT, read_results, write_results
from twotower.arrays import BoolArray, Float32Array, Float64Array, IndexArray
from twotower.calibration.background import Background, background_texts, measure_background
from twotower.calibration.calibration import read_calibration
from twotower.calibration.captions import captioned_tags
from twotower.calibration.fit import Pictures
from twotower.calibration.tag_curve import TagCurve
from twotower.encode.encoder import Encoder
from twotower.evaluate.reliability import measure_reliability
from twotower.library import Library
from twotower.pairs.sources import open_source
from twotower.tagging.feedback import fit_feedback
from twotower.tagging.fit_tags import FOLDS, fit_tags
from twotower.tagging.formats import read_vocabulary
from twotower.tagging.tag_embeds import embed_tags
from twotower.tagging.tagger import TRUSTED_CORRECTIONS, Tagger
from twotower.tagging.vocabulary import Vocabulary

EXAMPLE_TAGS = ROOT / "benchmarks" / "data" / "example_tags.csv"
CORRECTIONS = (0, 1, 5, 20)
PRECISIONS = (0.9, 0.8, 0.7)  # requested
SPLITS = 3
MIN_PICTURES = 5  # that show a tag, for a meaningful average precision
COSINE = 0.28
COLUMNS = (
    *("model", "method", "requested", "corrections", "mAP"),
    *("precision", "recall", "tags a picture", "ECE"),
)
GROUP_COLUMNS = (
    *("group", "pictures", "members", "most frequent", "top-1"),
    *("requested", "assigned", "precision"),
)
# By group and member, words that are decisive for it if this many captions contain one.
DECISIVE_CAPTIONS = 2
GROUPS = {
    "season": {
        "winter": r"snow\w*|winter|ski|skis|skier\w*|skiing|sled\w*|blizzard|icy",
        "summer": r"summer|beach|bikini\w*|sunbath\w*|swimsuit\w*|swimming|sprinkler\w*|wading",
        "autumn": r"autumn|fall leaves|fallen leaves|dead leaves",
        "spring": r"spring time|springtime|blossom\w*",
    },
    "time of day": {
        "night": r"night\w*",
        "day": r"day|daytime|sunny|sunlight|sunshine|daylight|blue sky",
        "sunrise or sunset": r"sunset|sunrise|dusk|dawn|setting sun",
    },
    "indoors or outdoors": {
        "indoors": r"indoors?|inside|room|kitchen|bedroom|bathroom|couch|sofa|bed|office|carpet|gym"
        r"|restaurant|living room|hallway|bowling",
        "outdoors": r"outdoors?|outside|field|grass\w*|beach|snow\w*|mountain\w*|street|park|forest"
        r"|woods|lake|ocean|river|yard|sidewalk|desert|cliff|trail|hill",
    },
    "how many people": {
        "one person": r"(?<!and )(a|the|one|young|little|old|older) (man|woman|boy|girl|lady|child"
        r"|toddler|baby|surfer|skateboarder|skier|snowboarder|climber|cyclist)(?! and)\b",
        "two people": r"(two|2) (\w+ )?(people|men|women|boys|girls|children|kids|ladies|guys"
        r"|adults|toddlers|teenagers|players|friends|hikers|wrestlers|boxers)|couple",
        "group of people": r"(three|four|five|six|several|3|4|5|group of) (\w+ )?(people|men|women"
        r"|boys|girls|children|kids|ladies|guys|adults|friends|players|teenagers|hikers)",
        "crowd": r"crowds?|large group|many people|audience",
    },
}

Answers = NDArray[np.int8]  # pictures by tags: 1, 0, or -1 if it is open


def main() -> None:
    data = Path(sys.argv[1])
    model = twotower.load(sys.argv[2] if len(sys.argv) > 2 else None)
    stored = dict(np.load(sys.argv[3])) if len(sys.argv) > 3 else {}
    name = model.config.name if not stored else str(stored["name"])
    train = read_pictures(model, data / "flickr8k-train", stored.get("train"))
    background = measure_background(train.image_embeds, model.encode_text(background_texts()))
    calibration = read_calibration(model.directory)
    curve = calibration.tags if calibration else fit_tags(model, background, [train])
    assert curve is not None  # the pictures have five captions
    val = read_pictures(model, data / "flickr8k-val", stored.get("val"))
    captioned = [tag for tag in captioned_tags(val.captions) if tag.name in curve.names]
    names = [tag.name for tag in captioned]
    answers = np.stack([tag.answers for tag in captioned], axis=1)
    tag_embeds = embed_names(model, names)
    enough = (answers == 1).sum(axis=0) >= MIN_PICTURES
    print(f"{len(names)} tags, {enough.sum()} of them for mAP")
    scorers = [
        score_fitted(curve, tag_embeds, val.image_embeds),
        score_new(model, background, train, names, tag_embeds, val.image_embeds),
    ]
    rows = [
        *measure_baselines(model.logit_scale, tag_embeds, val.image_embeds, answers),
        *measure_corrections(curve.background, scorers, val.image_embeds, answers),
    ]
    rows = [(name, *row) for row in rows]
    if not stored:
        rows += [(f"{name}, examples/photos", *row) for row in measure_examples(model, curve)]
    earlier = [tuple(row.values()) for row in read_results("tagging.csv")]
    earlier = [row for row in earlier if row[0].partition(",")[0] != name]
    write_results("tagging.csv", COLUMNS, [*earlier, *rows])
    if not stored:
        groups = measure_groups(data / "flickr8k-val", val.captions)
        write_results("tag_groups.csv", GROUP_COLUMNS, groups)


def read_pictures(model: Encoder, folder: Path, image_embeds: Float32Array | None) -> Pictures:
    source = open_source(folder)
    pairs = [source[number] for number in range(len(source))]
    if image_embeds is None:
        image_embeds = model.encode_image([pair.picture for pair in pairs])
    finite = np.isfinite(image_embeds.sum(axis=1))  # embeds from elsewhere may be incomplete
    captions = [pair.captions for pair, valid in zip(pairs, list(finite), strict=True) if valid]
    return Pictures(image_embeds[finite], captions)


def embed_names(model: Encoder, names: Sequence[str]) -> Float32Array:
    """Return the embeds of tags of the shipped vocabulary [tags, embed_dim]."""
    vocabulary = read_vocabulary()
    tags = [vocabulary.find(name) for name in names]
    return embed_tags(model, [tag for tag in tags if tag is not None])


# --- scores --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """Scores of pictures by tags.

    Attributes:
        order: scores that order the pictures of a tag.
        probability: between 0 and 1.
        assigned: True if the picture gets the tag.
    """

    order: NDArray[np.floating]
    probability: NDArray[np.floating]
    assigned: BoolArray

    def take(self, pictures: IndexArray) -> Scores:
        """Return the scores of these pictures."""
        return Scores(self.order[pictures], self.probability[pictures], self.assigned[pictures])


@dataclass(frozen=True)
class Scorer:
    """Log-odds of pictures by tags, and the cut-offs of each tag by requested precision."""

    method: str
    logits: Float64Array
    cutoffs: dict[float, Float64Array]


def score_fitted(curve: TagCurve, tag_embeds: Float32Array, image_embeds: Float32Array) -> Scorer:
    """Score tags by the curve that was fitted on them."""
    count = len(tag_embeds)
    logits = curve.logits(tag_embeds, image_embeds, np.ones(count, bool))
    cutoffs = {p: np.full(count, curve.fitted.cutoff(p)) for p in PRECISIONS}
    return Scorer("twotower", logits, cutoffs)


def score_new(
    model: Encoder,
    background: Background,
    train: Pictures,
    names: Sequence[str],
    tag_embeds: Float32Array,
    image_embeds: Float32Array,
) -> Scorer:
    """Score each tag by a curve that was fitted without it."""
    logits = np.zeros((len(image_embeds), len(names)))
    cutoffs = {precision: np.zeros(len(names)) for precision in PRECISIONS}
    folds = np.arange(len(names)) % FOLDS
    for fold in range(FOLDS):
        columns = np.flatnonzero(folds == fold)
        without = frozenset(names[column] for column in columns.tolist())
        curve = fit_tags(model, background, [train], without)
        assert curve is not None
        fitted = np.zeros(len(columns), bool)
        logits[:, columns] = curve.logits(tag_embeds[columns], image_embeds, fitted)
        for precision in PRECISIONS:
            cutoffs[precision][columns] = curve.unfitted.cutoff(precision)
    return Scorer("twotower, new tags", logits, cutoffs)


def score_baselines(
    scale: float, tag_embeds: Float32Array, image_embeds: Float32Array
) -> dict[str, Scores]:
    cosines = image_embeds @ tag_embeds.T
    softmax = np.exp(scale * (cosines - cosines.max(axis=1, keepdims=True)))
    softmax /= softmax.sum(axis=1, keepdims=True)
    argmax = np.arange(len(tag_embeds)) == cosines.argmax(axis=1)[:, None]
    return {
        f"cosine {COSINE}": Scores(cosines, np.clip(cosines, 0, 1), cosines >= COSINE),
        "softmax, top-1": Scores(softmax, softmax, argmax),
    }


# --- rows of results, without the model's name ---------------------------------------------------


def measure_baselines(
    scale: float, tag_embeds: Float32Array, image_embeds: Float32Array, answers: Answers
) -> Iterator[tuple[str, ...]]:
    for name, scores in score_baselines(scale, tag_embeds, image_embeds).items():
        tested = [(scores.take(half), answers[half]) for _, half in halves(len(answers))]
        yield (name, "", "", *summarize(tested))


def measure_examples(model: Encoder, curve: TagCurve) -> Iterator[tuple[str, ...]]:
    """Measure baselines and fitted tags on the example photographs, all together."""
    names = sorted(curve.names)
    with EXAMPLE_TAGS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    answers = np.zeros((len(rows), len(names)), np.int8)
    for picture, row in zip(answers, rows, strict=True):
        for column, answer in (("open", -1), ("shows", 1)):
            tags = [names.index(name) for name in row[column].split("|") if name in names]
            picture[tags] = answer
    photos = ROOT / "examples" / "photos"
    image_embeds = model.encode_image([photos / row["file"] for row in rows])
    tag_embeds = embed_names(model, names)
    for name, scores in score_baselines(model.logit_scale, tag_embeds, image_embeds).items():
        yield (name, "", "", *summarize([(scores, answers)]))
    logits = curve.logits(tag_embeds, image_embeds, np.ones(len(names), bool))
    p = 1 / (1 + np.exp(-logits))
    for precision in PRECISIONS:
        scores = Scores(p, p, p >= curve.fitted.cutoff(precision))
        yield ("twotower", f"{precision:.1f}", "0", *summarize([(scores, answers)]))


def measure_corrections(
    background: Background,
    scorers: Sequence[Scorer],
    image_embeds: Float32Array,
    answers: Answers,
) -> Iterator[tuple[str, ...]]:
    """Measure each scorer before and after corrections."""
    for scorer in scorers:
        for count in CORRECTIONS:
            corrected = list(
                correct_halves(background, scorer.logits, image_embeds, answers, count)
            )
            for precision in PRECISIONS:
                cutoffs = scorer.cutoffs[precision]
                if count >= TRUSTED_CORRECTIONS:
                    cutoffs = np.minimum(cutoffs, precision)
                tested = [(Scores(p, p, p >= cutoffs), truth) for p, truth in corrected]
                yield (scorer.method, f"{precision:.1f}", str(count), *summarize(tested))


def correct_halves(
    background: Background,
    logits: Float64Array,
    image_embeds: Float32Array,
    answers: Answers,
    count: int,
) -> Iterator[tuple[Float64Array, Answers]]:
    """Yield probabilities and answers of halves, after `count` corrections a tag on the others."""
    for corrected, tested in halves(len(image_embeds)):
        after = logits[tested].copy()
        for tag in range(logits.shape[1]) if count else ():
            decided = corrected[answers[corrected, tag] >= 0]
            order = np.argsort(np.abs(logits[decided, tag]), kind="stable")
            chosen = decided[order[:count]]
            feedback = fit_feedback(
                background, image_embeds[chosen], logits[chosen, tag], answers[chosen, tag] == 1
            )
            after[:, tag] += feedback.shift(background, image_embeds[tested])
        yield 1 / (1 + np.exp(-after)), answers[tested]


def halves(count: int) -> Iterator[tuple[IndexArray, IndexArray]]:
    """Yield the numbers of pictures that are corrected, and of those that are tested."""
    random = np.random.default_rng(0)
    for _ in range(SPLITS):
        order = random.permutation(count)
        yield order[: count // 2], order[count // 2 :]
        yield order[count // 2 :], order[: count // 2]


def summarize(tested: Sequence[tuple[Scores, Answers]]) -> tuple[str, ...]:
    """Return mAP, precision, recall, tags a picture and ECE: the means over the halves."""
    rows = []
    for scores, answers in tested:
        decided, correct = answers >= 0, answers == 1
        enough = np.flatnonzero(correct.sum(axis=0) >= MIN_PICTURES)
        precisions = [
            average_precision(scores.order[decided[:, tag], tag], correct[decided[:, tag], tag])
            for tag in enough
        ]
        assigned = scores.assigned & decided
        reliability = measure_reliability(
            scores.probability[decided].astype(np.float64), correct[decided]
        )
        rows.append(
            (
                float(np.mean(precisions)),
                float(correct[assigned].mean()) if assigned.any() else np.nan,
                float((assigned & correct).sum() / correct.sum()),
                float(assigned.sum() / len(assigned)),
                reliability.ece,
            )
        )
    columns = ([x for x in column if not np.isnan(x)] for column in zip(*rows, strict=True))
    return tuple(f"{np.mean(column):.3f}" if column else "" for column in columns)


def average_precision(scores: NDArray[np.floating], correct: BoolArray) -> float:
    """Return the mean of the precision at each correct picture, in the order of the scores."""
    hits = correct[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


# --- groups --------------------------------------------------------------------------------------


def measure_groups(folder: Path, captions: Sequence[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    """Compare the groups of the shipped vocabulary, as `Tagger` tags them, with captions."""
    tagger, probabilities = tag_groups(folder)
    for group, members in GROUPS.items():
        decisive = np.array([decisive_member(texts, list(members.values())) for texts in captions])
        columns = [
            next(i for i, tag in enumerate(tagger.tags) if tag.path[-2:] == (group, member))
            for member in members
        ]
        rows = np.flatnonzero(decisive >= 0)
        shares = probabilities[rows][:, columns]
        truth = decisive[rows]
        most_frequent = np.bincount(truth).max() / len(truth)
        top1 = (shares.argmax(axis=1) == truth).mean()
        members_shown = str(len(set(truth.tolist())))
        for precision in PRECISIONS:
            assigned = shares >= precision
            correct = assigned[np.arange(len(truth)), truth]
            yield (
                *(group, str(len(truth)), members_shown, f"{most_frequent:.3f}", f"{top1:.3f}"),
                *(f"{precision:.1f}", f"{assigned.any(axis=1).mean():.3f}"),
                f"{correct.sum() / assigned.sum():.3f}" if assigned.any() else "",
            )


def tag_groups(folder: Path) -> tuple[Tagger, Float64Array]:
    """Return a tagger of the groups, and the probabilities of pictures by tags, in file order."""
    source = open_source(folder)
    with tempfile.TemporaryDirectory() as scratch:
        library = Library(folder, location=Path(scratch) / "library")
        library.index()
        vocabulary = read_vocabulary()
        paths = [tag.path for tag in vocabulary.tags if set(tag.path) & set(GROUPS)]
        with_parents = {path[:end] for path in paths for end in range(1, len(path) + 1)}
        groups = Vocabulary(tuple(tag for tag in vocabulary.tags if tag.path in with_parents))
        tagger = Tagger(library.opened, groups)
        ids = {record.path: record.id for record in library.catalog.records()}
        tagged = list(
            tagger.tag_pictures([ids[source.key(number)] for number in range(len(source))])
        )
        library.close()
    return tagger, np.stack([picture.probabilities for picture in tagged])


def decisive_member(captions: Sequence[str], patterns: Sequence[str]) -> int:
    """Return the only member that captions are decisive for; -1 if there is none or several."""
    decisive = [
        member
        for member, pattern in enumerate(patterns)
        if sum(bool(re.search(rf"\b(?:{pattern})\b", text.lower())) for text in captions)
        >= DECISIVE_CAPTIONS
    ]
    return decisive[0] if len(decisive) == 1 else -1


if __name__ == "__main__":
    main()
