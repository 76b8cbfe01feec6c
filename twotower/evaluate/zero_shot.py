"""Zero-shot classification: how often the words for the right class lie nearest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.evaluate.accuracy import (
    average_precisions,
    class_ranks,
    precision_orders,
    top_probability,
)
from twotower.evaluate.embedding import (
    Result,
    Watch,
    configuration,
    embed_pictures,
    encode_ranks,
    make_classifier,
    unwatched,
)
from twotower.evaluate.intervals import RESAMPLES, bootstrap, bootstrap_shares, wilson
from twotower.evaluate.models import Model
from twotower.evaluate.published import published
from twotower.evaluate.registry import set_title
from twotower.evaluate.reliability import calibration
from twotower.evaluate.sets import LabelledSet

BLOCK = 4096  # pictures whose scores are in memory together
MISTAKES = 24  # of the surest wrong answers, that are named


@dataclass(frozen=True)
class Answers:
    """What a classifier said of n pictures.

    Attributes:
        ranks: [n] (`class_ranks`). predicted: [n], the nearest class. confidence: [n], its
            probability. scores: [n, classes], kept only for sets with several labels.
    """

    ranks: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    scores: NDArray[np.float32] | None


def answer(
    score: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    image_embeds: NDArray[np.float32],
    labels: NDArray[Any],
    logit_scale: float = 1.0,
    logit_bias: float | None = None,
    namesakes: NDArray[np.int64] | None = None,
) -> Answers:
    """A classifier's answers, block by block, so that memory does not hold every score.

    Args:
        score: image_embeds [n, embed_dim] -> [n, classes], logits but for the scale and bias.
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


def evaluate_zero_shot(
    model: Model,
    labelled: LabelledSet,
    templates: tuple[str, ...] | None = None,
    watch: Watch = unwatched,
) -> Result:
    """Classify a set by the names of its classes.

    Args:
        templates: sentences with one `{}`; by default those published for the set, else the
            model's own.

    Returns:
        The result as JSON has it (docs/evaluation.md); shares of 1, intervals under `ci95`.
    """
    templates = choose_templates(model, labelled, templates)
    classifier = make_classifier(model, labelled.classes, templates, watch)
    embedded = embed_pictures(model, labelled, len(labelled.keys), watch)
    seen = labelled.take(embedded.numbers)
    answers = answer(
        lambda image_embeds: image_embeds @ classifier.T,
        embedded.image_embeds,
        seen.labels,
        model.logit_scale,
        model.logit_bias,
        seen.namesakes,
    )
    result = {"task": "zero-shot", "set": describe_set(seen), **measure(answers, seen)}
    return result | {
        "published": published(model.describe(), seen.known, result),
        "unreadable": embedded.unreadable(labelled.keys),
        "mistakes": mistakes(answers, seen),
        "outcomes": {"ranks": encode_ranks(answers.ranks)},
        "configuration": configuration(model, templates=list(templates)),
    }


def choose_templates(
    model: Model, labelled: LabelledSet, given: tuple[str, ...] | None
) -> tuple[str, ...]:
    """What was asked for, else what is published for the set, else the model's own."""
    return given or (labelled.known.templates if labelled.known else ()) or model.templates


def measure(answers: Answers, seen: LabelledSet) -> Result:
    """top1, top5, mean_per_class, their intervals, and what lies behind them."""
    n = len(answers.ranks)
    hits = np.stack([answers.ranks < 1, answers.ranks < 5], axis=1).astype(np.float64)
    ci95 = dict(zip(("top1", "top5"), bootstrap_shares(hits, np.ones(n)).tolist(), strict=True))
    result: Result = {"top1": hits[:, 0].mean(), "top5": hits[:, 1].mean()}
    if seen.multi_label:
        assert answers.scores is not None  # kept for these sets
        per_class, ci95["map"] = _precisions(answers.scores, seen)
        result |= {"mean_per_class": None}
        result["map"] = _mean(np.array([one["average_precision"] for one in per_class]))
        confusion = []
    else:
        per_class, ci95["mean_per_class"] = _per_class(answers, seen)
        result["mean_per_class"] = _mean(np.array([one["accuracy"] for one in per_class]))
        confusion = confusions(answers, seen)
    calibrated = calibration(answers.confidence, answers.ranks < 1)
    ci95["ece"] = calibrated.ci95
    return {
        **result,
        "n": n,
        "ci95": ci95,
        "ece": calibrated.ece,
        "reliability": calibrated.bins,
        "per_class": per_class,
        "confusion": confusion,
    }


