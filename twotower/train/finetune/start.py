"""The model that fine-tuning starts from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.encode.golden import fingerprint
from twotower.errors import BrokenPairError
from twotower.inputs.tokenizer import Tokenizer, load_tokenizer
from twotower.model.config import CLIPConfig
from twotower.model.weights import INT8, WEIGHTS_FILE, load_model, read_safetensors
from twotower.pairs.pair import Pair, Source
from twotower.pairs.sources import PartOfPairs, open_source
from twotower.train.embed_cache import EmbedCache, cache_of, sample_key
from twotower.train.finetune.held_out import (
    HeldOutSet,
    are_names,
    open_held_out,
)
from twotower.train.finetune.last_layers import (
    image_features,
    text_features,
    without_heads,
)

MOST_OUTSIDE = 1000  # pairs of the user's own outside set that are looked at
EPOCHS = 5
BACKWARD = 2.5  # of a step beside its forward pass, in forward passes

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sample:
    """A readable pair, without its picture."""

    number: int
    key: bytes
    captions: tuple[str, ...]


class Pictures(Sequence[bytes]):
    """The stored pictures of samples, read when they are asked for."""

    def __init__(self, source: Source, samples: Sequence[Sample]) -> None:
        self.source, self.samples = source, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        """The picture of one of them."""
        return self.source[self.samples[index].number].picture


class Questions:
    """The user's pairs as exams and as something to learn from."""

    def __init__(self, source: Source, config: CLIPConfig, samples: Sequence[Sample]) -> None:
        self.source = source
        self.named = are_names([Pair("", b"", one.captions) for one in samples])
        self.names = sorted({one.captions[0] for one in samples}) if self.named else []
        self.templates = config.templates if self.named else ("{}",)

    def exam(self, name: str, samples: Sequence[Sample]) -> HeldOutSet:
        """What some of the samples ask."""
        pairs = [Pair("", b"", one.captions) for one in samples]
        exam = open_held_out(name, pairs, self.templates[0], self.names)
        return replace(exam, pictures=Pictures(self.source, samples))

    def captions(self, sample: Sample) -> list[str]:
        """What a picture is learned with."""
        return [t.replace("{}", one) for one in sample.captions for t in self.templates]

    def to_learn(self, samples: Sequence[Sample]) -> PartOfPairs:
        """The pairs of `samples`."""
        return PartOfPairs(self.source, [one.number for one in samples], self.templates)

    @staticmethod
    def of_outside(location: str | Path, start: FrozenModel, say: Say) -> HeldOutSet:
        """The exam that the user's outside set makes, from up to `MOST_OUTSIDE` of its pairs."""
        source = open_source(location)
        step = max(1, len(source) // MOST_OUTSIDE)
        samples, _ = start.read(source, range(0, len(source), step)[:MOST_OUTSIDE], say)
        return Questions(source, start.config, samples).exam(source.name, samples)


def _read(source: Source, number: int) -> Sample | str:
    """A pair, or why it cannot be used."""
    try:
        pair = source[number]
    except BrokenPairError as error:
        return f"{source.key(number)}: {error}"
    return Sample(number, sample_key(pair.picture), pair.captions)


# --- the model to start from ---------------------------------------------------------------------


class FrozenModel:
    """The model as it is: towers that are looked through once, and the heads that may change."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.model = load_model(directory)
        self.config = self.model.config
        self.tokenizer: Tokenizer = load_tokenizer(self.config.tokenizer, directory)
        self.int8 = any(name.endswith(INT8) for name in read_safetensors(directory / WEIGHTS_FILE))
        key = fingerprint(directory)
        self.seen: EmbedCache = cache_of(key, "image-features")
        self.heard: EmbedCache = cache_of(key, "text-features")

    def read(
        self, source: Source, numbers: Sequence[int], say: Say
    ) -> tuple[list[Sample], list[str]]:
        """The pairs of `numbers` that can be used, and why the others cannot."""
        found = [_read(source, number) for number in numbers]
        samples = [one for one in found if isinstance(one, Sample)]
        broken = [one for one in found if isinstance(one, str)]
        if not samples:
            return [], broken
        features = self.image_features(Pictures(source, samples), [one.key for one in samples], say)
        good = np.isfinite(features[:, 0])
        broken += [
            f"{source.key(one.number)}: cannot be decoded"
            for one, fine in zip(samples, good, strict=True)
            if not fine
        ]
        return [one for one, fine in zip(samples, good, strict=True) if fine], broken

    def image_features(
        self, pictures: Sequence[bytes], keys: Sequence[bytes], say: Say = lambda text: None
    ) -> NDArray[np.float32]:
        """What the head of the picture tower is given: [n, width]."""

        def compute(chosen: list[int]) -> NDArray[np.float32]:
            say(f"looking at {len(chosen)} pictures")
            with without_heads(self.model):
                return image_features(self.model, (pictures[i] for i in chosen))

        self.seen.fill(keys, compute)
        return self.seen[keys]

    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """What the head of the text tower is given: [n, width]."""
        keys = [sample_key(text) for text in texts]

        def compute(chosen: list[int]) -> NDArray[np.float32]:
            with without_heads(self.model):
                return text_features(self.model, [texts[i] for i in chosen], self.tokenizer)

        self.heard.fill(keys, compute)
        return self.heard[keys]

    def seconds_to_tune(self, domain: Questions, learn: Sequence[Sample]) -> float:
        """From one forward pass of a few pairs."""
        few = learn[:8]
        pictures = list(Pictures(domain.source, few))
        begun = time.perf_counter()
        image_features(self.model, pictures)
        text_features(self.model, [domain.captions(one)[0] for one in few], self.tokenizer)
        forward = (time.perf_counter() - begun) / len(few)
        return (1 + BACKWARD) * forward * len(learn) * EPOCHS
