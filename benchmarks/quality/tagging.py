"""Measure precision and recall of tags, before and after corrections.

    python benchmarks/quality/tagging.py ../shared/data [MODEL]

The truth comes from the captions of flickr8k-val, for the tags of twotower/calibration/
captioned.txt, which people who describe a picture seldom leave out. A picture shows a tag if two of
its five captions name it, and does not if none does; if one does, it is left out. mAP is over the
tags that at least five pictures of a half show; precision, recall and ECE are over all tags and
pictures together, including tags that no picture shows.

For corrections the pictures are split into halves: the tags get corrections on one half, in the
order of the review page (least sure at the front) and answered by the captions, and are measured on
the other half; then the other way round, for three random splits. The baselines are a fixed cosine
of 0.28, and the tag with the highest softmax; neither uses corrections.

Groups of which exactly one member applies are tagged by `twotower tag` itself, on the pictures
whose captions name something decisive (GROUPS; not if they are decisive for two members), and
compared with the most frequent member.

Pictures unlike Flickr8k's are the 50 of examples/photos. example_tags.csv has the tags that they
show, labelled by looking; tags under `open` may or may not apply.

Tags in collections of other kinds: unseen_sources.py. Writes results/tagging.csv (the rows of this
model in it) and results/tag_groups.csv.
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
from twotower.calibration.background import Background
from twotower.calibration.calibration import Calibration, read_calibration
from twotower.calibration.captions import captioned_tags, read_captioned
from twotower.calibration.fit import Pictures
from twotower.encode.encoder import Encoder
from twotower.evaluate.reliability import measure_reliability
from twotower.library import Library
from twotower.pairs.sources import open_source
from twotower.tagging.feedback import fit_feedback
from twotower.tagging.formats import read_vocabulary
from twotower.tagging.tag_embeds import embed_tags
from twotower.tagging.tagger import TRUSTED_CORRECTIONS, Tagger
from twotower.tagging.vocabulary import Tag, Vocabulary

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
    name = model.config.name
    calibration = read_calibration(model)
    if calibration is None:
        raise SystemExit(f"{model.directory}: no calibration; make one with: twotower calibrate")
    val = read_pictures(model, data / "flickr8k-val")
    captioned = [tag for tag in captioned_tags(val.captions) if find_tag(tag.name)]
    names = [tag.name for tag in captioned]
    answers = np.stack([tag.answers for tag in captioned], axis=1)
    enough = (answers == 1).sum(axis=0) >= MIN_PICTURES
    print(f"{len(names)} tags, {enough.sum()} of them for mAP")
    rows = [
        *measure_baselines(model, names, val.image_embeds, answers),
        *measure_corrections(model, calibration, names, val.image_embeds, answers),
    ]
    rows = [(name, *row) for row in rows]
    rows += [(f"{name}, examples/photos", *row) for row in measure_examples(model, calibration)]
    earlier = [tuple(row.values()) for row in read_results("tagging.csv")]
    earlier = [row for row in earlier if row[0].partition(",")[0] != name]
    write_results("tagging.csv", COLUMNS, [*earlier, *rows])
    groups = measure_groups(data / "flickr8k-val", model, val.captions)
    write_results("tag_groups.csv", GROUP_COLUMNS, groups)


def read_pictures(model: Encoder, folder: Path) -> Pictures:
    source = open_source(folder)
    pairs = [source[number] for number in range(len(source))]
    image_embeds = model.encode_image([pair.picture for pair in pairs])
    return Pictures(image_embeds, [pair.captions for pair in pairs])


def find_tag(name: str) -> Tag | None:
    """Return the tag of the shipped vocabulary."""
    return read_vocabulary().find(name)


def find_tags(names: Sequence[str]) -> list[Tag]:
    """Return the tags of these names that the shipped vocabulary has."""
    return [tag for name in names if (tag := find_tag(name)) is not None]


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


def tag_logits(
    model: Encoder, calibration: Calibration, names: Sequence[str], image_embeds: Float32Array
) -> Float64Array:
    """Return the log-odds [n, tags] of pictures by tags."""
    tags = find_tags(names)
    texts = [
        calibration.text.prepare(tag.names, embed)
        for tag, embed in zip(tags, embed_tags(model, tags), strict=True)
    ]
    return calibration.text.logits(texts, image_embeds)


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
    model: Encoder, names: Sequence[str], image_embeds: Float32Array, answers: Answers
) -> Iterator[tuple[str, ...]]:
    tag_embeds = embed_tags(model, find_tags(names))
    for name, scores in score_baselines(model.logit_scale, tag_embeds, image_embeds).items():
        tested = [(scores.take(half), answers[half]) for _, half in halves(len(answers))]
        yield (name, "", "", *summarize(tested))


def measure_examples(model: Encoder, calibration: Calibration) -> Iterator[tuple[str, ...]]:
    """Measure baselines and tags on the example photographs, all together."""
    names = sorted(name for name, _ in read_captioned() if find_tag(name))
    with EXAMPLE_TAGS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    answers = np.zeros((len(rows), len(names)), np.int8)
    for picture, row in zip(answers, rows, strict=True):
        for column, answer in (("open", -1), ("shows", 1)):
            tags = [names.index(name) for name in row[column].split("|") if name in names]
            picture[tags] = answer
    photos = ROOT / "examples" / "photos"
    image_embeds = model.encode_image([photos / row["file"] for row in rows])
    tag_embeds = embed_tags(model, find_tags(names))
    for name, scores in score_baselines(model.logit_scale, tag_embeds, image_embeds).items():
        yield (name, "", "", *summarize([(scores, answers)]))
    p = 1 / (1 + np.exp(-tag_logits(model, calibration, names, image_embeds)))
    for precision in PRECISIONS:
        scores = Scores(p, p, p >= calibration.tag_cutoff(precision))
        yield ("twotower", f"{precision:.1f}", "0", *summarize([(scores, answers)]))


def measure_corrections(
    model: Encoder,
    calibration: Calibration,
    names: Sequence[str],
    image_embeds: Float32Array,
    answers: Answers,
) -> Iterator[tuple[str, ...]]:
    """Measure tags before and after corrections."""
    logits = tag_logits(model, calibration, names, image_embeds)
    for count in CORRECTIONS:
        corrected = list(
            correct_halves(calibration.background, logits, image_embeds, answers, count)
        )
        for precision in PRECISIONS:
            cutoff = calibration.tag_cutoff(precision)
            if count >= TRUSTED_CORRECTIONS:
                cutoff = min(cutoff, precision)
            tested = [(Scores(p, p, p >= cutoff), truth) for p, truth in corrected]
            yield ("twotower", f"{precision:.1f}", str(count), *summarize(tested))


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


def measure_groups(
    folder: Path, model: Encoder, captions: Sequence[Sequence[str]]
) -> Iterator[tuple[str, ...]]:
    """Compare the groups of the shipped vocabulary, as `Tagger` tags them, with captions."""
    tagger, probabilities = tag_groups(folder, model)
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


def tag_groups(folder: Path, model: Encoder) -> tuple[Tagger, Float64Array]:
    """Return a tagger of the groups, and the probabilities of pictures by tags, in file order."""
    source = open_source(folder)
    with tempfile.TemporaryDirectory() as scratch:
        location = Path(scratch) / "library"
        library = Library(folder, model=model.directory, location=location)
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
