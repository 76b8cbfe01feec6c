"""The model before fine-tuning, and the cached features of its towers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from twotower.arrays import Float32Array
from twotower.encode.golden import fingerprint
from twotower.errors import BrokenPairError
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.config import read_config
from twotower.model.weight_files import INT8
from twotower.model.weights import load_model, read_stored
from twotower.pairs.pair import Source
from twotower.progress import ReportProgress, ignore_progress
from twotower.train.embed_cache import open_cache, sample_key
from twotower.train.finetune.last_layers import image_features, text_features, without_heads
from twotower.train.finetune.pair_set import PairSet, Sample, StoredPictures, read_sample

BACKWARD = 2.5  # time of a training step beyond its forward pass, in forward passes
TIMED_PAIRS = 8  # from which the time of a training is estimated


class FrozenModel:
    """A model directory whose towers do not change: features are computed once and cached.

    Features are the inputs of the last linear maps of the towers.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.model = load_model(directory)
        self.config = self.model.config
        stored_config = read_config(directory)
        self.text_directory = stored_config.text_directory(directory)
        self.tokenizer = load_tokenizer(self.config.tokenizer, self.text_directory)
        self.int8 = any(name.endswith(INT8) for name in read_stored(stored_config, directory))
        key = fingerprint(directory)
        self._image_cache = open_cache(key, "image-features")
        self._text_cache = open_cache(key, "text-features")

    def read(
        self, source: Source, numbers: Sequence[int], progress: ReportProgress = ignore_progress
    ) -> tuple[list[Sample], list[str]]:
        """Read pairs and compute the features of their pictures.

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
        features = self.image_features(StoredPictures(source, samples), _keys(samples), progress)
        decoded = np.isfinite(features[:, 0])
        broken += [
            f"{source.key(samples[row].number)}: cannot be decoded"
            for row in np.flatnonzero(~decoded)
        ]
        return [samples[row] for row in np.flatnonzero(decoded)], broken

    def image_features(
        self,
        pictures: Sequence[bytes],
        keys: Sequence[bytes],
        progress: ReportProgress = ignore_progress,
    ) -> Float32Array:
        """Return the inputs of the image tower's last linear map [n, width].

        Args:
            keys: `sample_key` of each picture.
        """

        def compute(rows: list[int]) -> Float32Array:
            with without_heads(self.model):
                return image_features(self.model, (pictures[row] for row in rows))

        self._image_cache.fill(keys, compute, progress, stage="Computing features of pictures")
        return self._image_cache[keys]

    def text_features(self, texts: Sequence[str]) -> Float32Array:
        """Return the inputs of the text tower's last linear map [n, width]."""
        keys = [sample_key(text) for text in texts]

        def compute(rows: list[int]) -> Float32Array:
            with without_heads(self.model):
                return text_features(self.model, [texts[row] for row in rows], self.tokenizer)

        self._text_cache.fill(keys, compute)
        return self._text_cache[keys]

    def seconds_to_train(self, pairs: PairSet, samples: Sequence[Sample], epochs: int) -> float:
        """Estimate the time of training both towers, from one forward pass of a few pairs."""
        timed = samples[:TIMED_PAIRS]
        pictures = list(StoredPictures(pairs.source, timed))
        started = time.perf_counter()
        image_features(self.model, pictures)
        text_features(
            self.model, [pairs.captions_of(sample)[0] for sample in timed], self.tokenizer
        )
        forward = (time.perf_counter() - started) / len(timed)
        return (1 + BACKWARD) * forward * len(samples) * epochs


def _keys(samples: Sequence[Sample]) -> list[bytes]:
    return [sample.key for sample in samples]
