"""How often the right one is found: captions to pictures and back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower.errors import BrokenPairError, EvaluationError, PairsError
from twotower.evaluate.embedding import (
    Result,
    Watch,
    configuration,
    embed_pictures,
    embed_texts,
    encode_ranks,
    unwatched,
)
from twotower.evaluate.intervals import bootstrap_shares
from twotower.evaluate.models import Model
from twotower.evaluate.published import published
from twotower.evaluate.registry import KnownSet, find_set, known_sets, set_title
from twotower.evaluate.set_readers import distinct
from twotower.inputs.pictures import Picture
from twotower.pairs.pair import Source
from twotower.pairs.sources import open_source

BLOCK = 2048  # pictures and captions of a block of scores: 16 MB, whatever the size of the set
MISTAKES = 24  # of the captions furthest from their picture, that are named
TIE = 1e-6  # scores nearer than this are equal: float32 products differ by less in another order


def recall_at_k(
    image_embeds: NDArray[np.float32],
    text_embeds: NDArray[np.float32],
    owners: NDArray[np.int64],
    k: int,
) -> tuple[float, float]:
    """Text to image and image to text, as shares of 1.

    It says nothing about scores: only about order, and only among these pictures, so figures of
    sets of other sizes must not be compared.

    Args:
        image_embeds: [I, embed_dim]. text_embeds: [T, embed_dim]. Both of unit length.
        owners: [T], the picture that each caption belongs to.
    """
    texts, images = retrieval_ranks(image_embeds, text_embeds, owners)
    return float((texts < k).mean()), float((images < k).mean())


def retrieval_ranks(
    image_embeds: NDArray[np.float32],
    text_embeds: NDArray[np.float32],
    owners: NDArray[np.int64],
    block: int = BLOCK,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many wrong ones come before the right one, 0 being the best.

    A picture is found by any one of its captions, so other captions of its own do not stand in the
    way. Ties count against: a wrong one with the same score comes first. Besides the embeds and the
    ranks, memory holds one block of scores.

    Args:
        image_embeds: [I, embed_dim]. text_embeds: [T, embed_dim]. Both of unit length.
        owners: [T], the picture that each caption belongs to.

    Returns:
        text to image [T], the rank of each caption's picture; image to text [I], the rank of each
        picture's best caption (a picture without captions is never found).
    """
    own = np.empty(len(text_embeds), np.float32)  # each caption's score with its own picture
    for rows in _blocks(len(text_embeds), block):
        own[rows] = (text_embeds[rows] * image_embeds[owners[rows]]).sum(axis=1)
    best = np.full(len(image_embeds), -np.inf, np.float32)
    with np.errstate(invalid="ignore"):  # NaN is dealt with below
        np.maximum.at(best, owners, own)

    text_ranks = np.zeros(len(text_embeds), np.int64)
    image_ranks = np.zeros(len(image_embeds), np.int64)
    for texts in _blocks(len(text_embeds), block):
        for images in _blocks(len(image_embeds), block):
            scores = text_embeds[texts] @ image_embeds[images].T  # [block, block]
            belongs = np.flatnonzero(
                (owners[texts] >= images.start) & (owners[texts] < images.stop)
            )
            for ranks, rows, axis, bar in (
                (text_ranks, texts, 1, own[texts, None]),
                (image_ranks, images, 0, best[images]),
            ):
                before = ~(scores < bar - TIE)  # this way round, NaN is never found
                before[belongs, owners[texts][belongs] - images.start] = False
                ranks[rows] += before.sum(axis=axis)
    return text_ranks, image_ranks


def _blocks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def open_captions(location: str | Path) -> Source:
    """Pictures with captions at a path, as for training (`twotower.pairs.sources.open_source`).

    Raises:
        PairsError: nothing is there. SetError: a known set's name, for how to obtain it.
    """
    try:
        return open_source(location)
    except PairsError:
        if str(location) in known_sets():
            raise EvaluationError(find_set(str(location)).how_to_obtain("retrieval")) from None
        raise


def source_keys(source: Source) -> list[str]:
    """The name of each pair in a result."""
    return distinct([source.key(number) for number in range(len(source))])


def evaluate_retrieval(
    model: Model,
    source: Source,
    known: KnownSet | None = None,
    limit: int | None = None,
    watch: Watch = unwatched,
) -> Result:
    """Find pictures by their captions and captions by their pictures.

    Args:
        known: the published set that this is. limit: only so many pictures, drawn at random.

    Returns:
        The result as JSON has it (docs/evaluation.md): `text_to_image` and `image_to_text`.
    """
    numbers = np.random.default_rng(0).permutation(len(source))[:limit]
    read = _Reading(source, np.sort(numbers))
    embedded = embed_pictures(model, read, len(numbers), watch)
    unreadable = read.broken + embedded.unreadable(read.keys)
    captions = [read.captions[number] for number in embedded.numbers]
    counts = np.array([len(said) for said in captions])
    owners = np.repeat(np.arange(len(captions)), counts)
    texts = [text for said in captions for text in said]
    text_embeds = embed_texts(model, texts, watch)
    text_ranks, image_ranks = retrieval_ranks(embedded.image_embeds, text_embeds, owners)
    keys = [read.keys[number] for number in embedded.numbers]
    whole = known.pictures if known else len(source)
    worst = np.argsort(-text_ranks, kind="stable")[:MISTAKES]
    first = (text_embeds[worst] @ embedded.image_embeds.T).argmax(axis=1)
    result = {
        "task": "retrieval",
        "set": {
            "name": source.name,
            "known_as": known.key if known else None,
            "title": set_title(source.name, known),
            "pictures": len(keys),
            "of": whole,
            "subset": len(keys) < whole,
            "captions": len(texts),
            "fingerprint": _fingerprint(keys, texts),
        },
        "text_to_image": _recalls(text_ranks, owners, counts),
        "image_to_text": _recalls(image_ranks, np.arange(len(keys)), np.ones(len(keys))),
    }
    return result | {
        "published": published(model.describe(), known, result),
        "unreadable": unreadable,
        "mistakes": [
            {
                "caption": texts[text],
                "picture": keys[owners[text]],
                "given": keys[given],
                "rank": int(text_ranks[text]) + 1,
            }
            for text, given in zip(worst, first, strict=True)
            if text_ranks[text]
        ],
        "outcomes": {
            "text_to_image": encode_ranks(text_ranks),
            "image_to_text": encode_ranks(image_ranks),
            "captions": counts.tolist(),
        },
        "configuration": configuration(model),
    }


class _Reading:
    """Pictures one after the other, their captions kept, broken pairs named and passed over."""

    def __init__(self, source: Source, numbers: NDArray[np.int64]) -> None:
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


def _recalls(
    ranks: NDArray[np.int64], owners: NDArray[np.int64], counts: NDArray[np.float64]
) -> Result:
    """Recall at 1, 5 and 10; the intervals draw pictures again, each with all its captions."""
    names = ("recall_at_1", "recall_at_5", "recall_at_10")
    hits = np.stack([ranks < k for k in (1, 5, 10)], axis=1).astype(np.float64)
    summed = np.zeros((len(counts), 3))
    np.add.at(summed, owners, hits)
    intervals = bootstrap_shares(summed, counts).tolist()
    return {
        **dict(zip(names, hits.mean(axis=0).tolist(), strict=True)),
        "n": len(ranks),
        "ci95": dict(zip(names, intervals, strict=True)),
    }


def _fingerprint(keys: list[str], texts: list[str]) -> str:
    digest = hashlib.sha256("\n".join([*keys, *texts]).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
