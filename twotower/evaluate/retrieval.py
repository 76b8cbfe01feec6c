"""Retrieve pictures by their captions and captions by their pictures: recall at k."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from twotower.arrays import Float32Array, Float64Array, Int64Array
from twotower.errors import BrokenPairError, PairsError
from twotower.evaluate.embedding import embed_pictures, embed_texts
from twotower.evaluate.intervals import bootstrap_shares
from twotower.evaluate.models import Model
from twotower.evaluate.published import published_figures
from twotower.evaluate.registry import PublicSet, find_set, public_sets, set_title
from twotower.evaluate.results import Result, configuration, encode_ranks
from twotower.evaluate.set_readers import unique_keys
from twotower.inputs.pictures import Picture
from twotower.pairs.pair import Source
from twotower.pairs.sources import open_source
from twotower.progress import ReportProgress, ignore_progress

BLOCK = 2048  # pictures and captions of a block of scores, which takes 16 MB
MISTAKES = 24  # reported captions, those with the worst ranks
TIE = 1e-6  # closer scores are equal: float32 products differ by less in another order


# --- ranks ---------------------------------------------------------------------------------------


def recall_at_k(
    image_embeds: Float32Array, text_embeds: Float32Array, owners: Int64Array, k: int
) -> tuple[float, float]:
    """Return recall at k of text to image, and of image to text, as shares of 1.

    Recall depends on the number of pictures and captions: do not compare it between sets of
    different sizes.

    Args:
        image_embeds: [I, embed_dim], of unit length.
        text_embeds: [T, embed_dim], of unit length.
        owners: [T], the picture that each caption belongs to.
    """
    text_ranks, image_ranks = retrieval_ranks(image_embeds, text_embeds, owners)
    return float((text_ranks < k).mean()), float((image_ranks < k).mean())


def retrieval_ranks(
    image_embeds: Float32Array, text_embeds: Float32Array, owners: Int64Array, block: int = BLOCK
) -> tuple[Int64Array, Int64Array]:
    """Count the wrong items that score at least as high as the correct one; 0 is a hit.

    For a picture, its best caption is the correct one, and its other captions are not counted. Ties
    count as errors. Besides embeds and ranks, memory holds one block of scores.

    Args:
        image_embeds: [I, embed_dim], of unit length.
        text_embeds: [T, embed_dim], of unit length.
        owners: [T], the picture that each caption belongs to.

    Returns:
        The rank of each caption's picture [T], and the rank of each picture's best caption [I]. A
        picture without captions ranks below all of them.
    """
    own_scores = np.empty(len(text_embeds), np.float32)  # of each caption and its own picture
    for rows in _blocks(len(text_embeds), block):
        own_scores[rows] = (text_embeds[rows] * image_embeds[owners[rows]]).sum(axis=1)
    best = np.full(len(image_embeds), -np.inf, np.float32)
    with np.errstate(invalid="ignore"):  # NaN is handled below
        np.maximum.at(best, owners, own_scores)

    text_ranks = np.zeros(len(text_embeds), np.int64)
    image_ranks = np.zeros(len(image_embeds), np.int64)
    for texts in _blocks(len(text_embeds), block):
        for images in _blocks(len(image_embeds), block):
            scores = text_embeds[texts] @ image_embeds[images].T  # [block, block]
            pairs = np.flatnonzero((owners[texts] >= images.start) & (owners[texts] < images.stop))
            for ranks, rows, axis, threshold in (
                (text_ranks, texts, 1, own_scores[texts, None]),
                (image_ranks, images, 0, best[images]),
            ):
                ahead = ~(scores < threshold - TIE)  # not `>=`, so that NaN counts as an error
                ahead[pairs, owners[texts][pairs] - images.start] = False
                ranks[rows] += ahead.sum(axis=axis)
    return text_ranks, image_ranks


def _blocks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


# --- the evaluation ------------------------------------------------------------------------------


def open_captions(location: str | Path) -> Source:
    """Open pictures with captions, as for training (`twotower.pairs.sources.open_source`).

    Raises:
        PairsError: nothing is there.
        EvaluationError: `location` is the name of a public set.
    """
    try:
        return open_source(location)
    except PairsError:
        if str(location) in public_sets():
            raise find_set(str(location)).not_shipped("retrieval") from None
        raise


def source_keys(source: Source) -> list[str]:
    """Return the name of each pair in a result."""
    return unique_keys([source.key(number) for number in range(len(source))])


def evaluate_retrieval(
    model: Model,
    source: Source,
    public_set: PublicSet | None = None,
    limit: int | None = None,
    report: ReportProgress = ignore_progress,
) -> Result:
    """Retrieve pictures by their captions, and captions by their pictures.

    Args:
        public_set: the published set that this is.
        limit: number of pictures, drawn at random; by default, all.

    Returns:
        The result as it is printed as JSON (docs/evaluation.md): `text_to_image` and
        `image_to_text`.

    Raises:
        EvaluationError: no picture can be read.
    """
    numbers = np.random.default_rng(0).permutation(len(source))[:limit]
    reader = _PairReader(source, np.sort(numbers))
    embedded = embed_pictures(model, reader, source.name, len(numbers), report)
    keys = [reader.keys[number] for number in embedded.numbers]
    captions = [reader.captions[number] for number in embedded.numbers]
    counts = np.array([len(texts) for texts in captions])
    owners = np.repeat(np.arange(len(captions)), counts)
    texts = [text for texts in captions for text in texts]
    text_embeds = embed_texts(model, texts, report)
    text_ranks, image_ranks = retrieval_ranks(embedded.image_embeds, text_embeds, owners)
    result = {
        "task": "retrieval",
        "set": _describe_pairs(source, public_set, keys, texts),
        "text_to_image": _recalls(text_ranks, owners, counts),
        "image_to_text": _recalls(image_ranks, np.arange(len(keys)), np.ones(len(keys))),
    }
    worst = np.argsort(-text_ranks, kind="stable")[:MISTAKES]
    retrieved = (text_embeds[worst] @ embedded.image_embeds.T).argmax(axis=1)
    mistakes = [
        {
            "caption": texts[text],
            "picture": keys[owners[text]],
            "given": keys[image],
            "rank": int(text_ranks[text]) + 1,
        }
        for text, image in zip(worst, retrieved, strict=True)
        if text_ranks[text]
    ]
    return result | {
        "published": published_figures(model.describe(), public_set, result),
        "unreadable": reader.broken + embedded.unreadable(reader.keys),
        "mistakes": mistakes,
        "outcomes": {
            "text_to_image": encode_ranks(text_ranks),
            "image_to_text": encode_ranks(image_ranks),
            "captions": counts.tolist(),
        },
        "configuration": configuration(model),
    }


class _PairReader:
    """Yield the pictures of pairs; collect their captions and the messages of broken pairs."""

    def __init__(self, source: Source, numbers: Int64Array) -> None:
        self.source, self.numbers = source, numbers
        self.names = source_keys(source)
        self.keys: list[str] = []
        self.captions: list[tuple[str, ...]] = []
        self.broken: list[str] = []

    def __iter__(self) -> Iterator[Picture]:
        for number in self.numbers.tolist():
            try:
                pair = self.source[number]
            except BrokenPairError as error:
                self.broken.append(str(error))
                continue
            self.keys.append(self.names[number])
            self.captions.append(pair.captions)
            yield pair.picture


def _describe_pairs(
    source: Source, public_set: PublicSet | None, keys: Sequence[str], texts: Sequence[str]
) -> Result:
    full_size = public_set.pictures if public_set else len(source)
    digest = hashlib.sha256("\n".join([*keys, *texts]).encode("utf-8", "surrogateescape"))
    return {
        "name": source.name,
        "known_as": public_set.key if public_set else None,
        "title": set_title(source.name, public_set),
        "pictures": len(keys),
        "of": full_size,
        "subset": len(keys) < full_size,
        "captions": len(texts),
        "fingerprint": digest.hexdigest()[:16],
    }


def _recalls(ranks: Int64Array, owners: Int64Array, counts: Float64Array) -> Result:
    """Return recall at 1, 5 and 10; intervals resample pictures, each with all its captions."""
    names = ("recall_at_1", "recall_at_5", "recall_at_10")
    hits = np.stack([ranks < k for k in (1, 5, 10)], axis=1).astype(np.float64)
    hits_per_picture = np.zeros((len(counts), 3))
    np.add.at(hits_per_picture, owners, hits)
    intervals = bootstrap_shares(hits_per_picture, counts).tolist()
    return {
        **dict(zip(names, hits.mean(axis=0).tolist(), strict=True)),
        "n": len(ranks),
        "ci95": dict(zip(names, intervals, strict=True)),
    }
