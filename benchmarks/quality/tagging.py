"""How right tags are, and what corrections teach.

    python benchmarks/quality/tagging.py ../shared/data [MODEL [EMBEDS.npz]]

Truth: the captions of flickr8k-val and the tags of twotower/library/captioned.txt, which people who
describe a picture hardly leave out. A picture shows a tag if two of its five captions name it, does
not if none does, and what one of them names is left out. mAP is over the tags that five pictures
of a half show at least; precision, recall and ECE are over all tags and pictures at once, also
tags that no picture shows.

Corrections: the pictures are halved, on one half the tags get theirs, in the order of the review
page (least sure first) and answered by the captions, on the other it is measured; then the other
way round, for three ways to halve. The peers: a fixed cosine of 0.28, and the tag that softmax puts
first; neither learns.

These tags are those that a calibration knows. How it does on others is measured on the same, by
curves fitted on flickr8k-train, as `twotower calibrate` does, each without a fifth of them.

Groups of which exactly one applies are judged by `twotower tag` itself, on the pictures of which
captions name something that tells (GROUPS below; where two things are told, none is), against the
answer that most of these pictures have.

Pictures unlike Flickr8k's: the 50 of examples/photos, of which example_tags.csv says which of the
known tags they show, by looking; `open` are those that one may or may not call so.

EMBEDS.npz has image embeds of the model made elsewhere (`val`, `train`), in the order of the data.
For a model without a calibration, the curve of tags is fitted on flickr8k-train too. Writes
results/tagging.csv (the rows of this model in it), results/tag_groups.csv and the tables in
docs/measurements/tagging.md.
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

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results" / "tagging.csv"
PAGE = HERE.parent / "docs" / "measurements" / "tagging.md"
MARKS = "<!-- written by benchmarks/quality/tagging.py -->", "<!-- until here -->"
EXAMPLES = HERE / "data" / "example_tags.csv"
GROUP_RESULTS = HERE / "results" / "tag_groups.csv"
GROUP_MARKS = "<!-- groups, by benchmarks/quality/tagging.py -->", "<!-- until here, groups -->"
CORRECTIONS = (0, 1, 5, 20)
ASKED = (0.9, 0.8, 0.7)
HALVINGS = 3
FEWEST = 5  # pictures that show a tag, for its average precision to mean something
COSINE = 0.28
COLUMNS = (
    *("model", "method", "asked", "corrections", "mAP"),
    *("precision", "recall", "tags a picture", "ECE"),
)

GROUP_COLUMNS = (
    *("group", "pictures", "members", "commonest", "first right", "asked", "given", "right"),
)
# By group and member, words that tell it, in this many captions at least.
TELLING = 2
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

Numbers = NDArray[np.float64]
Floats = NDArray[np.float32]
Truths = NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """Pictures by tags: what orders them, the probability, and which are given."""

    order: NDArray[np.floating]
    probability: NDArray[np.floating]
    given: Truths


@dataclass(frozen=True)
class Judge:
    """Log-odds of pictures by tags, and by asked precision the cut-off of each tag."""

    method: str
    logits: Numbers
    cutoffs: dict[float, Numbers]


def main() -> None:
    data = Path(sys.argv[1])
    model = twotower.load(sys.argv[2] if len(sys.argv) > 2 else None)
    made = dict(np.load(sys.argv[3])) if len(sys.argv) > 3 else {}
    name = model.config.name if not made else str(made["name"])
    train = pictures(model, data / "flickr8k-train", made.get("train"))
    background = measure_background(train.image_embeds, model.encode_text(background_texts()))
    calibration = read_calibration(model.directory)
    curve = calibration.tags if calibration else fit_tags(model, background, [train])
    assert curve is not None  # the pictures have five captions
    val = pictures(model, data / "flickr8k-val", made.get("val"))
    said = [one for one in captioned_tags(val.captions) if one.name in curve.names]
    answers = np.stack([one.answers for one in said], axis=1)
    vocabulary = read_vocabulary()
    tags = [vocabulary.find(one.name) for one in said]
    vectors = embed_tags(model, [tag for tag in tags if tag is not None])
    print(f"{len(said)} tags, {int(((answers == 1).sum(axis=0) >= FEWEST).sum())} of them for mAP")
    judges = [
        Judge(
            "twotower",
            curve.logits(vectors, val.image_embeds, np.ones(len(said), bool)),
            {asked: np.full(len(said), curve.fitted.cutoff(asked)) for asked in ASKED},
        ),
        judge_new(model, background, train, [one.name for one in said], vectors, val.image_embeds),
    ]
    peers = list(measured_peers(model.logit_scale, vectors, val.image_embeds, answers))
    rows = [
        (name, *row)
        for row in [*peers, *measured(curve.background, judges, val.image_embeds, answers)]
    ]
    if not made:
        rows += [(f"{name}, examples/photos", *row) for row in measured_examples(model, curve)]
    write(name, rows)
    if not made:
        write_groups(list(measured_groups(data / "flickr8k-val", val.captions)))


def judge_new(
    model: Encoder,
    background: Background,
    train: Pictures,
    names: Sequence[str],
    vectors: Floats,
    image_embeds: Floats,
) -> Judge:
    """Each tag by a curve that does not know it."""
    logits = np.zeros((len(image_embeds), len(names)))
    cutoffs = {asked: np.zeros(len(names)) for asked in ASKED}
    folds = np.arange(len(names)) % FOLDS
    for fold in range(FOLDS):
        some = np.flatnonzero(folds == fold)
        without = frozenset(names[place] for place in some.tolist())
        curve = fit_tags(model, background, [train], without)
        assert curve is not None
        new = np.zeros(len(some), bool)
        logits[:, some] = curve.logits(vectors[some], image_embeds, new)
        for asked in ASKED:
            cutoffs[asked][some] = curve.unfitted.cutoff(asked)
    return Judge("twotower, new tags", logits, cutoffs)


def pictures(model: Encoder, folder: Path, image_embeds: Floats | None) -> Pictures:
    source = open_source(folder)
    pairs = [source[number] for number in range(len(source))]
    if image_embeds is None:
        image_embeds = model.encode_image([pair.picture for pair in pairs])
    there = np.isfinite(image_embeds.sum(axis=1))  # of some, vectors made elsewhere may be missing
    captions = [pair.captions for pair, one in zip(pairs, list(there), strict=True) if one]
    return Pictures(image_embeds[there], captions)


def measured_peers(
    scale: float, vectors: Floats, image_embeds: Floats, answers: NDArray[np.int8]
) -> Iterator[tuple[str, ...]]:
    """Rows of the table behind the model's name."""
    for name, scores in scores_of_peers(scale, vectors, image_embeds).items():
        tested = [
            (
                Scores(scores.order[some], scores.probability[some], scores.given[some]),
                answers[some],
            )
            for _, some in halves(len(answers))
        ]
        yield (name, "", "", *summarise(tested))


