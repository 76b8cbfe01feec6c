"""How often answers are right, by kind of question, with intervals.

    python benchmarks/quality/asking.py ../shared/data [--easy-vqa FOLDER --head DIR] [--model M]
    python benchmarks/quality/asking.py ../shared/data --fit [--model M]

Zero-shot and the head that comes with the model, against the best constant answer of each kind and
the answer that is most frequent for the question in flickr8k-train: on questions derived from the
captions of flickr8k-val (`caption_questions.py`), and on hand-written ones about examples/photos
(`examples/questions.csv`). One's own head: on the test questions of easy-VQA (the folder
`easy_vqa/data` of the package on PyPI); without --head, its rows stay as they are. How many
pictures of a library show something, expected and counted, against captions. Writes
results/asking.csv and the tables in docs/measurements/asking.md. --fit prints the constants,
fitted
on flickr8k-val: the bundled model learned from flickr8k-train, where its cosines are too good. How
far their probabilities can be believed is measured on half of the pictures with the constants of
the other half, and the other way round; that table and the sentence on counts are in the page
alone.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import twotower
from benchmarks.quality.caption_questions import Item, caption_questions
from twotower.asking import library_answers
from twotower.asking.answer import Reply
from twotower.asking.english import with_article
from twotower.asking.head import Head, head_of
from twotower.asking.questions import parse_question
from twotower.asking.zero_shot import (
    EVERYDAY_STATEMENTS,
    HEAD_KINDS,
    MIN_PROBABILITY_OF_TWO,
    Answerer,
)
from twotower.calibration.background import background_texts
from twotower.calibration.calibration import read_calibration
from twotower.calibration.captions import LabelledQuery, absent_queries, word_queries
from twotower.encode.encoder import Encoder
from twotower.evaluate.intervals import bootstrap_shares
from twotower.evaluate.reliability import measure_reliability
from twotower.inputs.pictures import Picture
from twotower.pairs.sources import open_source

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "asking.csv"
PAGE = ROOT / "docs" / "measurements" / "asking.md"
FIELDS = ("model", "set", "kind", "method", "n", "right", "low", "high", "sure", "right_when_sure")
DERIVED, BY_HAND, EASY = "flickr8k-val, derived", "examples/photos", "easy-VQA test"
# Methods; "ask" is whichever of the first two answers a kind of question.
ZERO, HEAD, ASK = "zero-shot", "head", "ask"
GAIN, PRIOR, CONSTANT = "head less zero-shot", "without the picture", "best constant"
TABLES = {
    "derived": (DERIVED, (ZERO, HEAD, GAIN, PRIOR, CONSTANT, ASK)),
    "by-hand": (BY_HAND, (ZERO, HEAD, CONSTANT, ASK)),
    "easy-vqa": (EASY, (HEAD, PRIOR)),
}

Floats = NDArray[np.float32]
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Outcome:
    """One question: the picture's number, its kind, whether the answer was right and was sure."""

    picture: int
    kind: str
    right: float
    sure: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--easy-vqa", type=Path)
    parser.add_argument("--head", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--fit", action="store_true")
    arguments = parser.parse_args()
    model = twotower.load(arguments.model)
    if arguments.fit:
        fit(model, arguments.data)
        return
    name = model.config.name
    rows: list[Row] = []
    head = head_of(model.directory)
    captions, pictures = read_pairs(arguments.data / "flickr8k-val")
    seen = see(model, pictures, head)
    items = caption_questions(captions)
    believed = reliability(model, items, seen.image_embeds)
    rows += compared(model, DERIVED, items, seen, head)
    learned, _ = read_pairs(arguments.data / "flickr8k-train")
    rows += table(
        name, DERIVED, PRIOR, without_picture(caption_questions(learned, most=1000), items)
    )
    items, photos = by_hand()
    rows += compared(model, BY_HAND, items, see(model, photos, head), head)
    rows += of_head(arguments.head, arguments.easy_vqa, model) if arguments.head else kept(EASY)
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        writer.writerows(rows)
    write_tables(rows, believed, counts(model, captions, seen.image_embeds))


def kept(of: str) -> list[Row]:
    """Rows of a set that is not measured this time, as they are."""
    with RESULTS.open(newline="") as file:
        return [tuple(row) for row in csv.reader(file) if row[1] == of]


@dataclass(frozen=True)
class SeenPictures:
    """Pictures as the model sees them: image_embeds [n, embed_dim], and the cells of each."""

    image_embeds: Floats
    cells: list[Floats]


def see(model: Encoder, pictures: Sequence[Picture], head: Head | None) -> SeenPictures:
    pixel_values = (model.preprocess(one) for one in pictures)
    cells = [head.towers.patches(one[None])[0] for one in pixel_values] if head else []
    return SeenPictures(model.encode_image(pictures), cells)


def read_pairs(location: Path) -> tuple[list[Sequence[str]], list[bytes]]:
    """Captions and pictures of pairs."""
    tars = location / "*.tar"
    source = open_source(str(tars) if list(location.glob("*.tar")) else location)
    pairs = [source[number] for number in range(len(source))]
    return [pair.captions for pair in pairs], [pair.picture for pair in pairs]


def compared(
    model: Encoder, of: str, items: Sequence[Item], seen: SeenPictures, head: Head | None
) -> list[Row]:
    """Rows of a set by zero-shot, by the head that comes with the model, and as `ask` does."""
    name = model.config.name
    zero = judged(model, items, seen, None)
    rows = table(name, of, ZERO, zero) + table(name, of, CONSTANT, constant(items))
    if not head:
        return rows
    by_head = judged(model, items, seen, head)
    asked = [
        theirs if parse_question(item.question).kind in HEAD_KINDS else mine
        for item, mine, theirs in zip(items, zero, by_head, strict=True)
    ]
    gain = [
        Outcome(mine.picture, mine.kind, theirs.right - mine.right, True)
        for mine, theirs in zip(zero, by_head, strict=True)
    ]
    for method, outcomes in ((HEAD, by_head), (GAIN, gain), (ASK, asked)):
        rows += table(name, of, method, outcomes)
    return rows


def judged(
    model: Encoder, items: Sequence[Item], seen: SeenPictures, head: Head | None
) -> list[Outcome]:
    """Zero-shot, or by a head: all kinds, also those that `ask` keeps from it."""
    everyday = model.encode_text(EVERYDAY_STATEMENTS)
    judges: dict[str, Answerer] = {}
    outcomes = []
    for item in items:
        question = parse_question(item.question)
        image_embeds = seen.image_embeds[item.picture]
        if head and question.kind not in HEAD_KINDS:
            names = set(question.answers) or {"yes", "no"}
            tokens = head.towers.tokens([item.question])
            logits = head.logits(seen.cells[item.picture], *tokens)[0]
            ranked = [head.config.answers[i] for i in np.argsort(-logits)]
            said = next((one for one in ranked if one in names), "")
            outcomes.append(Outcome(item.picture, item.kind, float(said in item.right), True))
            continue
        if item.question not in judges:
            judges[item.question] = Answerer(question, model, head)
        cells = seen.cells[item.picture] if head else None
        replies, sure = judges[item.question].replies(image_embeds, everyday, cells)
        right = float(replies[0].answer in item.right)
        outcomes.append(Outcome(item.picture, item.kind, right, sure))
    return outcomes


def without_picture(learned: Sequence[Item], items: Sequence[Item]) -> list[Outcome]:
    """The answer that is most frequent for a question in what was learned from."""
    from twotower.train.vqa.data import Sample
    from twotower.train.vqa.prior import Prior

    prior = Prior(
        [Sample(Path(), one.question, tuple((each, 1) for each in one.right)) for one in learned]
    )
    return [
        Outcome(one.picture, one.kind, float(prior(one.question) in one.right), True)
        for one in items
    ]


def constant(items: Sequence[Item]) -> list[Outcome]:
    """The one answer that is right most often for each kind; for a choice, the first option."""
    best: dict[str, str] = {}
    for kind in {item.kind for item in items}:
        counted = Counter(one for item in items if item.kind == kind for one in item.right)
        best[kind] = counted.most_common(1)[0][0]
    outcomes = []
    for item in items:
        answer = best[item.kind]
        if item.kind == "choice":
            answer = next(iter(parse_question(item.question).answers))
        outcomes.append(Outcome(item.picture, item.kind, float(answer in item.right), True))
    return outcomes


def by_hand() -> tuple[list[Item], list[Path]]:
    with (ROOT / "examples" / "questions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    files = sorted({row["file"] for row in rows})
    items = [
        Item(
            files.index(row["file"]),
            kind_of(row),
            row["question"],
            tuple(row["answers"].split("|")),
        )
        for row in rows
    ]
    return items, [ROOT / "examples" / "photos" / name for name in files]


def kind_of(row: dict[str, str]) -> str:
    """Kinds with few questions count together."""
    few = {"yes/no", "choice", "colour", "animal", "place"}
    return row["kind"] if row["kind"] in few else "other types"


def of_head(directory: Path, easy_vqa: Path, model: Encoder) -> list[Row]:
    from twotower.train.vqa.data import read_samples
    from twotower.train.vqa.prior import Prior

    head = Head(directory, model.directory)
    learned, tested = read_samples(easy_vqa / "train"), read_samples(easy_vqa / "test")
    prior = Prior(learned)
    about = defaultdict(list)
    for one in tested:
        about[one.picture].append(one)
    by_head, by_prior = [], []
    for number, (picture, some) in enumerate(sorted(about.items())):
        replies: list[list[Reply]] = head.replies(picture, [one.question for one in some])
        for one, answers in zip(some, replies, strict=True):
            kind = "yes/no" if one.answer in ("yes", "no") else "what"
            sure = (answers[0].probability or 0) >= 0.5
            by_head.append(Outcome(number, kind, one.score(answers[0].answer), sure))
            by_prior.append(Outcome(number, kind, one.score(prior(one.question)), True))
    name = model.config.name
    return [
        *table(name, EASY, HEAD, by_head),
        *table(name, EASY, PRIOR, by_prior),
    ]


def table(model: str, of: str, method: str, outcomes: Sequence[Outcome]) -> list[Row]:
    """A row for each kind and one for all; pictures are what the intervals draw again."""
    rows: list[Row] = []
    kinds = ["all", *dict.fromkeys(one.kind for one in outcomes)]
    for kind in kinds:
        some = [one for one in outcomes if kind in ("all", one.kind)]
        pictures = sorted({one.picture for one in some})
        place = {picture: i for i, picture in enumerate(pictures)}
        right, of_all = np.zeros((len(pictures), 1)), np.zeros(len(pictures))
        for one in some:
            right[place[one.picture], 0] += one.right
            of_all[place[one.picture]] += 1
        low, high = bootstrap_shares(right, of_all)[0]
        sure = [one.right for one in some if one.sure]
        numbers = (right.sum() / of_all.sum(), low, high, len(sure) / len(some))
        when_sure = f"{np.mean(sure):.3f}" if sure else ""
        row = (model, of, kind, method, len(some), *(f"{one:.3f}" for one in numbers), when_sure)
        print(*row)
        rows.append(row)
    return rows


def counts(model: Encoder, captions: Sequence[Sequence[str]], image_embeds: Floats) -> str:
    """How good expected counts are, as a sentence for the page.

    In each half of the pictures, with the constants of the other half.
    """
    found = []
    for half in (0, 1):
        *constants, _ = fit_counts(model, captions[1 - half :: 2], image_embeds[1 - half :: 2])
        library_answers.DEVIATION_SLOPE, library_answers.INTERCEPT = constants[:2]
        library_answers.COUNT_LOG_SD = constants[2]
        words = [one for one in word_queries(captions[half::2]) if len(one.matching) >= 3]
        expected, *others = estimates(model, words, image_embeds[half::2])
        total = len(image_embeds[half::2])
        bounds = np.array([library_answers.count_interval(one, total) for one in expected])
        found.append(np.stack([expected, *others, *bounds.T]))
    expected, cut, low, high, least, most = np.concatenate(found, axis=1)
    inside = (most >= low) & (least <= high)
    middle = (low + high) / 2
    off = np.abs(np.log2(np.maximum(expected, 0.5) / middle))
    off_cut = np.abs(np.log2(np.maximum(cut, 0.5) / middle))
    text = (
        f"For {len(expected)} words of the captions of half of flickr8k-val, the 90 % interval "
        f"meets the true count for {inside.mean():.0%} of them. The expected count is off by a "
        f"factor of {2 ** np.median(off):.1f} at the median, the count above the cut-off by one of "
        f"{2 ** np.median(off_cut):.1f}."
    )
    print(text)
    return text


def estimates(
    model: Encoder, words: Sequence[LabelledQuery], image_embeds: Floats
) -> tuple[NDArray[np.float64], ...]:
    """Of each word: expected count, count above the cut-off, fewest and most true.

    Pictures that a single caption names may or may not count.
    """
    calibration = read_calibration(model.directory)
    assert calibration is not None, f"{model.config.name} has no calibration"
    curve, size = calibration.text, len(image_embeds)
    everyday = model.encode_text(EVERYDAY_STATEMENTS)
    texts = [one.text for one in words]
    statements = model.encode_text([f"a photo of {with_article(text)}." for text in texts])
    found = []
    for word, query, statement in zip(words, model.encode_text(texts), statements, strict=True):
        p = 1 / (1 + np.exp(-curve.logits(query, image_embeds, size)))
        expected = library_answers.expected_count(image_embeds, statement, everyday)
        least, most = len(word.matching), len(word.matching) + len(word.unknown)
        found.append((expected, (p >= curve.cutoff).sum(), least, most))
    return tuple(np.array(found, float).T)


def fit(model: Encoder, data: Path) -> None:
    """Print the constants of zero_shot.py and of library_answers.py."""
    captions, pictures = read_pairs(data / "flickr8k-val")
    image_embeds = model.encode_image(pictures)
    items = [one for one in caption_questions(captions) if one.kind == "yes/no"]
    (slope, rival), zero = logistic(*stands_out(model, items, image_embeds))
    print(
        f"zero_shot.py: DEVIATION_SLOPE {slope:.2f}  RIVAL_SLOPE {-rival:.2f}  "
        f"INTERCEPT {zero:.2f}  ({len(items)} questions)"
    )
    slope, zero, off, words = fit_counts(model, captions, image_embeds)
    print(
        f"library_answers.py: DEVIATION_SLOPE {slope:.2f}  INTERCEPT {zero:.2f}  "
        f"COUNT_LOG_SD {off:.2f}  ({words} words)"
    )


def stands_out(
    model: Encoder, items: Sequence[Item], image_embeds: Floats
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What a yes/no probability is made of [n, 2], and which answers are yes [n].

    How far the statement stands out from everyday words, and how much further its best rival.
    """
    around = image_embeds @ model.encode_text(EVERYDAY_STATEMENTS).T
    rows = []
    for item in items:
        question = parse_question(item.question)
        embeds = model.encode_text([question.statement, *question.rivals])
        deviations = (embeds @ image_embeds[item.picture] - around[item.picture].mean()) / around[
            item.picture
        ].std()
        rows.append((deviations[0], (deviations - deviations[0]).max()))
    return np.array(rows), np.array([one.right == ("yes",) for one in items])


def reliability(model: Encoder, items: Sequence[Item], image_embeds: Floats) -> str:
    """How often yes/no answers of a probability are right, as a table for the page."""
    asked = [one for one in items if one.kind == "yes/no"]
    inputs, yes = stands_out(model, asked, image_embeds)
    half = np.array([one.picture % 2 for one in asked])
    p = np.zeros(len(asked))
    for tested in (0, 1):
        weights, zero = logistic(inputs[half != tested], yes[half != tested])
        p[half == tested] = 1 / (1 + np.exp(-(inputs[half == tested] @ weights + zero)))
    confidence, right = np.maximum(p, 1 - p), (p > 0.5) == yes
    error = measure_reliability(confidence, right, 10)
    lines = [
        "| probability of the answer | questions | mean probability | right |",
        "|---|---|---|---|",
    ]
    for low, high in itertools.pairwise((0.5, MIN_PROBABILITY_OF_TWO, 0.8, 0.9, 0.97, 1.001)):
        chosen = (confidence >= low) & (confidence < high)
        mean, good = f"{confidence[chosen].mean():.1%}", f"{right[chosen].mean():.1%}"
        row = f"| {low:.0%} to {min(high, 1):.0%} | {chosen.sum()} | {mean} | {good} |"
        lines.append(row.replace("%", " %"))
    table, interval = "\n".join(lines), " to ".join(f"{one:.3f}" for one in error.ci95)
    text = f"{table}\n\nExpected calibration error {error.ece:.3f} ({interval})."
    print(text)
    return text


def fit_counts(
    model: Encoder, captions: Sequence[Sequence[str]], image_embeds: Floats
) -> tuple[float, float, float, int]:
    """The constants of library_answers.py, and the number of words they were fitted on."""
    around = image_embeds @ model.encode_text(EVERYDAY_STATEMENTS).T
    words = [one for one in word_queries(captions) if len(one.matching) >= 3]
    absent = absent_queries(captions, background_texts())[: len(words)]
    texts = [f"a photo of {with_article(one.text)}." for one in [*words, *absent]]
    scores = image_embeds @ model.encode_text(texts).T
    deviations = (scores - around.mean(axis=1)[:, None]) / around.std(axis=1)[:, None]
    truth = np.zeros(scores.shape)
    for column, one in enumerate(words):
        truth[one.matching, column] = 1
        truth[one.unknown, column] = np.nan
    known = ~np.isnan(truth)
    (slope,), zero = logistic(deviations[known][:, None], truth[known] == 1)
    expected = (1 / (1 + np.exp(-(slope * deviations + zero)))).sum(axis=0)[: len(words)]
    middle = np.array([len(one.matching) + len(one.unknown) / 2 for one in words])
    return float(slope), zero, float(np.log(middle / expected).std()), len(words)


def logistic(
    inputs: NDArray[np.floating], truth: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], float]:
    from sklearn.linear_model import LogisticRegression

    curve = LogisticRegression(C=1e3).fit(inputs, truth)
    return curve.coef_[0], float(curve.intercept_[0])


def write_tables(rows: Sequence[Row], believed: str, counted: str) -> None:
    text = with_tables(PAGE.read_text(encoding="utf-8"), rows)
    text = put(put(text, "reliability", believed), "counts", counted)
    PAGE.write_text(text, encoding="utf-8")


def with_tables(text: str, rows: Sequence[Row]) -> str:
    """The page with the tables of these rows."""
    for mark, (of, methods) in TABLES.items():
        by = {
            method: {r[2]: r for r in rows if r[1] == of and r[3] == method} for method in methods
        }
        by = {method: some for method, some in by.items() if some}
        if by:
            text = put(text, mark, markdown(by))
    return text


def markdown(by: dict[str, dict[str, Row]]) -> str:
    """A line for each kind; of `ask`, or the only other method, how often it is sure."""
    sure = ASK if ASK in by else next(iter(by))
    shown = [method for method in by if method != ASK]
    titles = ["kind", "questions", *shown, "sure", "right when sure"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for kind, first in by[shown[0]].items():
        cells = [kind, str(first[4])]
        for method in shown:
            right, low, high = (100 * float(one) for one in by[method][kind][5:8])
            sign = "+" if method == GAIN else ""
            interval = f" ({low:{sign}.1f} to {high:{sign}.1f} %)"
            short = method in (PRIOR, CONSTANT)
            cells.append(f"{right:{sign}.1f} %" + ("" if short else interval))
        *_, often, right_when_sure = by[sure][kind]
        cells.append(f"{100 * float(often):.1f} %")
        cells.append(f"{100 * float(right_when_sure):.1f} %" if right_when_sure else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def put(text: str, mark: str, content: str) -> str:
    start = f"<!-- written by benchmarks/quality/asking.py: {mark} -->"
    end = f"<!-- until here: {mark} -->"
    before, rest = text.split(start)
    return f"{before}{start}\n\n{content}\n\n{end}{rest.split(end)[1]}"


if __name__ == "__main__":
    main()
