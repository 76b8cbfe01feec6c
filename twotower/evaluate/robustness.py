"""How a model holds when the pictures change: other sets of the same classes, and corruptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from twotower.errors import EvaluationError
from twotower.evaluate.accuracy import class_ranks
from twotower.evaluate.corruptions import SEVERITIES, corrupt
from twotower.evaluate.embedding import (
    Result,
    Watch,
    configuration,
    embed_pictures,
    encode_ranks,
    make_classifier,
    unwatched,
)
from twotower.evaluate.intervals import bootstrap_shares
from twotower.evaluate.models import Model
from twotower.evaluate.published import published
from twotower.evaluate.registry import plain
from twotower.evaluate.set_readers import distinct
from twotower.evaluate.sets import LabelledSet
from twotower.evaluate.zero_shot import answer, choose_templates, describe_set, measure, mistakes
from twotower.inputs.pictures import Picture


def evaluate_robustness(
    model: Model,
    labelled: LabelledSet,
    others: Sequence[LabelledSet] = (),
    kinds: Sequence[str] = (),
    severities: Sequence[int] = SEVERITIES,
    templates: tuple[str, ...] | None = None,
    watch: Watch = unwatched,
) -> Result:
    """Zero-shot accuracy on a set, on others that share its classes, and under corruptions.

    Args:
        others: sets of other pictures; each is compared over the classes that both have, so the
            figure of the first set is measured again for each.
        kinds: of corruption (`choose_kinds`).

    Returns:
        The result as JSON has it: `top1` and the rest are of the pictures as they are; `shift` by
        set, `corruptions` by kind and severity, `mean_corrupted` over all of these.
    """
    if labelled.multi_label or any(other.multi_label for other in others):
        raise EvaluationError("robustness needs one label for each picture, not several")
    templates = choose_templates(model, labelled, templates)
    classifier = make_classifier(model, labelled.classes, templates, watch)
    embedded = embed_pictures(model, labelled, len(labelled.keys), watch)
    seen = labelled.take(embedded.numbers)
    unreadable = embedded.unreadable(labelled.keys)

    def score(image_embeds: NDArray[np.float32]) -> NDArray[np.float32]:
        return image_embeds @ classifier.T

    answers = answer(
        score,
        embedded.image_embeds,
        seen.labels,
        model.logit_scale,
        model.logit_bias,
        seen.namesakes,
    )
    result: Result = {
        "task": "robustness",
        "set": describe_set(seen),
        **measure(answers, seen),
    }
    if others:
        result["shift"] = {}
    for name, other in zip(distinct([one.name for one in others]), others, strict=True):
        shifted = embed_pictures(model, other, len(other.keys), watch, name)
        unreadable += shifted.unreadable(other.keys)
        result["shift"][name] = _shift(
            (embedded.image_embeds, seen),
            (shifted.image_embeds, other.take(shifted.numbers)),
            classifier,
        )
    if kinds:
        result |= _corrupted(model, seen, classifier, kinds, severities, watch)
    return result | {
        "published": published(model.describe(), seen.known, result),
        "unreadable": unreadable,
        "mistakes": mistakes(answers, seen),
        "outcomes": {"ranks": encode_ranks(answers.ranks)},
        "configuration": configuration(model, templates=list(templates)),
    }


def _shift(
    first: tuple[NDArray[np.float32], LabelledSet],
    second: tuple[NDArray[np.float32], LabelledSet],
    classifier: NDArray[np.float32],
) -> Result:
    """Accuracy on both sets over the classes that they share, and the points between them."""
    names = [plain(name) for name in first[1].classnames]
    theirs = [plain(name) for name in second[1].classnames]
    present = {theirs[label] for label in np.unique(second[1].labels)}
    shared = [number for number, name in enumerate(names) if name in present]
    if not shared:
        raise EvaluationError(f"{second[1].name}: shares no class with {first[1].name}")
    narrow = classifier[shared]
    rights = []
    for (image_embeds, labelled), own in ((first, names), (second, theirs)):
        place = {own.index(names[number]): at for at, number in enumerate(shared)}
        rows = np.flatnonzero(np.isin(labelled.labels, list(place)))
        if not len(rows):
            raise EvaluationError(f"{labelled.name}: has no picture of the shared classes")
        labels = np.array([place[label] for label in labelled.labels[rows].tolist()])
        rights.append(class_ranks(image_embeds[rows] @ narrow.T, labels) < 1)
    before, after = (right.astype(np.float64) for right in rights)
    draws = [_resampled(right, seed) for seed, right in enumerate((before, after))]
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


def _resampled(right: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Accuracy over pictures drawn again, many times."""
    random = np.random.default_rng(seed)
    return np.asarray(random.binomial(len(right), right.mean(), 10_000) / len(right))


def _corrupted(
    model: Model,
    seen: LabelledSet,
    classifier: NDArray[np.float32],
    kinds: Sequence[str],
    severities: Sequence[int],
    watch: Watch,
) -> Result:
    corruptions: dict[str, dict[str, Result]] = {}
    total, alike = np.zeros(len(seen.keys)), seen.namesakes
    for kind in kinds:
        corruptions[kind] = {}
        for severity in severities:
            pictures = _changed(seen, kind, severity)
            what = f"{kind.replace('_', ' ')} {severity}"
            embedded = embed_pictures(model, pictures, len(seen.keys), watch, what)
            right = class_ranks(embedded.image_embeds @ classifier.T, seen.labels, alike) < 1
            total += right
            corruptions[kind][str(severity)] = _share(right.astype(np.float64))
    return {
        "corruptions": corruptions,
        "mean_corrupted": _share(total / (len(kinds) * len(severities))),
    }


def _changed(seen: LabelledSet, kind: str, severity: int) -> Iterator[Picture]:
    return (corrupt(picture, kind, severity, number) for number, picture in enumerate(seen))


def _share(right: NDArray[np.float64]) -> Result:
    n = len(right)
    [interval] = bootstrap_shares(right[:, None], np.ones(n)).tolist()
    return {"top1": float(right.mean()), "n": n, "ci95": {"top1": interval}}
