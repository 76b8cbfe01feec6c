"""What picture vectors are good for, given labels: linear probe, few shots, Tip-Adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower.errors import EvaluationError
from twotower.evaluate.accuracy import class_ranks
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
from twotower.evaluate.logistic import Logistic, fit_logistic, search_c
from twotower.evaluate.models import Model
from twotower.evaluate.sets import LabelledSet, open_set
from twotower.evaluate.tip_adapter import TipAdapter
from twotower.evaluate.zero_shot import answer, choose_templates, describe_set, measure, mistakes

SHOTS = (1, 2, 4, 8, 16)
DRAWS = 3  # of other pictures, for each number of shots
MOST_VALIDATION_SHOTS = 4
HELD_OUT = 0.2  # of the pictures, for testing or for validating where no others are given

Row = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """What to learn from, to choose settings by, and to test on."""

    train: LabelledSet
    validation: LabelledSet
    test: LabelledSet


def open_split(
    location: str, test: str | None = None, validation: str | None = None, **options: object
) -> Split:
    """The three sets of a probe.

    Args:
        location: a labelled set, or a folder with `train`, `test` and perhaps `val` in it. What is
            not given is held out of it: a fifth of each class.
        options: as `open_set` takes them.

    Raises:
        SetError: as `open_set`, the classes of the three differ, or a picture has several.
    """
    folder = Path(location)
    if (folder / "train").is_dir():
        inside = [folder / name for name in ("test", "val", "validation")]
        there = [str(one) if one.is_dir() else None for one in inside]
        test, validation = test or there[0], validation or there[1] or there[2]
        location = str(folder / "train")
    train = open_set(location, **options)  # type: ignore[arg-type]
    sets = {}
    for name, other in (("test", test), ("validation", validation)):
        if other is not None:
            sets[name] = open_set(other, **options)  # type: ignore[arg-type]
            if sets[name].classes != train.classes:
                raise EvaluationError(f"{other}: other classes than {location}")
        else:
            held_out, rest = hold_out(train.labels)
            sets[name], train = train.take(held_out), train.take(rest)
    if train.multi_label:
        raise EvaluationError(f"{location}: a probe needs one label for each picture, not several")
    return Split(train, sets["validation"], sets["test"])


def hold_out(labels: NDArray[np.int64], share: float = HELD_OUT, seed: int = 0) -> tuple[Row, Row]:
    """The numbers of a share of each class (one at least, but never its last), and of the rest."""
    random = np.random.default_rng(seed)
    held: list[int] = []
    for label in np.unique(labels):
        own = random.permutation(np.flatnonzero(labels == label))
        held += own[: min(len(own) - 1, max(1, round(share * len(own))))].tolist()
    return np.sort(held).astype(np.int64), np.setdiff1d(np.arange(len(labels)), held)


def draw_shots(labels: NDArray[np.int64], shots: int, random: np.random.Generator) -> Row | None:
    """`shots` pictures of each class, or None where a class has fewer."""
    drawn: list[int] = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        if len(own) < shots:
            return None
        drawn += random.permutation(own)[:shots].tolist()
    return np.sort(drawn).astype(np.int64)


@dataclass(frozen=True)
class _Vectors:
    image_embeds: NDArray[np.float32]
    labels: NDArray[np.int64]

    def take(self, rows: Row) -> _Vectors:
        return _Vectors(self.image_embeds[rows], self.labels[rows])

    def with_(self, other: _Vectors) -> _Vectors:
        return _Vectors(
            np.concatenate([self.image_embeds, other.image_embeds]),
            np.concatenate([self.labels, other.labels]),
        )


def evaluate_probe(
    model: Model,
    split: Split,
    shots: Sequence[int] = SHOTS,
    templates: tuple[str, ...] | None = None,
    watch: Watch = unwatched,
) -> Result:
    """Linear probe on all training pictures, and on a few beside Tip-Adapter.

    As in the CLIP paper (appendix A.3): L-BFGS, C chosen on the validation set, then fitted again
    on training and validation pictures together. The vectors are `image_embeds`; the paper takes
    those before the projection.

    Returns:
        The result as JSON has it: `top1` and the rest are the linear probe's; `zero_shot`,
        `few_shot` by number of shots.
    """
    classes = len(split.train.classes)
    unreadable: list[str] = []

    def vectors(what: str, labelled: LabelledSet) -> tuple[_Vectors, LabelledSet]:
        embedded = embed_pictures(model, labelled, len(labelled.keys), watch, what)
        unreadable.extend(embedded.unreadable(labelled.keys))
        seen = labelled.take(embedded.numbers)
        return _Vectors(embedded.image_embeds, seen.labels), seen

    train, _ = vectors("Training pictures", split.train)
    validation, _ = vectors("Validation pictures", split.validation)
    test, seen = vectors("Test pictures", split.test)
    templates = choose_templates(model, split.train, templates)
    classifier = make_classifier(model, split.train.classes, templates, watch)

    with watch("Linear probe", 1) as advance:
        probe = _probe(train, validation, classes, refit=True)
        answers = answer(probe.logits, test.image_embeds, test.labels)
        advance()
    zero_shot = class_ranks(test.image_embeds @ classifier.T, test.labels, seen.namesakes)
    result = {
        "task": "probe",
        "set": describe_set(seen) | {"learned_from": len(train.labels) + len(validation.labels)},
        **measure(answers, seen),
        "c": probe.c,
        "zero_shot": _share((zero_shot < 1)[None]),
        "few_shot": _few_shot(model, classifier, train, validation, test, shots, watch),
    }
    return result | {
        "published": [],
        "unreadable": unreadable,
        "mistakes": mistakes(answers, seen),
        "outcomes": {"ranks": encode_ranks(answers.ranks)},
        "configuration": configuration(model, templates=list(templates), draws=DRAWS),
    }


def _few_shot(
    model: Model,
    classifier: NDArray[np.float32],
    train: _Vectors,
    validation: _Vectors,
    test: _Vectors,
    shots: Sequence[int],
    watch: Watch,
) -> dict[str, Result]:
    """By number of shots; a number that some class has too few pictures for is left out."""
    results = {}
    with watch("Few shots", len(shots) * DRAWS) as advance:
        for k in shots:
            right: dict[str, list[NDArray[np.bool_]]] = {"linear_probe": [], "tip_adapter": []}
            for draw in range(DRAWS):
                random = np.random.default_rng([draw, k])
                rows = draw_shots(train.labels, k, random)
                aside = draw_shots(validation.labels, min(k, MOST_VALIDATION_SHOTS), random)
                if rows is None or aside is None:
                    break
                few, check = train.take(rows), validation.take(aside)
                probe = _probe(few, check, len(classifier), refit=False)
                tip = TipAdapter(classifier, few.image_embeds, few.labels, model.logit_scale)
                tip = tip.tuned(check.image_embeds, check.labels)
                for name, logits in (("linear_probe", probe.logits), ("tip_adapter", tip.logits)):
                    right[name].append(_right(logits, test))
                advance()
            if right["linear_probe"]:
                results[str(k)] = {name: _share(np.array(each)) for name, each in right.items()}
    return results


def _probe(train: _Vectors, validation: _Vectors, classes: int, refit: bool) -> Logistic:
    fits: dict[float, Logistic] = {}

    def score(c: float) -> float:
        near = min(fits, key=lambda other: abs(np.log(other / c)), default=None)
        start = None if near is None else fits[near]
        fits[c] = fit_logistic(train.image_embeds, train.labels, classes, c, start)
        return float(_right(fits[c].logits, validation).mean())

    c = search_c(score)
    if not refit:
        return fits[c]
    both = train.with_(validation)
    return fit_logistic(both.image_embeds, both.labels, classes, c, fits[c])


def _right(
    logits: Callable[[NDArray[np.float32]], NDArray[np.float32]], on: _Vectors
) -> NDArray[np.bool_]:
    return class_ranks(logits(on.image_embeds), on.labels) < 1


def _share(right: NDArray[np.bool_]) -> Result:
    """top1 over draws [draws, n]; the interval draws test pictures again."""
    mean = right.mean(axis=0, dtype=np.float64)  # [n]
    n = len(mean)
    [interval] = bootstrap_shares(mean[:, None], np.ones(n)).tolist()
    draws = right.mean(axis=1).tolist()
    return {"top1": float(mean.mean()), "n": n, "ci95": {"top1": interval}, "draws": draws}
