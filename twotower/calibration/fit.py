"""Fit the calibration of a model on pictures with captions (`twotower calibrate`)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from twotower.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from twotower.calibration.background import (
    LARGEST,
    Background,
    Curve,
    background_texts,
    measure_background,
    no_background,
)
from twotower.calibration.calibration import Calibration
from twotower.calibration.captions import (
    Captions,
    LabelledQuery,
    absent_queries,
    phrase_queries,
    picture_queries,
    word_queries,
)
from twotower.encode.golden import golden_hash
from twotower.errors import BrokenPairError, CalibrationError
from twotower.inputs.pictures import open_picture
from twotower.progress import Progress, ReportProgress, ignore_progress

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder
    from twotower.pairs.pair import Source

SIZES = (50, 150, 500, 1500, LARGEST)  # of the libraries that are drawn from the pictures
MIN_LIBRARY = 30  # pictures in such a library
UNMATCHED_SHARE = 1 / 3  # of the searches have no match in the library
TOP_K = 50  # best scores of a search that the curve is fitted on: about what a person looks at
SEARCHES = 2000
REJECTED_SHARE = 0.9  # of the searches without a match find nothing at the cut-off
PICTURE_QUERIES = 400
MIN_PICTURES = 200  # below which a fit means nothing
COPY_SAMPLES = 200  # pictures of which altered copies are made
COPY_RECALL = 0.95  # share of the altered copies that are near-duplicates
FALSE_COPY_SHARE = 0.001  # share of the pictures that may have a near-duplicate by mistake


@dataclass(frozen=True)
class Pictures:
    """Pictures of one source: image_embeds [n, embed_dim], and the captions of each."""

    image_embeds: Float32Array
    captions: Captions


@dataclass(frozen=True)
class Search:
    """One search in a library drawn from a source.

    Attributes:
        query: the number of the query.
        library: numbers of the pictures [n].
        matches: [n].
    """

    query: int
    library: Int64Array
    matches: BoolArray


@dataclass(frozen=True)
class EmbeddedSource:
    """The readable pictures of a source of pairs.

    Attributes:
        samples: the first `COPY_SAMPLES` pictures, encoded.
        errors: a message for each broken pair and unreadable picture.
    """

    pictures: Pictures
    samples: list[bytes]
    errors: list[str]


_Searches: TypeAlias = tuple[Pictures, Sequence[LabelledQuery], Float32Array]  # and their embeds


def embed_source(
    model: Encoder, source: Source, report: ReportProgress = ignore_progress
) -> EmbeddedSource:
    """Embed the pictures of a source of pairs, passing over what cannot be read."""
    keys: list[str] = []
    captions: list[tuple[str, ...]] = []
    samples: list[bytes] = []
    errors: list[str] = []

    def read_pictures() -> Iterator[bytes]:
        for number in range(len(source)):
            try:
                pair = source[number]
            except BrokenPairError as error:
                errors.append(str(error))
                continue
            keys.append(pair.key)
            captions.append(pair.captions)
            if len(samples) < COPY_SAMPLES:
                samples.append(pair.picture)
            yield pair.picture

    embeds, readable = [], []
    for number, encoded in enumerate(model.stream(read_pictures())):
        if encoded.error is not None:
            reason = f"{encoded.error.reason}; {encoded.error.remedy}"
            errors.append(f"{source.name}: {keys[number]}: {reason}")
        else:
            assert encoded.image_embeds is not None  # without an error there are embeds
            embeds.append(encoded.image_embeds)
            readable.append(number)
        report(Progress(number + 1, len(source), len(errors), f"Embedding {source.name}"))
    pictures = Pictures(
        np.stack(embeds) if embeds else np.zeros((0, model.config.embed_dim), np.float32),
        [captions[number] for number in readable],
    )
    return EmbeddedSource(
        pictures, [samples[number] for number in readable if number < len(samples)], errors
    )


def fit(
    model: Encoder, sources: Sequence[Pictures], samples: Sequence[bytes], seed: int = 0
) -> Calibration:
    """Fit the calibration of a model, without its curve of tags (`tagging/fit_tags.py`).

    Args:
        sources: pictures with captions. Queries of one source are not searched in another.
        samples: encoded pictures, of which altered copies are made.

    Raises:
        CalibrationError: there are too few pictures or captions.
    """
    image_embeds = np.concatenate([source.image_embeds for source in sources])
    if len(image_embeds) < MIN_PICTURES:
        raise CalibrationError(
            "PAIRS",
            f"{len(image_embeds)} pictures are too few to calibrate on",
            f"give {MIN_PICTURES} or more",
        )
    random = np.random.default_rng(seed)
    texts = background_texts()
    text_background = measure_background(image_embeds, model.encode_text(texts))
    text_searches: list[_Searches] = []
    image_searches: list[_Searches] = []
    for source in sources:
        queries = draw_queries(source.captions, texts, random)
        if queries:
            embeds = model.encode_text([query.text for query in queries])
            text_searches.append((source, queries, embeds))
        queries = picture_queries(source.captions, PICTURE_QUERIES, random)
        if queries:
            embeds = source.image_embeds[[int(query.text) for query in queries]]
            image_searches.append((source, queries, embeds))
    return Calibration(
        text=fit_curve(text_background, text_searches, random),
        image=fit_curve(no_background(image_embeds.shape[1]), image_searches, random, (0,)),
        duplicate=copy_cosine(model, samples, image_embeds),
        model=golden_hash(model.directory),
    )


def draw_queries(
    captions: Captions, texts: Sequence[str], random: np.random.Generator
) -> list[LabelledQuery]:
    """Return words, as many phrases, and those of `texts` that no caption mentions."""
    words = word_queries(captions)
    return words + phrase_queries(captions, len(words), random) + absent_queries(captions, texts)


def draw_searches(
    queries: Sequence[LabelledQuery],
    pool: Int64Array,
    count: int,
    random: np.random.Generator,
    sizes: Sequence[int] = SIZES,
) -> Iterator[Search]:
    """Draw up to `count` searches with known answers, in libraries of many sizes.

    Words and phrases are equally frequent, and a tenth of the queries is absent. `UNMATCHED_SHARE`
    of all searches have no match: absent queries, and others in a library without their matches.
    Pictures that may match are left out.

    Args:
        pool: numbers of the pictures to draw libraries from.
    """
    by_kind = {
        kind: [i for i, query in enumerate(queries) if query.kind == kind]
        for kind in ("word", "phrase", "absent")
    }
    inside = np.zeros(int(pool.max()) + 1, bool)
    inside[pool] = True
    for number in range(count):
        unmatched = random.random() < UNMATCHED_SHARE
        kind = ("word", "phrase")[number % 2]
        if by_kind["absent"] and unmatched and random.random() < 0.3:
            kind = "absent"
        query = int(random.choice(by_kind[kind] or by_kind["word"] or by_kind["phrase"]))
        search = _draw_library(query, queries[query], inside, unmatched, random, sizes)
        if search is not None:
            yield search


def _draw_library(
    number: int,
    query: LabelledQuery,
    inside: BoolArray,
    unmatched: bool,
    random: np.random.Generator,
    sizes: Sequence[int],
) -> Search | None:
    """Draw a library for a query; None if the pictures do not suffice.

    Args:
        inside: [pictures], True for those to draw from.
        unmatched: draw a library without matches.
    """
    matching, unknown = (
        ids[inside[ids]]
        for ids in (
            query.matching[query.matching < len(inside)],
            query.unknown[query.unknown < len(inside)],
        )
    )
    possible = inside.copy()
    possible[matching] = possible[unknown] = False
    differing = np.flatnonzero(possible)
    share = len(matching) / max(len(matching) + len(differing), 1)
    size = min(int(random.choice(sizes)), len(differing))
    if size < MIN_LIBRARY or (not unmatched and not len(matching)):
        return None
    library = random.choice(differing, size, replace=False)
    matches = np.zeros(size, bool)
    if not unmatched:
        count = max(1, int(random.binomial(size, share)))
        drawn = random.choice(matching, min(count, len(matching)), replace=False)
        library = np.concatenate([drawn, library[: max(size - len(drawn), 1)]])
        matches = np.arange(len(library)) < len(drawn)
    return Search(number, library, matches)


def fit_curve(
    background: Background,
    sources: Sequence[_Searches],
    random: np.random.Generator,
    columns: Sequence[int] = (0, 1, 2),
) -> Curve:
    """Fit the curve and the cut-off on queries with known answers.

    Args:
        sources: pictures, queries, and the embeds of the queries [q, embed_dim].
        columns: the features to use; the weights of the others are 0.

    Raises:
        CalibrationError: there are no queries.
    """
    features, answers = [], []
    total = sum(len(source.image_embeds) for source, _, _ in sources)
    for source, queries, embeds in sources:
        pool = np.arange(len(source.image_embeds))
        share = round(SEARCHES * len(pool) / total)
        for search in draw_searches(queries, pool, share, random):
            x, y = best_features(background, source.image_embeds, embeds[search.query], search)
            features.append(x)
            answers.append(y)
    if not features or not any(y.any() for y in answers):
        raise CalibrationError(
            "PAIRS", "the captions give no queries", "give more pictures with captions"
        )
    weights = np.zeros(4)
    weights[[*columns, 3]] = fit_logistic(
        np.concatenate(features)[:, columns], np.concatenate(answers)
    )
    best_unmatched = [
        float((x @ weights[:-1] + weights[-1]).max())
        for x, y in zip(features, answers, strict=True)
        if not y.any()
    ]
    cutoff = 0.5
    if best_unmatched:
        cutoff = 1 / (1 + np.exp(-np.quantile(best_unmatched, REJECTED_SHARE)))
    return Curve(background, tuple(weights.tolist()), float(cutoff))


def best_features(
    background: Background, image_embeds: Float32Array, query: Float32Array, search: Search
) -> tuple[Float64Array, BoolArray]:
    """Return the features [k, 3] of the `TOP_K` best scores of a search, and the matches [k]."""
    best = np.argsort(-(image_embeds[search.library] @ query))[:TOP_K]
    nearest = image_embeds[search.library[best]]
    return background.features(query, nearest, len(search.library)), search.matches[best]


def fit_logistic(features: Float64Array, answers: BoolArray) -> Float64Array:
    """Fit a logistic regression by Newton's method.

    Returns:
        Weights of the features [n, k], and a constant: [k + 1].
    """
    mean, sd = features.mean(axis=0), features.std(axis=0) + 1e-9
    x = np.column_stack([(features - mean) / sd, np.ones(len(features))])
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-(x @ weights)))
        curvature = (x * (p * (1 - p))[:, None]).T @ x + 1e-3 * np.eye(len(weights))
        step = np.linalg.solve(curvature, x.T @ (answers - p) - 1e-3 * weights)
        weights += step
        if np.abs(step).max() < 1e-9:
            break
    scaled = weights[:-1] / sd
    return np.append(scaled, weights[-1] - scaled @ mean)


def copy_cosine(model: Encoder, samples: Sequence[bytes], image_embeds: Float32Array) -> float:
    """Return the cosine from which two pictures are near-duplicates.

    `COPY_RECALL` of the altered copies reach it, unless more than `FALSE_COPY_SHARE` of the
    pictures would then have a near-duplicate among the others.
    """
    copies = model.encode_image(altered_copies(samples))
    of_copies = (model.encode_image(samples) * copies).sum(axis=1)
    nearest = []
    for start in range(0, len(image_embeds), 1024):
        cosines = image_embeds[start : start + 1024] @ image_embeds.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -1  # itself
        nearest.append(cosines.max(axis=1))
    lower_limit = np.quantile(np.concatenate(nearest), 1 - FALSE_COPY_SHARE)
    return float(max(np.quantile(of_copies, 1 - COPY_RECALL), lower_limit))


def altered_copies(pictures: Iterable[bytes]) -> list[bytes]:
    """Crop pictures by a twentieth, scale them to three quarters, and encode poor JPEGs."""
    copies = []
    for picture in pictures:
        image = open_picture(picture).convert("RGB")
        edge = min(image.size) // 40
        image = image.crop((edge, edge, image.width - edge, image.height - edge))
        image = image.resize(
            (3 * image.width // 4, 3 * image.height // 4), Image.Resampling.BICUBIC
        )
        file = io.BytesIO()
        image.save(file, "JPEG", quality=60)
        copies.append(file.getvalue())
    return copies
