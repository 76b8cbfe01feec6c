"""The CLIP score of a pair, the cosine of its picture and its text, and the best share of pairs."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import BoolArray, Float32Array, Int64Array
from twotower.errors import PictureError
from twotower.pairs.filters.columns import read_parquet, write_parquet
from twotower.pairs.tars import TarPairs

BATCH = 64  # samples
UNREADABLE = -2.0  # below every cosine


class PairEncoder(Protocol):
    """A model that embeds pictures and texts in one space, such as `twotower.load()`."""

    def encode_image(self, pictures: list[bytes]) -> Float32Array:
        """Return unit vectors [n, embed_dim]. Raises `PictureError`."""

    def encode_text(self, texts: list[str]) -> Float32Array:
        """Return unit vectors [n, embed_dim]."""


def write_scores(
    source: Path, features: Path, destination: Path, pairs: Int64Array, encoder: PairEncoder
) -> None:
    """Write the scores of the kept pairs of a tar.

    Args:
        features: the file of features of the tar.
        pairs: their rows in `features` [k].
    """
    import pyarrow as pa

    table = read_parquet(features, ["key", "caption"])
    keys = table["key"].take(pa.array(pairs)).to_pylist()
    captions = table["caption"].take(pa.array(pairs)).to_pylist()
    scores = np.zeros(0, np.float32)
    if keys:  # a tar without kept pairs may be empty or damaged
        with contextlib.closing(TarPairs([str(source)])) as tar:
            scores = score_pairs(tar, keys, captions, encoder)
    write_parquet(destination, pa.table({"row": pairs, "score": scores}))


def read_scores(path: Path) -> Float32Array:
    """Return the scores of a file of `write_scores` [k]."""
    scores: Float32Array = read_parquet(path, ["score"])["score"].to_numpy()
    return scores


def score_pairs(
    source: TarPairs, keys: Sequence[str], captions: Sequence[str], encoder: PairEncoder
) -> Float32Array:
    """Return the scores of pairs [k]; a picture with several texts is embedded once."""
    numbers = {source.key(number): number for number in range(len(source))}
    scores = np.full(len(keys), UNREADABLE, np.float32)
    distinct = list(dict.fromkeys(keys))
    positions: dict[str, list[int]] = {}
    for position, key in enumerate(keys):
        positions.setdefault(key, []).append(position)
    for start in range(0, len(distinct), BATCH):
        batch = distinct[start : start + BATCH]
        rows = [position for key in batch for position in positions[key]]
        with warnings.catch_warnings():  # of texts that are longer than the model's context
            warnings.simplefilter("ignore")
            text_embeds = encoder.encode_text([captions[row] for row in rows])
        pictures = [source[numbers[key]].picture for key in batch]
        image_embeds = _embed_pictures(pictures, encoder, text_embeds.shape[1])
        repeated = np.repeat(np.arange(len(batch)), [len(positions[key]) for key in batch])
        cosines = (image_embeds[repeated] * text_embeds).sum(axis=1)
        scores[rows] = np.where(np.isnan(cosines), UNREADABLE, cosines)
    return scores


def _embed_pictures(pictures: list[bytes], encoder: PairEncoder, width: int) -> Float32Array:
    """Embed pictures [n, width]; one that cannot be read becomes a row of NaN."""
    try:
        return encoder.encode_image(pictures)
    except PictureError:
        if len(pictures) == 1:
            return np.full((1, width), np.nan, np.float32)
    rows = [_embed_pictures([picture], encoder, width) for picture in pictures]
    return np.concatenate(rows)


def below_share(scores: Float32Array, ranks: NDArray[np.uint64], share: float) -> BoolArray:
    """Return False for the best `share` of pairs [n], rounded up, and True for the others."""
    order = np.lexsort((ranks, -scores))
    low = np.ones(len(scores), np.bool_)
    low[order[: int(np.ceil(share * len(scores)))]] = False
    return low
