"""The pairs of a fine-tuning: to train on, to choose by, and to report on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twotower.arrays import Float32Array
from twotower.errors import TrainError
from twotower.pairs.pair import Source
from twotower.pairs.sources import open_source
from twotower.progress import ReportProgress
from twotower.train.embed_cache import sample_key
from twotower.train.finetune.candidates import divide
from twotower.train.finetune.frozen_model import FrozenModel
from twotower.train.finetune.held_out import HeldOutSet, hold_out_emoji
from twotower.train.finetune.pair_set import PairSet, Sample

MIN_PAIRS = 30  # with fewer, the held-out pairs show nothing
FOLDS = 5  # a fifth of the pairs is for the report; the rest is divided into as many folds
FEW_PAIRS = 500  # up to which each fold is held out once, to choose by; then the first fold alone
MAX_OUTSIDE = 1000  # pairs of the user's outside set
MAX_TEMPLATES = 8  # that class names are trained in, besides the name alone
MAX_SENTENCES = 1000  # captions that new vectors are fitted for; the time grows with their square


@dataclass(frozen=True)
class Fold:
    """Pairs to train on, and others to choose by."""

    training: list[Sample]
    choosing: list[Sample]


class FineTuneData:
    """All pairs of a fine-tuning, and their divisions.

    Attributes:
        training: the pairs that the result is trained on; no pair for the report is among them.
        folds: divisions of `training`, for the choice.
        broken: a line about each unreadable pair.
        progress: is called with the stages and their state.
    """

    def __init__(
        self,
        frozen: FrozenModel,
        source: Source,
        outside: str | Path | None,
        single_fold: bool,
        progress: ReportProgress,
    ) -> None:
        """Read all pairs. Raises `TrainError` if there are too few."""
        self.frozen, self.progress = frozen, progress
        samples, self.broken = frozen.read(source, range(len(source)), progress)
        if len(samples) < MIN_PAIRS:
            raise TrainError(
                source.name,
                f"{len(samples)} readable pairs; fine-tuning takes {MIN_PAIRS} or more, since a "
                "fifth is held out to measure it",
                "give more pairs",
            )
        self.domain = PairSet(source, frozen.config, samples)
        testing, self.training = self._split(samples)
        self.folds = self._folds(single_fold)
        self.domain_test = self.domain.hold_out("domain", testing)
        if outside:
            outside_set = open_outside(outside, frozen, progress)
        else:
            frozen.add_stored_embeds()
            outside_set = hold_out_emoji(frozen.config.templates[0])
        self.outside_choice, self.outside_test = halve(outside_set)

    def _split(self, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Divide samples into a fold for the report and the others."""
        fold = self._divide(samples, 0)
        return fold.choosing, fold.training

    def _divide(self, samples: Sequence[Sample], number: int) -> Fold:
        """Divide samples into the fold of a number and the others."""
        labels = [sample.captions[0] if self.domain.classnames else "" for sample in samples]
        numbers = divide([sample.key for sample in samples], labels, FOLDS).tolist()
        pairs = list(zip(samples, numbers, strict=True))
        return Fold(
            [sample for sample, fold in pairs if fold != number],
            [sample for sample, fold in pairs if fold == number],
        )

    def _folds(self, single_fold: bool) -> list[Fold]:
        count = 1 if single_fold or len(self.training) > FEW_PAIRS else FOLDS
        return [self._divide(self.training, number) for number in range(count)]

    def image_embeds(self, samples: Sequence[Sample]) -> Float32Array:
        """Return the image_embeds of pairs [n, embed_dim]."""
        return self.frozen.image_embeds(self.domain.hold_out("", samples).pictures)


def open_outside(location: str | Path, frozen: FrozenModel, progress: ReportProgress) -> HeldOutSet:
    """Make a held-out set of up to `MAX_OUTSIDE` pairs of the user's outside set."""
    source = open_source(location)
    step = max(1, len(source) // MAX_OUTSIDE)
    samples, _ = frozen.read(source, range(0, len(source), step)[:MAX_OUTSIDE], progress)
    return PairSet(source, frozen.config, samples).hold_out(source.name, samples)


def halve(held_out: HeldOutSet) -> tuple[HeldOutSet, HeldOutSet]:
    """Divide a set into one to choose by and one to report on, by the content of the pictures."""
    keys = [sample_key(picture) for picture in held_out.pictures]
    halves = [[row for row, key in enumerate(keys) if key[0] % 2 == half] for half in (0, 1)]
    if not all(halves):
        raise TrainError(held_out.name, "too few outside pairs", "give fifty or more")
    return held_out.subset(halves[0]), held_out.subset(halves[1])


def label_texts(pairs: PairSet, samples: Sequence[Sample]) -> tuple[list[str], int, list[int]]:
    """Return the texts to train with.

    Returns:
        The texts, one template after the other; the number of templates; the label of each sample.
    """
    if pairs.classnames:
        index = {name: number for number, name in enumerate(pairs.classnames)}
        templates = list(dict.fromkeys([*pairs.templates[:MAX_TEMPLATES], "{}"]))
        texts = [
            template.replace("{}", name) for template in templates for name in pairs.classnames
        ]
        return texts, len(templates), [index[sample.captions[0]] for sample in samples]
    captions = list(dict.fromkeys(sample.captions[0] for sample in samples))
    index = {caption: number for number, caption in enumerate(captions)}
    return captions, 1, [index[sample.captions[0]] for sample in samples]


def select_sentences(pairs: PairSet, samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples that texts are fitted to: all with class names, else a bounded number."""
    if pairs.classnames or len(samples) <= MAX_SENTENCES:
        return list(samples)
    rows = np.linspace(0, len(samples) - 1, MAX_SENTENCES).astype(int)
    return [samples[row] for row in rows]
