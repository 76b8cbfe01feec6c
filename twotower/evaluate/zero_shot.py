"""Zero-shot classification: choose the class whose text embed is most similar to a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array, Float64Array, Int64Array
from twotower.evaluate.accuracy import (
    average_precisions,
    class_ranks,
    precision_orders,
    top_probability,
)
from twotower.evaluate.embedding import embed_pictures, make_classifier
from twotower.evaluate.intervals import RESAMPLES, bootstrap, bootstrap_shares, widen_point
from twotower.evaluate.models import Model
from twotower.evaluate.published import published_figures
from twotower.evaluate.registry import set_title
from twotower.evaluate.reliability import measure_reliability
from twotower.evaluate.results import Result, configuration, encode_ranks
from twotower.evaluate.sets import LabelledSet
from twotower.progress import ReportProgress, ignore_progress

BLOCK = 4096  # pictures whose scores are in memory at a time
MISTAKES = 24  # reported wrong answers


def evaluate_zero_shot(
    model: Model,
    labelled: LabelledSet,
    templates: tuple[str, ...] | None = None,
    report: ReportProgress = ignore_progress,
) -> Result:
    """Classify a set by the names of its classes.

    Args:
        templates: sentences with one `{}`; by default those published for the set, or the model's.

    Returns:
        The result as it is printed as JSON (docs/evaluation.md): shares of 1, with intervals under
        `ci95`.

    Raises:
        EvaluationError: no picture can be read.
    """
    templates = choose_templates(model, labelled, templates)
    classifier = make_classifier(model, labelled.classes, templates, report)
    embedded = embed_pictures(model, labelled, labelled.name, len(labelled.keys), report)
    readable = labelled.take(embedded.numbers)
    answers = classify_by_text(model, classifier, embedded.image_embeds, readable)
    result = {
        "task": "zero-shot",
        "set": describe_set(readable),
        **measure_answers(answers, readable),
    }
    return result | {
        "published": published_figures(model.describe(), readable.public_set, result),
        "unreadable": embedded.unreadable(labelled.keys),
        "mistakes": confident_mistakes(answers, readable),
        "outcomes": {"ranks": encode_ranks(answers.ranks)},
        "configuration": configuration(model, templates=list(templates)),
    }


def choose_templates(
    model: Model, labelled: LabelledSet, templates: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Return the given templates, or those published for the set, or the model's."""
    published = labelled.public_set.templates if labelled.public_set else ()
    return templates or published or model.templates


def describe_set(labelled: LabelledSet) -> Result:
    """Return the name and size of the measured set, and whether it is a subset."""
    n, public_set = len(labelled.keys), labelled.public_set
    return {
        "name": labelled.name,
        "known_as": public_set.key if public_set else None,
        "title": set_title(labelled.name, public_set),
        "pictures": n,
        "of": labelled.full_size,
        "subset": n < labelled.full_size,
        "classes": len(labelled.classes),
        "fingerprint": labelled.fingerprint(),
    }


