"""The model before fine-tuning, and the cached vectors of its towers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from twotower.arrays import Float32Array
from twotower.encode.encoder import Encoder
from twotower.encode.golden import fingerprint
from twotower.errors import BrokenPairError
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.clip import CLIP
from twotower.model.config import CLIPConfig, read_config
from twotower.model.weight_files import INT8
from twotower.model.weights import load_model, read_stored
from twotower.pairs.pair import Source
from twotower.progress import Progress, ReportProgress, ignore_progress
from twotower.train.embed_cache import open_cache, sample_key
from twotower.train.finetune.image_features import image_features
from twotower.train.finetune.pair_set import PairSet, Sample, StoredPictures, read_sample
from twotower.train.finetune.stored_embeds import add_stored_embeds
from twotower.train.finetune.text_parts import (
    TextParts,
    compute_text_parts,
    find_text_head,
    text_features,
)

BACKWARD = 2.5  # time of a training step beyond its forward pass, in forward passes
TIMED_PAIRS = 8  # from which the time of a training is estimated
BLOCK = 16  # pictures between two writes to the cache, which are lost if the run is stopped


class FrozenModel:
    """A model directory whose towers do not change: vectors are computed once and cached."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.encoder = Encoder(directory)
        stored_config = read_config(directory)
        self.text_directory = stored_config.text_directory(directory)
        self.tokenizer = load_tokenizer(stored_config.tokenizer, self.text_directory)
        key = fingerprint(directory)
        self._image_cache = open_cache(key, "image-embeds")
        self._text_cache = open_cache(key, "text-parts")

    @cached_property
    def model(self) -> CLIP:
        """The torch model."""
        return load_model(self.directory)

    @property
    def config(self) -> CLIPConfig:
        """The configuration of a directory that holds both towers."""
        return self.model.config

    @cached_property
    def int8(self) -> bool:
        """True if some weights are stored in int8."""
        stored = read_stored(read_config(self.directory), self.directory)
        return any(name.endswith(INT8) for name in stored)

    @property
    def has_text_head(self) -> bool:
        """True if the text tower ends with a linear map."""
        return find_text_head(self.model) is not None

    def add_stored_embeds(self) -> None:
        """Add the vectors of the package's outside set to the cache, if the package has them."""
        add_stored_embeds(self._image_cache, self.directory)

    def read(
        self, source: Source, numbers: Sequence[int], progress: ReportProgress = ignore_progress
    ) -> tuple[list[Sample], list[str]]:
        """Read pairs and embed their pictures.

        Returns:
            The readable samples, and a line about each unreadable pair.
        """
        samples, broken = [], []
        for number in numbers:
            try:
                samples.append(read_sample(source, number))
            except BrokenPairError as error:
                broken.append(f"{source.key(number)}: {error}")
        if not samples:
            return [], broken
        embeds = self.image_embeds(StoredPictures(source, samples), progress, source.name)
        decoded = np.isfinite(embeds[:, 0])
        broken += [
            f"{source.key(samples[row].number)}: cannot be decoded"
            for row in np.flatnonzero(~decoded)
        ]
        return [samples[row] for row in np.flatnonzero(decoded)], broken

    def image_embeds(
        self,
        pictures: Sequence[bytes],
        progress: ReportProgress = ignore_progress,
        name: str = "pictures",
    ) -> Float32Array:
        """Return the image_embeds [n, embed_dim]; a row of NaN for an unreadable picture.

        Args:
            name: of the pictures, for `progress`.
        """
        keys = [sample_key(picture) for picture in pictures]
        if self._image_cache.holds(keys):
            return self._image_cache[keys]
        stage, started = f"Embedding {name}", time.monotonic()
        for start in range(0, len(keys), BLOCK):
            progress(Progress(start, len(keys), stage=stage))
            block = range(start, min(start + BLOCK, len(keys)))

            def compute(rows: Sequence[int], start: int = start) -> Float32Array:
                return self._compute_images([pictures[start + row] for row in rows])

            self._image_cache.fill([keys[row] for row in block], compute)
            seconds = (time.monotonic() - started) * (len(keys) - block.stop) / block.stop
            stage = f"Embedding {name}, about {duration(seconds)} left"
        progress(Progress(len(keys), len(keys), stage=f"Embedding {name}"))
        return self._image_cache[keys]

    def _compute_images(self, pictures: Sequence[bytes]) -> Float32Array:
        unreadable = np.full(self.encoder.config.embed_dim, np.nan, np.float32)
        return np.stack(
            [
                unreadable if row.image_embeds is None else row.image_embeds
                for row in self.encoder.stream(pictures)
            ]
        )

    def text_parts(self, texts: Sequence[str]) -> TextParts:
        """Return the parts of the vectors of texts."""
        keys = [sample_key(text) for text in texts]

        def compute(rows: list[int]) -> Float32Array:
            return compute_text_parts(
                self.model, [texts[row] for row in rows], self.tokenizer
            ).rows()

        self._text_cache.fill(keys, compute)
        return TextParts.from_rows(self._text_cache[keys], self.config.embed_dim)

    def seconds_to_train(
        self, pairs: PairSet, samples: Sequence[Sample], epochs: int, scored: int
    ) -> float:
        """Estimate the time of training both towers, from one forward pass of a few pairs.

        Args:
            scored: pictures that are embedded to score the candidates, in all.
        """
        timed = samples[:TIMED_PAIRS]
        pictures = list(StoredPictures(pairs.source, timed))
        image_features(self.model, pictures[:1])  # the first pass allocates
        started = time.perf_counter()
        image_features(self.model, pictures)
        text_features(
            self.model, [pairs.captions_of(sample)[0] for sample in timed], self.tokenizer
        )
        forward = (time.perf_counter() - started) / len(timed)
        return forward * ((1 + BACKWARD) * len(samples) * epochs + scored)


def duration(seconds: float) -> str:
    """Return a duration as text, in seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