def scores_of_peers(scale: float, vectors: Floats, image_embeds: Floats) -> dict[str, Scores]:
    cosines = image_embeds @ vectors.T
    softmax = np.exp(scale * (cosines - cosines.max(axis=1, keepdims=True)))
    softmax /= softmax.sum(axis=1, keepdims=True)
    argmax = np.arange(len(vectors)) == cosines.argmax(axis=1)[:, None]
    return {
        f"cosine {COSINE}": Scores(cosines, np.clip(cosines, 0, 1), cosines >= COSINE),
        "softmax, first": Scores(softmax, softmax, argmax),
    }


def measured_examples(model: Encoder, curve: TagCurve) -> Iterator[tuple[str, ...]]:
    """Peers and known tags on the example photographs, all at once."""
    names = sorted(curve.names)
    with EXAMPLES.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    answers = np.zeros((len(rows), len(names)), np.int8)
    for said, row in zip(answers, rows, strict=True):
        for column, answer in (("open", -1), ("shows", 1)):
            said[[names.index(one) for one in row[column].split("|") if one in names]] = answer
    photos = HERE.parent / "examples" / "photos"
    image_embeds = model.encode_image([photos / row["file"] for row in rows])
    vocabulary = read_vocabulary()
    tags = [vocabulary.find(name) for name in names]
    vectors = embed_tags(model, [tag for tag in tags if tag is not None])
    for peer, scores in scores_of_peers(model.logit_scale, vectors, image_embeds).items():
        yield (peer, "", "", *summarise([(scores, answers)]))
    logits = curve.logits(vectors, image_embeds, np.ones(len(names), bool))
    p = 1 / (1 + np.exp(-logits))
    for asked in ASKED:
        given = Scores(p, p, p >= curve.fitted.cutoff(asked))
        yield ("twotower", f"{asked:.1f}", "0", *summarise([(given, answers)]))


def measured(
    background: Background, judges: Sequence[Judge], image_embeds: Floats, answers: NDArray[np.int8]
) -> Iterator[tuple[str, ...]]:
    """As the peers, after corrections too."""
    for judge in judges:
        for count in CORRECTIONS:
            judged = list(judged_halves(background, judge.logits, image_embeds, answers, count))
            for asked in ASKED:
                cutoffs = judge.cutoffs[asked]
                if count >= TRUSTED_CORRECTIONS:
                    cutoffs = np.minimum(cutoffs, asked)
                tested = [(Scores(p, p, p >= cutoffs), truth) for p, truth in judged]
                yield (judge.method, f"{asked:.1f}", str(count), *summarise(tested))