# --- answers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """The answers of a classifier about n pictures.

    Attributes:
        ranks: [n], as `class_ranks` returns them.
        predicted: [n], the class with the highest score.
        confidence: [n], its probability.
        scores: [n, classes], kept only for sets whose pictures may have several classes.
    """

    ranks: Int64Array
    predicted: Int64Array
    confidence: Float64Array
    scores: Float32Array | None


def classify_by_text(
    model: Model, classifier: Float32Array, image_embeds: Float32Array, labelled: LabelledSet
) -> Answers:
    """Classify the pictures of a set by similarity to a classifier [classes, embed_dim]."""
    return classify(
        lambda embeds: embeds @ classifier.T,
        image_embeds,
        labelled.labels,
        model.logit_scale,
        model.logit_bias,
        labelled.namesakes,
    )


def classify(
    score: Callable[[Float32Array], Float32Array],
    image_embeds: Float32Array,
    labels: NDArray[Any],
    logit_scale: float = 1.0,
    logit_bias: float | None = None,
    namesakes: Int64Array | None = None,
) -> Answers:
    """Classify pictures in blocks, so that memory never holds the scores of all of them.

    Args:
        score: image_embeds [n, embed_dim] -> [n, classes], the logits before scale and bias.
        labels: [n], or bool [n, classes].
        namesakes: as in `class_ranks`.
    """
    ranks, predicted, confidence, scores = [], [], [], []
    for start in range(0, len(image_embeds), BLOCK):
        rows = slice(start, start + BLOCK)
        block = score(image_embeds[rows])
        ranks.append(class_ranks(block, labels[rows], namesakes))
        predicted.append(block.argmax(axis=1))
        confidence.append(top_probability(block, logit_scale, logit_bias))
        if labels.ndim == 2:
            scores.append(block)
    return Answers(
        np.concatenate(ranks),
        np.concatenate(predicted),
        np.concatenate(confidence),
        np.concatenate(scores) if scores else None,
    )


# --- measures ------------------------------------------------------------------------------------


def measure_answers(answers: Answers, labelled: LabelledSet) -> Result:
    """Return top1, top5, mean_per_class or map, ece, their intervals, and the figures by class."""
    n = len(answers.ranks)
    hits = np.stack([answers.ranks < 1, answers.ranks < 5], axis=1).astype(np.float64)
    ci95 = dict(zip(("top1", "top5"), bootstrap_shares(hits, np.ones(n)).tolist(), strict=True))
    result: Result = {"top1": hits[:, 0].mean(), "top5": hits[:, 1].mean()}
    if labelled.multi_label:
        assert answers.scores is not None  # kept for these sets
        per_class, ci95["map"] = _average_precision_rows(answers.scores, labelled)
        result |= {"mean_per_class": None}
        result["map"] = _defined_mean(np.array([row["average_precision"] for row in per_class]))
        confusion = []
    else:
        per_class, ci95["mean_per_class"] = _accuracy_rows(answers, labelled)
        result["mean_per_class"] = _defined_mean(np.array([row["accuracy"] for row in per_class]))
        confusion = count_confusions(answers, labelled)
    reliability = measure_reliability(answers.confidence, answers.ranks < 1)
    ci95["ece"] = reliability.ci95
    return {
        **result,
        "n": n,
        "ci95": ci95,
        "ece": reliability.ece,
        "reliability": reliability.bins,
        "per_class": per_class,
        "confusion": confusion,
    }


def _accuracy_rows(answers: Answers, labelled: LabelledSet) -> tuple[list[Result], list[float]]:
    """Return a row for each class with pictures, and the interval of their mean accuracy."""
    classes, correct = len(labelled.classes), (answers.ranks < 1).astype(np.float64)

    def accuracies(weights: Float64Array) -> Float64Array:
        counts = np.bincount(labelled.labels, weights, classes)
        hits = np.bincount(labelled.labels, weights * correct, classes)
        shares = np.divide(hits, counts, out=np.full(classes, np.nan), where=counts > 0)
        return np.append(shares, _defined_mean(shares))

    *shares, mean = accuracies(np.ones(len(correct)))
    intervals = bootstrap(accuracies, len(correct))
    counts = np.bincount(labelled.labels, minlength=classes)
    rows = []
    for number, share in enumerate(shares):
        if not counts[number]:
            continue
        interval = widen_point(share, intervals[number], int(counts[number]))
        row = {"class": labelled.classnames[number], "n": int(counts[number]), "accuracy": share}
        rows.append(row | {"ci95": interval})
    return rows, widen_point(mean, intervals[-1], len(correct))


def _average_precision_rows(
    scores: Float32Array, labelled: LabelledSet
) -> tuple[list[Result], list[float]]:
    """Return a row for each class with pictures, and the interval of the mean average precision."""
    orders = precision_orders(scores, labelled.labels)

    def precisions(weights: Float64Array) -> Float64Array:
        values = average_precisions(labelled.labels, orders, weights)
        return np.append(values, _defined_mean(values))

    n = len(labelled.labels)
    *values, mean = precisions(np.ones(n))
    resamples = max(100, min(RESAMPLES, 10**9 // scores.size))  # 1000 take hours on large sets
    intervals = bootstrap(precisions, n, resamples)
    counts = labelled.labels.sum(axis=0).tolist()
    rows = [
        {
            "class": name,
            "n": counts[i],
            "average_precision": values[i],
            "ci95": widen_point(values[i], intervals[i], counts[i]),
        }
        for i, name in enumerate(labelled.classnames)
        if counts[i]
    ]
    return rows, widen_point(mean, intervals[-1], n)


def _defined_mean(values: Float64Array) -> float:
    """Return the mean of the values that are not NaN."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def count_confusions(answers: Answers, labelled: LabelledSet) -> list[list[Any]]:
    """Return [correct class, predicted class, count] of wrong answers, most frequent first."""
    wrong = answers.ranks > 0
    cells = labelled.labels[wrong] * len(labelled.classes) + answers.predicted[wrong]
    pairs, counts = np.unique(cells, return_counts=True)
    names, size = labelled.classnames, len(labelled.classes)
    return [
        [names[pairs[i] // size], names[pairs[i] % size], int(counts[i])]
        for i in np.argsort(-counts, kind="stable")
    ]


def confident_mistakes(answers: Answers, labelled: LabelledSet) -> list[Result]:
    """Return the wrong answers with the highest confidence."""
    wrong = np.flatnonzero(answers.ranks > 0)
    order = np.argsort(-answers.confidence[wrong], kind="stable")
    names = labelled.classnames
    return [
        {
            "picture": labelled.keys[i],
            "right": [names[c] for c in _class_numbers(labelled.labels[i])],
            "given": names[answers.predicted[i]],
            "confidence": float(answers.confidence[i]),
        }
        for i in wrong[order][:MISTAKES]
    ]


def _class_numbers(label: Any) -> NDArray[Any]:
    return np.flatnonzero(label) if np.ndim(label) else np.atleast_1d(label)
