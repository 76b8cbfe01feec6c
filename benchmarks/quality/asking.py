"""Measure the accuracy of answers by kind of question, with intervals.

    python benchmarks/quality/asking.py ../shared/data [--easy-vqa FOLDER --head DIR] [--model M]
    python benchmarks/quality/asking.py ../shared/data --fit [--model M]

Compares zero-shot answers and those of `twotower ask`, which uses the head of the model for some
kinds, with two baselines: the best constant answer of each kind, and the most frequent answer to
the question in flickr8k-train. The questions are derived
from the captions of flickr8k-val (`caption_questions.py`), or written by hand about the example
photographs (`examples/questions.csv`). A head of your own is tested on easy-VQA (the folder
`easy_vqa/data` of the package on PyPI); without --head, its rows stay as they are. The number of
pictures of a library that show something, expected and counted, is compared with captions. Writes
results/asking.csv and the marked tables of that file in the docs.

--fit prints the constants of the code, fitted on flickr8k-val: the text tower learned from the
captions of flickr8k-train. The reliability of their probabilities, and the counts, are measured on
each half of the pictures with the constants of the other half; these two tables are in the docs
alone.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import twotower
from benchmarks.quality.caption_questions import LabelledQuestion, caption_questions
from benchmarks.table import ROOT, fill_tables, read_results, to_markdown, write_results
from twotower.arrays import BoolArray, Float32Array, Float64Array
from twotower.asking import library_answers
from twotower.asking.answer import Reply
from twotower.asking.head import Head, head_of
from twotower.asking.questions import parse_question
from twotower.asking.zero_shot import (
    EVERYDAY_STATEMENTS,
    HEAD_SHARES,
    MIN_PROBABILITY_OF_TWO,
    Answerer,
    StatementCurve,
)
from twotower.calibration.calibration import text_curves
from twotower.calibration.captions import word_queries
from twotower.calibration.curves import embed_queries
from twotower.encode.encoder import Encoder
from twotower.evaluate.intervals import bootstrap_shares
from twotower.evaluate.reliability import measure_reliability
from twotower.inputs.pictures import Picture
from twotower.pairs.sources import open_source

COLUMNS = ("model", "set", "kind", "method", "n", "right", "low", "high", "sure", "right_when_sure")
DERIVED, BY_HAND, EASY = "flickr8k-val, derived", "examples/photos", "easy-VQA test"
ZERO, ASK, HEAD = "zero-shot", "ask", "head"  # methods
GAIN, PRIOR, CONSTANT = "ask less zero-shot", "without the picture", "best constant"
TABLES = {
    "results/asking.csv, derived": (DERIVED, (ZERO, ASK, GAIN, PRIOR, CONSTANT)),
    "results/asking.csv, by-hand": (BY_HAND, (ZERO, ASK, CONSTANT)),
    "results/asking.csv, easy-vqa": (EASY, (HEAD, PRIOR)),
}
MANY_QUESTIONS = {"yes/no", "choice", "colour", "animal", "place"}  # kinds with their own rows

Row = tuple[Any, ...]


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
        print_constants(model, arguments.data)
        return
    head = head_of(model.directory)
    captions, pictures = read_pairs(arguments.data / "flickr8k-val")
    questions = caption_questions(captions)
    encoded = encode_pictures(model, pictures, questions, head)
    rows = compare_methods(model, DERIVED, questions, encoded, head)
    train_captions, _ = read_pairs(arguments.data / "flickr8k-train")
    prior = answer_by_prior(caption_questions(train_captions, most=1000), questions)
    rows += make_rows(model.config.name, DERIVED, PRIOR, prior)
    by_hand, photos = read_questions_by_hand()
    encoded_photos = encode_pictures(model, photos, by_hand, head)
    rows += compare_methods(model, BY_HAND, by_hand, encoded_photos, head)
    if arguments.head:
        rows += test_head(arguments.head, arguments.easy_vqa, model)
    else:
        rows += stored_rows(EASY)
    write_results("asking.csv", COLUMNS, rows)
    fill_tables(
        markdown_tables(rows)
        | {
            "results/asking.csv, reliability": reliability(model, questions, encoded.image_embeds),
            "results/asking.csv, counts": counts(model, captions, encoded.image_embeds),
        }
    )


def stored_rows(set_name: str) -> list[Row]:
    """Return the rows of a set as they were measured before."""
    return [tuple(row.values()) for row in read_results("asking.csv") if row["set"] == set_name]


def read_pairs(location: Path) -> tuple[list[Sequence[str]], list[bytes]]:
    """Return captions and pictures of pairs."""
    tars = location / "*.tar"
    source = open_source(str(tars) if list(location.glob("*.tar")) else location)
    pairs = [source[number] for number in range(len(source))]
    return [pair.captions for pair in pairs], [pair.picture for pair in pairs]


def read_questions_by_hand() -> tuple[list[LabelledQuestion], list[Path]]:
    """Return questions about the example photographs, and the photographs."""
    with (ROOT / "examples" / "questions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    files = sorted({row["file"] for row in rows})
    questions = [
        LabelledQuestion(
            files.index(row["file"]),
            row["kind"] if row["kind"] in MANY_QUESTIONS else "other types",
            row["question"],
            tuple(row["answers"].split("|")),
        )
        for row in rows
    ]
    return questions, [ROOT / "examples" / "photos" / name for name in files]


@dataclass(frozen=True)
class EncodedPictures:
    """image_embeds [n, embed_dim], and cells by the number of the picture, for a head."""

    image_embeds: Float32Array
    cells: dict[int, Float32Array]


def encode_pictures(
    model: Encoder,
    pictures: Sequence[Picture],
    questions: Sequence[LabelledQuestion],
    head: Head | None,
) -> EncodedPictures:
    numbers = {
        labelled.picture
        for labelled in questions
        if head and parse_question(labelled.question).kind in HEAD_SHARES
    }
    cells = {
        number: head.towers.patches(model.preprocess(pictures[number])[None])[0]
        for number in sorted(numbers)
        if head
    }
    return EncodedPictures(model.encode_image(pictures), cells)


# --- answers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """The outcome of one question.

    Attributes:
        picture: number of the picture.
        right: 1 if the answer was right, else 0; or a difference of two of these.
        sure: True if the answer was sure.
    """

    picture: int
    kind: str
    right: float
    sure: bool


def compare_methods(
    model: Encoder,
    set_name: str,
    questions: Sequence[LabelledQuestion],
    encoded: EncodedPictures,
    head: Head | None,
) -> list[Row]:
    """Return the rows of a set: zero-shot, `twotower ask`, their difference, and the constant."""
    zero_shot = answer_questions(model, questions, encoded, None)
    by_ask = answer_questions(model, questions, encoded, head) if head else zero_shot
    gain = [
        replace(untrained, right=answered.right - untrained.right)
        for untrained, answered in zip(zero_shot, by_ask, strict=True)
        if head and untrained.kind in HEAD_SHARES
    ]
    constant = answer_by_constant(questions)
    methods = ((ZERO, zero_shot), (ASK, by_ask), (GAIN, gain), (CONSTANT, constant))
    return [
        row
        for method, outcomes in methods
        if outcomes
        for row in make_rows(model.config.name, set_name, method, outcomes)
    ]


def answer_questions(
    model: Encoder,
    questions: Sequence[LabelledQuestion],
    encoded: EncodedPictures,
    head: Head | None,
) -> list[Outcome]:
    """Answer as `twotower ask` does with this head, or without one."""
    everyday = model.encode_text(EVERYDAY_STATEMENTS)
    answerers: dict[str, Answerer] = {}
    outcomes = []
    for labelled in questions:
        text, picture = labelled.question, labelled.picture
        if text not in answerers:
            answerers[text] = Answerer(parse_question(text), model, head)
        cells = encoded.cells.get(picture)
        embeds = encoded.image_embeds[picture]
        replies, sure = answerers[text].replies(embeds, everyday, cells)
        right = float(replies[0].answer in labelled.right)
        outcomes.append(Outcome(picture, labelled.kind, right, sure))
    return outcomes


def answer_by_prior(
    training: Sequence[LabelledQuestion], questions: Sequence[LabelledQuestion]
) -> list[Outcome]:
    """Answer each question by its most frequent answer in the training questions."""
    from twotower.train.vqa.data import Sample
    from twotower.train.vqa.prior import Prior

    prior = Prior(
        [
            Sample(Path(), labelled.question, tuple((answer, 1) for answer in labelled.right))
            for labelled in training
        ]
    )
    return [
        Outcome(
            labelled.picture, labelled.kind, float(prior(labelled.question) in labelled.right), True
        )
        for labelled in questions
    ]


def answer_by_constant(questions: Sequence[LabelledQuestion]) -> list[Outcome]:
    """Answer with the constant that is right most often for the kind; a choice, by its option 1."""
    best: dict[str, str] = {}
    for kind in {labelled.kind for labelled in questions}:
        frequencies = Counter(
            answer for labelled in questions if labelled.kind == kind for answer in labelled.right
        )
        best[kind] = frequencies.most_common(1)[0][0]
    outcomes = []
    for labelled in questions:
        answer = best[labelled.kind]
        if labelled.kind == "choice":
            answer = next(iter(parse_question(labelled.question).answers))
        outcomes.append(
            Outcome(labelled.picture, labelled.kind, float(answer in labelled.right), True)
        )
    return outcomes


def test_head(directory: Path, easy_vqa: Path, model: Encoder) -> list[Row]:
    """Return the rows of a head on the test questions of easy-VQA."""
    from twotower.train.vqa.data import read_samples
    from twotower.train.vqa.prior import Prior

    head = Head(directory, model.directory)
    prior = Prior(read_samples(easy_vqa / "train"))
    samples_of = defaultdict(list)
    for sample in read_samples(easy_vqa / "test"):
        samples_of[sample.picture].append(sample)
    by_head, by_prior = [], []
    for number, (picture, samples) in enumerate(sorted(samples_of.items())):
        replies: list[list[Reply]] = head.replies(picture, [sample.question for sample in samples])
        for sample, answers in zip(samples, replies, strict=True):
            kind = "yes/no" if sample.answer in ("yes", "no") else "what"
            sure = (answers[0].probability or 0) >= 0.5
            by_head.append(Outcome(number, kind, sample.score(answers[0].answer), sure))
            by_prior.append(Outcome(number, kind, sample.score(prior(sample.question)), True))
    name = model.config.name
    return [*make_rows(name, EASY, HEAD, by_head), *make_rows(name, EASY, PRIOR, by_prior)]


def make_rows(model: str, set_name: str, method: str, outcomes: Sequence[Outcome]) -> list[Row]:
    """Return a row for each kind and one for all; the intervals resample pictures."""
    rows: list[Row] = []
    kinds = ["all", *dict.fromkeys(outcome.kind for outcome in outcomes)]
    for kind in kinds:
        chosen = [outcome for outcome in outcomes if kind in ("all", outcome.kind)]
        pictures = sorted({outcome.picture for outcome in chosen})
        index = {picture: i for i, picture in enumerate(pictures)}
        right, total = np.zeros((len(pictures), 1)), np.zeros(len(pictures))
        for outcome in chosen:
            right[index[outcome.picture], 0] += outcome.right
            total[index[outcome.picture]] += 1
        low, high = bootstrap_shares(right, total)[0]
        sure = [outcome.right for outcome in chosen if outcome.sure]
        numbers = (right.sum() / total.sum(), low, high, len(sure) / len(chosen))
        when_sure = f"{np.mean(sure):.3f}" if sure else ""
        figures = (f"{number:.3f}" for number in numbers)
        rows.append((model, set_name, kind, method, len(chosen), *figures, when_sure))
    return rows


# --- counts --------------------------------------------------------------------------------------


def counts(model: Encoder, captions: Sequence[Sequence[str]], image_embeds: Float32Array) -> str:
    """Return a sentence on the quality of expected counts.

    It is measured on each half of the pictures, with the interval of the other half.
    """
    halves = [estimate_counts(model, captions[half::2], image_embeds[half::2]) for half in (0, 1)]
    columns = []
    for half, (expected, above_cutoff, least, most) in enumerate(halves):
        library_answers.COUNT_LOG_SD = count_log_sd(halves[1 - half])
        total = len(image_embeds[half::2])
        bounds = [library_answers.count_interval(count, total) for count in expected]
        columns.append(np.stack([expected, above_cutoff, least, most, *np.array(bounds).T]))
    expected, above_cutoff, least, most, low, high = np.concatenate(columns, axis=1)
    inside = (high >= least) & (low <= most)
    middle = (least + most) / 2
    expected_error = np.abs(np.log2(np.maximum(expected, 0.5) / middle))
    cutoff_error = np.abs(np.log2(np.maximum(above_cutoff, 0.5) / middle))
    return (
        f"For {len(expected)} words of the captions of half of flickr8k-val, the 90 % interval "
        f"contains the true count for {inside.mean():.0%} of them. The expected count is off by a "
        f"factor of {2 ** np.median(expected_error):.1f} at the median, the count above the "
        f"cut-off by one of {2 ** np.median(cutoff_error):.1f}."
    )


def estimate_counts(
    model: Encoder, captions: Sequence[Sequence[str]], image_embeds: Float32Array
) -> Float64Array:
    """Estimate the number of pictures of words that captions decide [4, words].

    Returns:
        Expected count, count above the cut-off, least and greatest true count. Pictures that a
        single caption names may or may not count.
    """
    curves = text_curves(model)
    words = [query for query in word_queries(captions) if len(query.matching) >= 3]
    rows = []
    embeds = embed_queries(model, [word.text for word in words])
    for word, embed in zip(words, embeds, strict=True):
        text = curves.prepare([word.text], embed)
        p = 1 / (1 + np.exp(-curves.logits([text], image_embeds)))
        expected = library_answers.expected_count(curves, text, image_embeds)
        least, most = len(word.matching), len(word.matching) + len(word.unknown)
        rows.append((expected, (p >= curves.of(word.text).cutoff).sum(), least, most))
    return np.array(rows, float).T


def count_log_sd(estimates: Float64Array) -> float:
    """Return the constant of library_answers.py: the deviation of the logarithm of true counts."""
    expected, _, least, most = estimates
    return float(np.sqrt((np.log((least + most) / 2 / expected) ** 2).mean()))


# --- constants and reliability -------------------------------------------------------------------


def print_constants(model: Encoder, data: Path) -> None:
    """Print the constants of zero_shot.py and of library_answers.py."""
    captions, pictures = read_pairs(data / "flickr8k-val")
    image_embeds = model.encode_image(pictures)
    questions = caption_questions(captions)
    for kind, name in (("yes/no", "THING_CURVE"), ("statement", "STATEMENT_CURVE")):
        chosen = [labelled for labelled in questions if labelled.kind == kind]
        curve = fit_statement_curve(*statement_features(model, chosen, image_embeds))
        numbers = (curve.slope, curve.rival_slope, curve.intercept)
        print(
            f"{name} {' '.join(f'{number:.2f}' for number in numbers)}  ({len(chosen)} questions)"
        )
    estimates = estimate_counts(model, captions, image_embeds)
    print(f"COUNT_LOG_SD {count_log_sd(estimates):.2f}  ({estimates.shape[1]} words)")


def statement_features(
    model: Encoder, questions: Sequence[LabelledQuestion], image_embeds: Float32Array
) -> tuple[Float64Array, BoolArray]:
    """Return the inputs of the curve for yes/no questions [n, 2], and which answers are yes [n].

    The inputs are the deviation of the statement from everyday statements, and the difference to
    its best rival.
    """
    everyday = image_embeds @ model.encode_text(EVERYDAY_STATEMENTS).T
    embeds: dict[str, Float32Array] = {}
    rows = []
    for labelled in questions:
        if labelled.question not in embeds:
            question = parse_question(labelled.question)
            embeds[labelled.question] = model.encode_text([question.statement, *question.rivals])
        cosines = embeds[labelled.question] @ image_embeds[labelled.picture]
        baseline = everyday[labelled.picture]
        deviations = (cosines - baseline.mean()) / baseline.std()
        rows.append((deviations[0], (deviations - deviations[0]).max()))
    return np.array(rows), np.array([labelled.right == ("yes",) for labelled in questions])


def fit_statement_curve(inputs: Float64Array, yes: BoolArray) -> StatementCurve:
    """Fit a curve; its rival slope is 0 for questions without rivals."""
    (slope, rival_slope), intercept = fit_curve(inputs, yes)
    return StatementCurve(float(slope), -float(rival_slope), intercept)


def reliability(
    model: Encoder, questions: Sequence[LabelledQuestion], image_embeds: Float32Array
) -> str:
    """Return a table of the accuracy of yes/no answers by their probability."""
    confidence, right = judge_halves(model, questions, image_embeds, "yes/no")
    rows = []
    for low, high in itertools.pairwise((0.5, MIN_PROBABILITY_OF_TWO, 0.8, 0.9, 0.97, 1.001)):
        inside = (confidence >= low) & (confidence < high)
        shares = (f"{confidence[inside].mean():.1%}", f"{right[inside].mean():.1%}")
        row = (f"{low:.0%} to {min(high, 1):.0%}", str(inside.sum()), *shares)
        rows.append([cell.replace("%", " %") for cell in row])
    table = to_markdown(
        ("probability of the answer", "questions", "mean probability", "right"), rows
    )
    statements = judge_halves(model, questions, image_embeds, "statement")
    searched = judge_halves(model, questions, image_embeds, "yes/no", searched_features)
    return (
        f"{table}\n\nExpected calibration error {_calibration_error(confidence, right)}; of "
        f"statements about colours and activities, {_calibration_error(*statements)}.\n\n"
        f"By a curve over the log-odds of a search instead of deviations, {searched[1].mean():.1%} "
        f"are right, not {right.mean():.1%}; its error is {_calibration_error(*searched)}."
    )


def searched_features(
    model: Encoder, questions: Sequence[LabelledQuestion], image_embeds: Float32Array
) -> tuple[Float64Array, BoolArray]:
    """Return what `statement_features` does, with the log-odds of a search for the thing in place
    of its deviation.
    """
    curves, judged = text_curves(model), {}
    inputs, yes = statement_features(model, questions, image_embeds)
    for row, labelled in enumerate(questions):
        if labelled.question not in judged:
            statement = parse_question(labelled.question).statement
            thing = statement.removeprefix("a photo of ").rstrip(".")
            judged[labelled.question] = curves.prepare([thing], embed_queries(model, [thing])[0])
        embeds = image_embeds[labelled.picture][None]
        inputs[row, 0] = curves.logits([judged[labelled.question]], embeds)[0, 0]
    return inputs, yes


Features = Callable[
    [Encoder, Sequence[LabelledQuestion], Float32Array], tuple[Float64Array, BoolArray]
]


def judge_halves(
    model: Encoder,
    questions: Sequence[LabelledQuestion],
    image_embeds: Float32Array,
    kind: str,
    features: Features = statement_features,
) -> tuple[Float64Array, BoolArray]:
    """Answer each half of the questions of a kind by a curve that is fitted on the other.

    Returns:
        The probability of each answer, and whether it is right.
    """
    chosen = [labelled for labelled in questions if labelled.kind == kind]
    inputs, yes = features(model, chosen, image_embeds)
    half = np.array([labelled.picture % 2 for labelled in chosen])
    p = np.zeros(len(chosen))
    for tested in (0, 1):
        weights, intercept = fit_curve(inputs[half != tested], yes[half != tested])
        p[half == tested] = 1 / (1 + np.exp(-(inputs[half == tested] @ weights + intercept)))
    return np.maximum(p, 1 - p), (p > 0.5) == yes


def _calibration_error(confidence: Float64Array, right: BoolArray) -> str:
    error = measure_reliability(confidence, right, 10)
    low, high = error.ci95
    return f"{error.ece:.3f} ({low:.3f} to {high:.3f})"


def fit_curve(inputs: NDArray[np.floating], truth: BoolArray) -> tuple[Float64Array, float]:
    """Return the slopes and the intercept of a logistic curve."""
    from sklearn.linear_model import LogisticRegression

    curve = LogisticRegression(C=1e3).fit(inputs, truth)
    return curve.coef_[0], float(curve.intercept_[0])


# --- tables --------------------------------------------------------------------------------------


def markdown_tables(rows: Sequence[Row]) -> dict[str, str]:
    """Return the tables of the docs, by the name in their mark, that these rows belong to."""
    tables = {}
    for mark, (set_name, methods) in TABLES.items():
        by_method = {
            method: {row[2]: row for row in rows if row[1] == set_name and row[3] == method}
            for method in methods
        }
        by_method = {method: by_kind for method, by_kind in by_method.items() if by_kind}
        if by_method:
            tables[mark] = markdown_table(by_method)
    return tables


def markdown_table(by_method: dict[str, dict[str, Row]]) -> str:
    """Return a table with a row for each kind.

    Its columns on sure answers are those of `ask`, or of the only method that is not a baseline.

    Args:
        by_method: rows by method and kind.
    """
    sure_method = ASK if ASK in by_method else next(iter(by_method))
    methods = list(by_method)
    lines = []
    for kind, row in by_method[methods[0]].items():
        cells = [kind, str(row[4])]
        for method in methods:
            if kind not in by_method[method] or (method, kind) == (GAIN, "all"):
                cells.append("")
                continue
            right, low, high = (100 * float(value) for value in by_method[method][kind][5:8])
            sign = "+" if method == GAIN else ""
            interval = f" ({low:{sign}.1f} to {high:{sign}.1f} %)"
            cells.append(f"{right:{sign}.1f} %" + ("" if method in (PRIOR, CONSTANT) else interval))
        *_, sure, right_when_sure = by_method[sure_method][kind]
        cells.append(f"{100 * float(sure):.1f} %")
        cells.append(f"{100 * float(right_when_sure):.1f} %" if right_when_sure else "")
        lines.append(cells)
    return to_markdown(("kind", "questions", *methods, "sure", "right when sure"), lines)


if __name__ == "__main__":
    main()
