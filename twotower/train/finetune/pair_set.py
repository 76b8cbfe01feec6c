"""Pairs of a fine-tuning, as held-out sets and as pairs to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from twotower.model.config import CLIPConfig
from twotower.pairs.pair import Pair, Source
from twotower.pairs.sources import PairSubset
from twotower.train.embed_cache import sample_key
from twotower.train.finetune.held_out import HeldOutSet, are_classnames, hold_out


@dataclass(frozen=True)
class Sample:
    """A readable pair, without its picture.

    Attributes:
        number: of the pair in its source.
        key: `sample_key` of the picture.
    """

    number: int
    key: bytes
    captions: tuple[str, ...]


def read_sample(source: Source, number: int) -> Sample:
    """Read one pair. Raises `BrokenPairError`."""
    pair = source[number]
    return Sample(number, sample_key(pair.picture), pair.captions)


class StoredPictures(Sequence[bytes]):
    """The stored pictures of samples, read on access."""

    def __init__(self, source: Source, samples: Sequence[Sample]) -> None:
        self.source, self.samples = source, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        """Read a picture."""
        return self.source[self.samples[index].number].picture


class PairSet:
    """The pairs of a source, whose captions are sentences or names of classes."""

    def __init__(self, source: Source, config: CLIPConfig, samples: Sequence[Sample]) -> None:
        self.source = source
        named = are_classnames([_without_picture(sample) for sample in samples])
        self.classnames = sorted({sample.captions[0] for sample in samples}) if named else []
        self.templates = config.templates if named else ("{}",)

    def hold_out(self, name: str, samples: Sequence[Sample]) -> HeldOutSet:
        """Make a held-out set of some of the samples."""
        pairs = [_without_picture(sample) for sample in samples]
        held_out = hold_out(name, pairs, self.templates[0], self.classnames)
        return replace(held_out, pictures=StoredPictures(self.source, samples))

    def captions_of(self, sample: Sample) -> list[str]:
        """Return the captions to train on; a class name is put into every template."""
        return [
            template.replace("{}", caption)
            for caption in sample.captions
            for template in self.templates
        ]

    def training_source(self, samples: Sequence[Sample]) -> PairSubset:
        """Return some of the samples as a source of pairs to train on."""
        return PairSubset(self.source, [sample.number for sample in samples], self.templates)


def _without_picture(sample: Sample) -> Pair:
    return Pair("", b"", sample.captions)
