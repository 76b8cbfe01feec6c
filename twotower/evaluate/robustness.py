"""Accuracy on other sets of the same classes, and on corrupted pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from twotower.arrays import Float32Array, Float64Array
from twotower.errors import EvaluationError
from twotower.evaluate.accuracy import class_ranks
from twotower.evaluate.corruptions import SEVERITIES, corrupt
from twotower.evaluate.embedding import embed_pictures, make_classifier
from twotower.evaluate.intervals import bootstrap_shares
from twotower.evaluate.models import Model
from twotower.evaluate.published import published_figures
from twotower.evaluate.registry import normalize_name
from twotower.evaluate.results import Result, configuration, encode_ranks
from twotower.evaluate.set_readers import unique_keys
from twotower.evaluate.sets import LabelledSet
from twotower.evaluate.zero_shot import (
    choose_templates,
    classify_by_text,
    confident_mistakes,
    describe_set,
    measure_answers,
)
from twotower.inputs.pictures import Picture
from twotower.progress import ReportProgress, ignore_progress


def evaluate_robustness(
    model: Model,
    labelled: LabelledSet,
    shifted_sets: Sequence[LabelledSet] = (),
    kinds: Sequence[str] = (),
    severities: Sequence[int] = SEVERITIES,
    templates: tuple[str, ...] | None = None,
    report: ReportProgress = ignore_progress,
) -> Result:
    """Measure zero-shot accuracy on a set, on shifted sets of its classes, and under corruptions.

    Args:
        shifted_sets: sets of other pictures. Each is compared with the first over the classes that
            both have, so the accuracy on the first is measured again for each.
        kinds: corruptions, from `choose_kinds`.

    Returns:
        The result as it is printed as JSON: `top1` and the other measures of the unchanged
        pictures, `shift` by set, `corruptions` by kind and severity, and `mean_corrupted` over all
        of these.

    Raises:
        EvaluationError: a set has several labels for a picture or no readable picture, or two sets
            share no class.
    """
    for checked in (labelled, *shifted_sets):
        _check_single_label(checked)
    templates = choose_templates(model, labelled, templates)
    classifier = make_classifier(model, labelled.classes, templates, report)
    embedded = embed_pictures(model, labelled, labelled.name, len(labelled.keys), report)
    readable = labelled.take(embedded.numbers)
    unreadable = embedded.unreadable(labelled.keys)
    answers = classify_by_text(model, classifier, embedded.image_embeds, readable)
    result: Result = {
        "task": "robustness",
        "set": describe_set(readable),
        **measure_answers(answers, readable),
    }
    if shifted_sets:
        reference = (embedded.image_embeds, readable)
        result["shift"], errors = _measure_shift(model, reference, shifted_sets, classifier, report)
        unreadable += errors
    if kinds:
        result |= _measure_corruptions(model, readable, classifier, kinds, severities, report)
    return result | {
        "published": published_figures(model.describe(), readable.public_set, result),
        "unreadable": unreadable,
        "mistakes": confident_mistakes(answers, readable),
        "outcomes": {"ranks": encode_ranks(answers.ranks)},
        "configuration": configuration(model, templates=list(templates)),
    }


def _check_single_label(labelled: LabelledSet) -> None:
    if labelled.multi_label:
        raise EvaluationError(
            labelled.name,
            "has pictures with several labels",
            "robustness needs one for each picture",
        )


# --- shifted sets --------------------------------------------------------------------------------


def _measure_shift(
    model: Model,
    reference: tuple[Float32Array, LabelledSet],
    shifted_sets: Sequence[LabelledSet],
    classifier: Float32Array,
    report: ReportProgress,
) -> tuple[dict[str, Result], list[str]]:
    """Return the comparison with each shifted set, and a line for each unreadable picture."""
    shift, unreadable = {}, []
    names = unique_keys([shifted.name for shifted in shifted_sets])
    for name, shifted in zip(names, shifted_sets, strict=True):
        embedded = embed_pictures(model, shifted, shifted.name, len(shifted.keys), report, name)
        unreadable += embedded.unreadable(shifted.keys)
        readable = shifted.take(embedded.numbers)
        shift[name] = _compare_sets(reference, (embedded.image_embeds, readable), classifier)
    return shift, unreadable


def _compare_sets(
    reference: tuple[Float32Array, LabelledSet],
    shifted: tuple[Float32Array, LabelledSet],
    classifier: Float32Array,
) -> Result:
    """Return accuracy on two sets over their shared classes, and the difference in accuracy."""
    names = [normalize_name(name) for name in reference[1].classnames]
    shifted_names = [normalize_name(name) for name in shifted[1].classnames]
    present = {shifted_names[label] for label in np.unique(shifted[1].labels)}
    shared = [number for number, name in enumerate(names) if name in present]
    if not shared:
        raise EvaluationError(
            shifted[1].name, f"shares no class with {reference[1].name}", "leave it out"
        )
    shared_names = [names[number] for number in shared]
    before = _correct_on(*reference, names, shared_names, classifier[shared])
    after = _correct_on(*shifted, shifted_names, shared_names, classifier[shared])
    draws = [_resample_accuracy(correct, seed) for seed, correct in enumerate((before, after))]
    [interval] = bootstrap_shares(after[:, None], np.ones(len(after))).tolist()
    drop = np.quantile(draws[0] - draws[1], (0.025, 0.975)).tolist()
    return {
        "top1": float(after.mean()),
        "drop": float(before.mean() - after.mean()),
        "n": len(after),
        "ci95": {"top1": interval, "drop": drop},
        "classes": len(shared),
        "first_set": {"top1": float(before.mean()), "n": len(before)},
    }


def _correct_on(
    image_embeds: Float32Array,
    labelled: LabelledSet,
    names: list[str],
    shared_names: list[str],
    classifier: Float32Array,
) -> Float64Array:
    """Return 1 or 0 for each picture of the shared classes.

    Args:
        names: the normalized class names of the set.
        classifier: [len(shared_names), embed_dim].
    """
    new_numbers = {names.index(name): number for number, name in enumerate(shared_names)}
    rows = np.flatnonzero(np.isin(labelled.labels, list(new_numbers)))
    if not len(rows):
        raise EvaluationError(
            labelled.name, "has no picture of the shared classes", "add some, or leave it out"
        )
    labels = np.array([new_numbers[label] for label in labelled.labels[rows].tolist()])
    return (class_ranks(image_embeds[rows] @ classifier.T, labels) < 1).astype(np.float64)


def _resample_accuracy(correct: Float64Array, seed: int) -> Float64Array:
    """Return the accuracy of 10 000 resamples of the pictures."""
    random = np.random.default_rng(seed)
    return np.asarray(random.binomial(len(correct), correct.mean(), 10_000) / len(correct))


# --- corruptions ---------------------------------------------------------------------------------


def _measure_corruptions(
    model: Model,
    labelled: LabelledSet,
    classifier: Float32Array,
    kinds: Sequence[str],
    severities: Sequence[int],
    report: ReportProgress,
) -> Result:
    corruptions: dict[str, dict[str, Result]] = {}
    count = len(labelled.keys)
    total = np.zeros(count)
    for kind in kinds:
        corruptions[kind] = {}
        for severity in severities:
            stage = f"{kind.replace('_', ' ')} {severity}"
            pictures = _corrupt_all(labelled, kind, severity)
            embedded = embed_pictures(model, pictures, labelled.name, count, report, stage)
            scores = embedded.image_embeds @ classifier.T
            correct = class_ranks(scores, labelled.labels, labelled.namesakes) < 1
            total += correct
            corruptions[kind][str(severity)] = _top1(correct.astype(np.float64))
    return {
        "corruptions": corruptions,
        "mean_corrupted": _top1(total / (len(kinds) * len(severities))),
    }


def _corrupt_all(labelled: LabelledSet, kind: str, severity: int) -> Iterator[Picture]:
    return (corrupt(picture, kind, severity, number) for number, picture in enumerate(labelled))


def _top1(correct: Float64Array) -> Result:
    n = len(correct)
    [interval] = bootstrap_shares(correct[:, None], np.ones(n)).tolist()
    return {"top1": float(correct.mean()), "n": n, "ci95": {"top1": interval}}
