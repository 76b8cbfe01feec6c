"""Fit a model's calibration on pictures with captions (`twotower calibrate`)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twotower.arrays import Float32Array, Int64Array
from twotower.calibration.background import (
    LARGEST,
    Background,
    background_texts,
    measure_background,
    no_background,
)
from twotower.calibration.calibration import Calibration, Curve
from twotower.calibration.captions import (
    Captions,
    LabelledQuery,
    absent_queries,
    phrase_queries,
    picture_queries,
    word_queries,
)
from twotower.encode.golden import golden_hash
from twotower.errors import CalibrationError
from twotower.inputs.pictures import open_picture

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder

SIZES = (50, 150, 500, 1500, LARGEST)  # of the libraries that are drawn from the pictures
SMALLEST = 30  # library that is worth a search
WITHOUT = 1 / 3  # the share of searches for something that is not there
SHOWN = 50  # best scores of a search that the curve is fitted on: what a person gets to see
SEARCHES = 2000
ABSENT_WEIGHT = 0.9  # how often the cut-off answers "nothing" to a search for what is not there
PICTURE_QUERIES = 400
FEWEST = 200  # pictures, below which a fit means nothing
COPIES = 200  # pictures that are altered, to learn how alike copies are
COPIES_FOUND = 0.95
TAKEN_FOR_COPIES = 0.001


@dataclass(frozen=True)
class Pictures:
    """One source of pictures: image_embeds [n, embed_dim] and what is said of each."""

    image_embeds: Float32Array
    captions: Captions


@dataclass(frozen=True)
class Search:
    """One search in a library drawn from a source: `library` [n] and whether each matches."""

    query: int
    library: Int64Array
    matches: NDArray[np.bool_]


def fit(
    model: Encoder, sources: Sequence[Pictures], some_pictures: Sequence[bytes], seed: int = 0
) -> Calibration:
    """Fit the calibration of a model, but for its tags (`tagging/fit_tags.py`).

    Args:
        sources: pictures with captions; queries of one are not asked of another.
        some_pictures: encoded pictures, of which altered copies are made.

    Raises:
        CalibrationError: too few pictures or captions.
    """
    image_embeds = np.concatenate([source.image_embeds for source in sources])
    if len(image_embeds) < FEWEST:
        raise CalibrationError(
            f"{len(image_embeds)} pictures are too few to calibrate on; give {FEWEST} or more"
        )
    random = np.random.default_rng(seed)
    texts = background_texts()
    text_background = measure_background(image_embeds, model.encode_text(texts))
    text_searches, image_searches = [], []
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
        duplicate=copies_cosine(model, some_pictures, image_embeds),
        model=golden_hash(model.directory),
    )


def draw_queries(
    captions: Captions, texts: Sequence[str], random: np.random.Generator
) -> list[LabelledQuery]:
    """Words, as many phrases, and texts of which no caption speaks."""
    words = word_queries(captions)
    return words + phrase_queries(captions, len(words), random) + absent_queries(captions, texts)


def draw_searches(
    queries: Sequence[LabelledQuery],
    pool: Int64Array,
    count: int,
    random: np.random.Generator,
    sizes: Sequence[int] = SIZES,
) -> Iterator[Search]:
    """Searches of known answer in libraries of many sizes, drawn from the pictures `pool`.

    Words and phrases come equally often, a tenth is for what no picture shows. Of the others, so
    many are asked of a library from which every match was taken that a third in all has none.
    Pictures that may or may not match are left out.
    """
    by_kind = [[i for i, one in enumerate(queries) if one.kind == "word"]]
    by_kind.append([i for i, one in enumerate(queries) if one.kind == "phrase"])
    absent = [i for i, one in enumerate(queries) if one.kind == "absent"]
    inside = np.zeros(int(pool.max()) + 1, bool)
    inside[pool] = True
    for number in range(count):
        none = random.random() < WITHOUT
        kind = absent if absent and none and random.random() < 0.3 else by_kind[number % 2]
        kind = kind or by_kind[0] or by_kind[1]
        query = int(random.choice(kind))
        matching = _inside(queries[query].matching, inside)
        possible = inside.copy()
        possible[matching] = possible[_inside(queries[query].unknown, inside)] = False
        others = np.flatnonzero(possible)
        share = len(matching) / max(len(matching) + len(others), 1)
        size = min(int(random.choice(sizes)), len(others))
        if size < SMALLEST or (not none and not len(matching)):
            continue
        library = random.choice(others, size, replace=False)
        matches = np.zeros(size, bool)
        if not none:
            held = max(1, int(random.binomial(size, share)))
            some = random.choice(matching, min(held, len(matching)), replace=False)
            library = np.concatenate([some, library[: max(size - len(some), 1)]])
            matches = np.arange(len(library)) < len(some)
        yield Search(query, library, matches)


def _inside(ids: Int64Array, inside: NDArray[np.bool_]) -> Int64Array:
    ids = ids[ids < len(inside)]
    return ids[inside[ids]]


def fit_curve(
    background: Background,
    sources: Sequence[tuple[Pictures, Sequence[LabelledQuery], Float32Array]],
    random: np.random.Generator,
    columns: Sequence[int] = (0, 1, 2),
) -> Curve:
    """The curve and the cut-off for queries (with their embeds) of known answer.

    Args:
        columns: the features that count.

    Raises:
        CalibrationError: there is no query.
    """
    features, answers, best_of_none = [], [], []
    total = sum(len(source.image_embeds) for source, _, _ in sources)
    for source, queries, embeds in sources:
        pool = np.arange(len(source.image_embeds))
        share = round(SEARCHES * len(pool) / total)
        for search in draw_searches(queries, pool, share, random):
            x, y = best_features(background, source.image_embeds, embeds[search.query], search)
            features.append(x)
            answers.append(y)
    if not features or not any(one.any() for one in answers):
        raise CalibrationError("the captions give no queries; give more pictures with captions")
    places = [*columns, 3]
    weights = np.zeros(4)
    weights[places] = fit_logistic(np.concatenate(features)[:, columns], np.concatenate(answers))
    for x, y in zip(features, answers, strict=True):
        if not y.any():
            best_of_none.append(float((x @ weights[:-1] + weights[-1]).max()))
    cutoff = 1 / (1 + np.exp(-np.quantile(best_of_none, ABSENT_WEIGHT))) if best_of_none else 0.5
    return Curve(background, tuple(weights.tolist()), float(cutoff))


def best_features(
    background: Background, image_embeds: Float32Array, query: Float32Array, search: Search
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Features [SHOWN, 3] of the best scores of a search, and whether each matches."""
    best = np.argsort(-(image_embeds[search.library] @ query))[:SHOWN]
    found = image_embeds[search.library[best]]
    return background.features(query, found, len(search.library)), search.matches[best]


def fit_logistic(features: NDArray[np.float64], answers: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights of the features [n, k] and a constant [k + 1], by Newton's method."""
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


def copies_cosine(model: Encoder, pictures: Sequence[bytes], image_embeds: Float32Array) -> float:
    """The cosine from which two pictures are copies.

    One that nearly all altered copies reach, but never so low that more than one in a thousand of
    the pictures would have a copy among the others.
    """
    copies = model.encode_image(altered_copies(pictures))
    found = (model.encode_image(pictures) * copies).sum(axis=1)
    nearest = []
    for start in range(0, len(image_embeds), 1024):
        cosines = image_embeds[start : start + 1024] @ image_embeds.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -1  # itself
        nearest.append(cosines.max(axis=1))
    others = np.quantile(np.concatenate(nearest), 1 - TAKEN_FOR_COPIES)
    return float(max(np.quantile(found, 1 - COPIES_FOUND), others))


def altered_copies(pictures: Iterable[bytes]) -> list[bytes]:
    """Each picture cut by a twentieth, at three quarters of its size, as JPEG of low quality."""
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