def judged_halves(
    background: Background,
    logits: Numbers,
    image_embeds: Floats,
    answers: NDArray[np.int8],
    count: int,
) -> Iterator[tuple[Numbers, NDArray[np.int8]]]:
    """Probabilities and answers of halves whose other half had `count` corrections a tag."""
    for taught, tested in halves(len(image_embeds)):
        after = logits[tested].copy()
        for tag in range(logits.shape[1]) if count else ():
            decided = taught[answers[taught, tag] >= 0]
            asked = decided[np.argsort(np.abs(logits[decided, tag]), kind="stable")[:count]]
            lesson = fit_feedback(
                background, image_embeds[asked], logits[asked, tag], answers[asked, tag] == 1
            )
            after[:, tag] += lesson.shift(background, image_embeds[tested])
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
        reliability = measure_reliability(
            scores.probability[decided].astype(np.float64), true[decided]
        )
        found.append(
            (
                float(np.mean(precisions)),
                float(true[given].mean()) if given.any() else np.nan,
                float((given & true).sum() / true.sum()),
                float(given.sum() / len(given)),
                reliability.ece,
            )
        )
    columns = ([one for one in column if not np.isnan(one)] for column in zip(*found, strict=True))
    return tuple(f"{np.mean(column):.3f}" if column else "" for column in columns)


def average_precision(scores: NDArray[np.floating], true: Truths) -> float:
    """The mean of the precision at each true one, best score first."""
    hits = true[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def measured_groups(folder: Path, captions: Sequence[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    """What captions tell of the groups of the shipped vocabulary, and what `Tagger` says."""
    source = open_source(folder)
    with tempfile.TemporaryDirectory() as place:
        library = Library(folder, location=Path(place) / "library")
        library.index()
        whole = read_vocabulary()
        inside = [tag.path for tag in whole.tags if set(tag.path) & set(GROUPS)]
        above = {path[:end] for path in inside for end in range(1, len(path) + 1)}
        vocabulary = Vocabulary(tuple(tag for tag in whole.tags if tag.path in above))
        tagger = Tagger(library.opened, vocabulary)
        ids = {one.path: one.id for one in library.catalog.records()}
        judged = list(
            tagger.tag_pictures([ids[source.key(number)] for number in range(len(source))])
        )
        library.close()
    for group, members in GROUPS.items():
        told = np.array([told_member(said, list(members.values())) for said in captions])
        places = [
            next(place for place, tag in enumerate(tagger.tags) if tag.path[-2:] == (group, member))
            for member in members
        ]
        some = np.flatnonzero(told >= 0)
        shares = np.stack([judged[row].probabilities[places] for row in some])
        truth = told[some]
        commonest = np.bincount(truth).max() / len(truth)
        first = (shares.argmax(axis=1) == truth).mean()
        members_told = str(len(set(truth.tolist())))
        for asked in ASKED:
            given = shares >= asked
            right = given[np.arange(len(truth)), truth]
            yield (
                *(group, str(len(truth)), members_told, f"{commonest:.3f}", f"{first:.3f}"),
                *(f"{asked:.1f}", f"{given.any(axis=1).mean():.3f}"),
                f"{right.sum() / given.sum():.3f}" if given.any() else "",
            )


def told_member(captions: Sequence[str], patterns: Sequence[str]) -> int:
    """The only member that captions tell; -1 where none or several are told."""
    told = [
        place
        for place, pattern in enumerate(patterns)
        if sum(bool(re.search(rf"\b(?:{pattern})\b", one.lower())) for one in captions) >= TELLING
    ]
    return told[0] if len(told) == 1 else -1


def write_groups(rows: list[tuple[str, ...]]) -> None:
    with GROUP_RESULTS.open("w", newline="") as file:
        csv.writer(file).writerows([GROUP_COLUMNS, *rows])
    put_table([GROUP_COLUMNS, *rows], GROUP_MARKS)


def write(name: str, rows: list[tuple[str, ...]]) -> None:
    kept: list[tuple[str, ...]] = []
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            kept = [tuple(row) for row in csv.reader(file)][1:]
    rows = [row for row in kept if row[0].partition(",")[0] != name] + rows
    with RESULTS.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    put_table([COLUMNS, *rows], MARKS)


def put_table(rows: Sequence[tuple[str, ...]], marks: tuple[str, str]) -> None:
    table = ["| " + " | ".join(row) + " |" for row in rows]
    table.insert(1, "|" + "---|" * len(rows[0]))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(marks[0])
    _, _, after = rest.partition(marks[1])
    page = f"{before}{marks[0]}\n\n" + "\n".join(table) + f"\n\n{marks[1]}{after}"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