def _per_class(answers: Answers, seen: LabelledSet) -> tuple[list[Result], list[float]]:
    """Accuracy of each class that occurs, with its interval; and the interval of their mean."""
    classes, right = len(seen.classes), (answers.ranks < 1).astype(np.float64)

    def accuracies(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        counts = np.bincount(seen.labels, weights, classes)
        hits = np.bincount(seen.labels, weights * right, classes)
        shares = np.divide(hits, counts, out=np.full(classes, np.nan), where=counts > 0)
        return np.append(shares, _mean(shares))

    *shares, _ = accuracies(np.ones(len(right)))
    intervals = bootstrap(accuracies, len(right))
    counts = np.bincount(seen.labels, minlength=classes)
    rows = []
    for number, share in enumerate(shares):
        if not counts[number]:
            continue
        interval = intervals[number].tolist()
        if share in (0.0, 1.0):
            interval = list(wilson(share, int(counts[number])))  # as in `bootstrap_shares`
        row = {"class": seen.classnames[number], "n": int(counts[number]), "accuracy": share}
        rows.append(row | {"ci95": interval})
    return rows, intervals[-1].tolist()


def _precisions(scores: NDArray[np.float32], seen: LabelledSet) -> tuple[list[Result], list[float]]:
    """Average precision of each class that occurs, and the interval of their mean."""
    orders = precision_orders(scores, seen.labels)

    def precisions(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        each = average_precisions(seen.labels, orders, weights)
        return np.append(each, _mean(each))

    n = len(seen.labels)
    *each, _ = precisions(np.ones(n))
    resamples = max(100, min(RESAMPLES, 10**9 // scores.size))  # else hours on the largest sets
    intervals = bootstrap(precisions, n, resamples).tolist()
    counts = seen.labels.sum(axis=0).tolist()
    rows = [
        {"class": name, "n": counts[i], "average_precision": each[i], "ci95": intervals[i]}
        for i, name in enumerate(seen.classnames)
        if counts[i]
    ]
    return rows, intervals[-1]


def confusions(answers: Answers, seen: LabelledSet) -> list[list[Any]]:
    """[right class, class given instead, how often], most frequent first."""
    wrong = answers.ranks > 0
    cells = seen.labels[wrong] * len(seen.classes) + answers.predicted[wrong]
    pairs, counts = np.unique(cells, return_counts=True)
    names, size = seen.classnames, len(seen.classes)
    return [
        [names[pairs[i] // size], names[pairs[i] % size], int(counts[i])]
        for i in np.argsort(-counts, kind="stable")
    ]


def mistakes(answers: Answers, seen: LabelledSet) -> list[Result]:
    """The wrong answers that were given with most confidence."""
    wrong = np.flatnonzero(answers.ranks > 0)
    surest = wrong[np.argsort(-answers.confidence[wrong], kind="stable")][:MISTAKES]
    names = seen.classnames
    return [
        {
            "picture": seen.keys[i],
            "right": [names[c] for c in np.atleast_1d(_right(seen.labels[i]))],
            "given": names[answers.predicted[i]],
            "confidence": float(answers.confidence[i]),
        }
        for i in surest
    ]


def _right(label: Any) -> Any:
    return np.flatnonzero(label) if np.ndim(label) else label


def describe_set(seen: LabelledSet) -> Result:
    """What was measured on, and whether that is all of it."""
    n, known = len(seen.keys), seen.known
    return {
        "name": seen.name,
        "known_as": known.key if known else None,
        "title": set_title(seen.name, known),
        "pictures": n,
        "of": seen.whole,
        "subset": n < seen.whole,
        "classes": len(seen.classes),
        "fingerprint": seen.fingerprint(),
    }


def _mean(values: NDArray[np.float64]) -> float:
    """Of those that are there."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")
