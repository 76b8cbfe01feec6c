"""Classify with the help of labelled pictures: linear probe, few shots, Tip-Adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twotower.arrays import BoolArray, Float32Array, Int64Array
from twotower.errors import EvaluationError
from twotower.evaluate.accuracy import class_ranks
from twotower.evaluate.embedding import embed_pictures, make_classifier
from twotower.evaluate.intervals import bootstrap_shares
from twotower.evaluate.logistic import Logistic, fit_logistic, search_c
from twotower.evaluate.models import Model
from twotower.evaluate.results import Result, configuration, encode_ranks
from twotower.evaluate.sets import LabelledSet, open_set
from twotower.evaluate.tip_adapter import TipAdapter
from twotower.evaluate.zero_shot import (
    choose_templates,
    classify,
    confident_mistakes,
    describe_set,
    measure_answers,
)
from twotower.progress import Progress, ReportProgress, ignore_progress

SHOTS = (1, 2, 4, 8, 16)
DRAWS = 3  # random draws of pictures for each number of shots
MAX_VALIDATION_SHOTS = 4
HELD_OUT = 0.2  # share of the pictures for a test or validation set that is not given


# --- the three sets ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """The sets for training, for choosing settings, and for testing."""

    train: LabelledSet
    validation: LabelledSet
    test: LabelledSet


def open_split(
    location: str, test: str | None = None, validation: str | None = None, **options: object
) -> Split:
    """Open the three sets of a probe.

    Args:
        location: a labelled set, or a folder with `train`, `test` and perhaps `val` in it. A set
            that is not given is held out of it: a fifth of each class.
        options: as `open_set` takes them.

    Raises:
        EvaluationError: `open_set` raises it, the classes of the three sets differ, or a picture
            has several.
    """
    folder = Path(location)
    if (folder / "train").is_dir():
        test = test or _subfolder(folder, "test")
        validation = validation or _subfolder(folder, "val") or _subfolder(folder, "validation")
        location = str(folder / "train")
    train = open_set(location, **options)  # type: ignore[arg-type]
    sets = {}
    for name, set_location in (("test", test), ("validation", validation)):
        if set_location is not None:
            sets[name] = open_set(set_location, **options)  # type: ignore[arg-type]
            if sets[name].classes != train.classes:
                raise EvaluationError(
                    set_location, f"other classes than {location}", "give sets of the same classes"
                )
        else:
            held_out, remaining = hold_out(train.labels)
            sets[name], train = train.take(held_out), train.take(remaining)
    if train.multi_label:
        raise EvaluationError(
            location, "has pictures with several labels", "a probe needs one for each picture"
        )
    return Split(train, sets["validation"], sets["test"])


def _subfolder(folder: Path, name: str) -> str | None:
    return str(folder / name) if (folder / name).is_dir() else None


def hold_out(
    labels: Int64Array, share: float = HELD_OUT, seed: int = 0
) -> tuple[Int64Array, Int64Array]:
    """Draw a share of each class: at least one picture, but never all.

    Args:
        labels: [n].

    Returns:
        The numbers of the held-out pictures, and those of the remaining pictures.
    """
    random = np.random.default_rng(seed)
    held_out: list[int] = []
    for label in np.unique(labels):
        numbers = random.permutation(np.flatnonzero(labels == label))
        count = min(len(numbers) - 1, max(1, round(share * len(numbers))))
        held_out += numbers[:count].tolist()
    return np.sort(held_out).astype(np.int64), np.setdiff1d(np.arange(len(labels)), held_out)


def draw_shots(labels: Int64Array, shots: int, random: np.random.Generator) -> Int64Array | None:
    """Draw the numbers of `shots` pictures of each class; None if a class has fewer."""
    drawn: list[int] = []
    for label in np.unique(labels):
        numbers = np.flatnonzero(labels == label)
        if len(numbers) < shots:
            return None
        drawn += random.permutation(numbers)[:shots].tolist()
    return np.sort(drawn).astype(np.int64)


# --- the evaluation ------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelledEmbeds:
    """Embeds with their classes: image_embeds [n, embed_dim], labels [n]."""

    image_embeds: Float32Array
    labels: Int64Array

    def take(self, numbers: Int64Array) -> LabelledEmbeds:
        """Return these rows."""
        return LabelledEmbeds(self.image_embeds[numbers], self.labels[numbers])

    def join(self, embeds: LabelledEmbeds) -> LabelledEmbeds:
        """Append `embeds`."""
        return LabelledEmbeds(
            np.concatenate([self.image_embeds, embeds.image_embeds]),
            np.concatenate([self.labels, embeds.labels]),
        )


def evaluate_probe(
    model: Model,
    split: Split,
    shots: Sequence[int] = SHOTS,
    templates: tuple[str, ...] | None = None,
    report: ReportProgress = ignore_progress,
) -> Result:
    """Evaluate a linear probe on all training pictures, and on a few beside Tip-Adapter.

    As in the CLIP paper (Radford et al. 2021, appendix A.3), L-BFGS fits the probe, the validation
    set chooses C, and the last fit is on training and validation pictures together. The vectors are
    `image_embeds`; the paper uses the features before the projection.

    Returns:
        The result as it is printed as JSON: `top1` and the other measures of the linear probe,
        `zero_shot`, and `few_shot` by number of shots.
    """
    unreadable: list[str] = []

    def embed(stage: str, labelled: LabelledSet) -> tuple[LabelledEmbeds, LabelledSet]:
        count = len(labelled.keys)
        embedded = embed_pictures(model, labelled, labelled.name, count, report, stage)
        unreadable.extend(embedded.unreadable(labelled.keys))
        readable = labelled.take(embedded.numbers)
        return LabelledEmbeds(embedded.image_embeds, readable.labels), readable

    train, _ = embed("Training pictures", split.train)
    validation, _ = embed("Validation pictures", split.validation)
    test, readable = embed("Test pictures", split.test)
    templates = choose_templates(model, split.train, templates)
    classifier = make_classifier(model, split.train.classes, templates, report)

    report(Progress(0, 1, stage="Linear probe"))
    probe = _fit_probe(train, validation, len(split.train.classes), refit=True)
    answers = classify(probe.logits, test.image_embeds, test.labels)
    report(Progress(1, 1, stage="Linear probe"))
    zero_shot = class_ranks(test.image_embeds @ classifier.T, test.labels, readable.namesakes)
    result = {
        "task": "probe",
        "set": describe_set(readable)
        | {"learned_from": len(train.labels) + len(validation.labels)},
        **measure_answers(answers, readable),
        "c": probe.c,
        "zero_shot": _top1((zero_shot < 1)[None]),
        "few_shot": _few_shot(model, classifier, train, validation, test, shots, report),
    }
    return result | {
        "published": [],
        "unreadable": unreadable,
        "mistakes": confident_mistakes(answers, readable),
        "outcomes": {"ranks": encode_ranks(answers.ranks)},
        "configuration": configuration(model, templates=list(templates), draws=DRAWS),
    }


def _few_shot(
    model: Model,
    classifier: Float32Array,
    train: LabelledEmbeds,
    validation: LabelledEmbeds,
    test: LabelledEmbeds,
    shots: Sequence[int],
    report: ReportProgress,
) -> dict[str, Result]:
    """Return top-1 by number of shots; numbers are left out if a class has too few pictures."""
    results = {}
    for number, k in enumerate(shots):
        correct: dict[str, list[BoolArray]] = {"linear_probe": [], "tip_adapter": []}
        for draw in range(DRAWS):
            random = np.random.default_rng([draw, k])
            numbers = draw_shots(train.labels, k, random)
            validation_numbers = draw_shots(validation.labels, min(k, MAX_VALIDATION_SHOTS), random)
            if numbers is None or validation_numbers is None:
                break
            few, check = train.take(numbers), validation.take(validation_numbers)
            probe = _fit_probe(few, check, len(classifier), refit=False)
            adapter = TipAdapter(classifier, few.image_embeds, few.labels, model.logit_scale)
            adapter = adapter.tune(check.image_embeds, check.labels)
            correct["linear_probe"].append(_correct(probe.logits, test))
            correct["tip_adapter"].append(_correct(adapter.logits, test))
            done = number * DRAWS + draw + 1
            report(Progress(done, len(shots) * DRAWS, stage="Few shots"))
        if correct["linear_probe"]:
            results[str(k)] = {name: _top1(np.array(draws)) for name, draws in correct.items()}
    return results


def _fit_probe(
    train: LabelledEmbeds, validation: LabelledEmbeds, classes: int, refit: bool
) -> Logistic:
    """Fit with the C that is best on the validation set; `refit` adds that set to the last fit."""
    fits: dict[float, Logistic] = {}

    def score(c: float) -> float:
        nearest = min(fits, key=lambda fitted: abs(np.log(fitted / c)), default=None)
        start = None if nearest is None else fits[nearest]
        fits[c] = fit_logistic(train.image_embeds, train.labels, classes, c, start)
        return float(_correct(fits[c].logits, validation).mean())

    c = search_c(score)
    if not refit:
        return fits[c]
    joined = train.join(validation)
    return fit_logistic(joined.image_embeds, joined.labels, classes, c, fits[c])


def _correct(logits: Callable[[Float32Array], Float32Array], embeds: LabelledEmbeds) -> BoolArray:
    return class_ranks(logits(embeds.image_embeds), embeds.labels) < 1


def _top1(correct: BoolArray) -> Result:
    """Return top1 over draws [draws, n]; its interval resamples test pictures."""
    mean = correct.mean(axis=0, dtype=np.float64)  # [n]
    n = len(mean)
    [interval] = bootstrap_shares(mean[:, None], np.ones(n)).tolist()
    draws = correct.mean(axis=1).tolist()
    return {"top1": float(mean.mean()), "n": n, "ci95": {"top1": interval}, "draws": draws}
