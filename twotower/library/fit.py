"""Fit a model's calibration on pictures with captions (`twotower calibrate`)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twotower.encode.golden import model_hash
from twotower.inputs.pictures import open_picture
from twotower.library.calibrate import (
    LARGEST,
    TYPICAL_TAGS,
    Background,
    Calibration,
    CalibrationError,
    Curve,
    Floats,
    TagCurve,
    Trust,
    background_texts,
    mean_distance,
    measure_background,
    no_background,
    simple_tag_curve,
)
from twotower.library.labelled import (
    Captions,
    Ids,
    LabelledQuery,
    absent_queries,
    captioned_tags,
    phrase_queries,
    picture_queries,
    word_queries,
)
from twotower.library.tag_vectors import tag_vectors
from twotower.library.vocabulary import read_vocabulary

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder

SIZES = (50, 150, 500, 1500, LARGEST)  # of the libraries that are drawn from the pictures
SMALLEST = 30  # library that is worth a search
WITHOUT = 1 / 3  # the share of searches for something that is not there
SHOWN = 50  # best scores of a search that the curve is fitted on: what a person gets to see
SEARCHES = 2000
NOTHING = 0.9  # how often the cut-off answers "nothing" to a search for what is not there
PICTURE_QUERIES = 400
FEWEST = 200  # pictures, below which a fit means nothing
COPIES = 200  # pictures that are altered, to learn how alike copies are
FOLDS = 5  # parts of the tags, each judged by what the others teach
SPLITS = 8  # of the tags into such parts; who is left out with whom makes a difference
COPIES_FOUND = 0.95
TAKEN_FOR_COPIES = 0.001
PRECISIONS = tuple(round(0.5 + 0.01 * step, 2) for step in range(50))  # that tags are cut off at
WORDS_VARIANCE = 12.0  # of the weights of a tag's vector; for tags left out, on flickr8k-train
# A model is mostly calibrated on pictures that it has learned from, of which it is too sure. These
# take log-odds to what they are on others; benchmarks/learned_pictures.py measured them, on an
# image head that learned four fifths of flickr8k-train, by the rest.
OTHERS_SLOPE, OTHERS_CONSTANT = 0.83, -0.22


@dataclass(frozen=True)
class Pictures:
    """One source of pictures: image_embeds [n, embed_dim] and what is said of each."""

    image_embeds: Floats
    captions: Captions


@dataclass(frozen=True)
class Search:
    """One search in a library drawn from a source: `library` [n] and whether each matches."""

    query: int
    library: Ids
    matches: NDArray[np.bool_]


def fit(
    model: Encoder, sources: Sequence[Pictures], some_pictures: Sequence[bytes], seed: int = 0
) -> Calibration:
    """The calibration of a model.

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
        tags=fit_tags(model, text_background, sources),
        image=fit_curve(no_background(image_embeds.shape[1]), image_searches, random, (0,)),
        duplicate=copies_cosine(model, some_pictures, image_embeds),
        model=model_hash(model.directory),
    )


def fit_tags(
    model: Encoder,
    background: Background,
    sources: Sequence[Pictures],
    without: frozenset[str] = frozenset(),
) -> TagCurve | None:
    """The curve of tags; None where captions, several of a picture, decide too few of them.

    Args:
        without: names of tags that it shall not know.
    """
    distance = mean_distance(model.encode_text(background_texts()))
    untrained = simple_tag_curve(background, distance, TYPICAL_TAGS, ())
    judged = judged_tags(model, untrained, sources, without)
    if len({one.name for one in judged if one.answers.any()}) < FOLDS:
        return None
    answers = np.concatenate([one.answers for one in judged])
    weights, words = fit_words(judged)
    logits = [one.logits(weights, words) for one in judged]
    unseen = [one for split in range(SPLITS) for one in unseen_logits(judged, split)]
    return TagCurve(
        background,
        distance,
        tuple(weights.tolist()),
        words.astype(np.float32),
        frozenset(one.name.casefold() for one in judged),
        trust(np.concatenate(logits), answers),
        trust(np.concatenate(unseen), np.tile(answers, SPLITS), SPLITS),
    )


@dataclass(frozen=True)
class JudgedTag:
    """A tag, and the pictures of a source of which captions say whether they show it.

    `features` [n, 4] and `difference` [embed_dim] are what a `TagCurve` has weights for.
    """

    name: str
    features: NDArray[np.float64]
    difference: NDArray[np.float64]
    answers: NDArray[np.bool_]

    def logits(
        self, weights: NDArray[np.float64], words: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The log-odds [n] by weights as `fit_words` gives them."""
        return np.asarray(self.features @ weights[:-1] + weights[-1] + self.difference @ words)


def judged_tags(
    model: Encoder,
    curve: TagCurve,
    sources: Sequence[Pictures],
    without: frozenset[str] = frozenset(),
) -> list[JudgedTag]:
    """The tags that the captions of each source decide, with what `curve` knows of them."""
    vocabulary = read_vocabulary()
    judged = []
    for source in sources:
        said = [one for one in captioned_tags(source.captions) if one.name not in without]
        tags = [vocabulary.find(one.name) for one in said]
        vectors = tag_vectors(model, [tag for tag in tags if tag is not None])
        differences = curve.differences(vectors)
        for one, vector, difference in zip(said, vectors, differences, strict=True):
            decided = at_most_half(one.answers)
            features = curve.features(vector[None], source.image_embeds[decided])[:, 0]
            judged.append(JudgedTag(one.name, features, difference, one.answers[decided] == 1))
    return judged


def at_most_half(answers: NDArray[np.int8]) -> Ids:
    """The pictures of which captions say yes (1) or no (0), without some of the yeses where they
    are more than half.

    Most photographs that people describe for research show people; those of others need not.
    """
    shown, others = np.flatnonzero(answers == 1), np.flatnonzero(answers == 0)
    if len(shown) > len(others):
        shown = shown[np.linspace(0, len(shown) - 1, len(others)).astype(int)]
    return np.sort(np.concatenate([shown, others]))


def fit_words(
    judged: Sequence[JudgedTag],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of the features with a constant, and of the tags' vectors, by Newton's method.

    The second have a Gaussian prior. The steps are taken among combinations of the tags' vectors,
    where the most probable weights lie.
    """
    differences = np.stack([one.difference for one in judged])
    _, lengths, directions = np.linalg.svd(differences, full_matrices=False)
    directions = directions[lengths > 1e-6 * lengths.max()]
    places = differences @ directions.T  # [tags, directions]
    first = judged[0].features.shape[1] + 1
    prior = np.full(first + len(directions), 1 / WORDS_VARIANCE)
    prior[:first] = 1e-3
    weights = np.zeros(len(prior))
    inputs = [np.column_stack([one.features, np.ones(len(one.answers))]) for one in judged]

    def loss(weights: NDArray[np.float64]) -> float:
        total = float(prior @ weights**2) / 2
        for one, x, place in zip(judged, inputs, places, strict=True):
            logits = x @ weights[:first] + place @ weights[first:]
            total += float(np.logaddexp(0, np.where(one.answers, -logits, logits)).sum())
        return total

    before = loss(weights)
    for _ in range(50):
        gradient, curvature = -prior * weights, np.diag(prior)
        for one, x, place in zip(judged, inputs, places, strict=True):
            p = 1 / (1 + np.exp(-(x @ weights[:first] + place @ weights[first:])))
            left, certain = one.answers - p, p * (1 - p)
            gradient += np.concatenate([x.T @ left, place * left.sum()])
            crossed = np.outer(certain @ x, place)
            curvature[:first, :first] += (x * certain[:, None]).T @ x
            curvature[:first, first:] += crossed
            curvature[first:, :first] += crossed.T
            curvature[first:, first:] += certain.sum() * np.outer(place, place)
        step = np.linalg.solve(curvature, gradient)
        while (after := loss(weights + step)) > before + 1e-9 and np.abs(step).max() > 1e-9:
            step /= 2
        weights, before = weights + step, after
        if np.abs(step).max() < 1e-6:
            break
    return weights[:first], weights[first:] @ directions


def unseen_logits(judged: Sequence[JudgedTag], split: int) -> list[NDArray[np.float64]]:
    """The log-odds of each tag by a fit that did not see it."""
    names = sorted({one.name for one in judged})
    parts = np.random.default_rng(split).permutation(len(names)) % FOLDS
    part_of = dict(zip(names, parts.tolist(), strict=True))
    fits = [
        fit_words([one for one in judged if part_of[one.name] != part]) for part in range(FOLDS)
    ]
    return [one.logits(*fits[part_of[one.name]]) for one in judged]


def trust(logits: NDArray[np.float64], answers: NDArray[np.bool_], times: int = 1) -> Trust:
    """What answers came of log-odds, on pictures that the model has learned from, and what will
    come on others.

    Args:
        times: how often each answer is there.
    """
    slope, constant = fit_logistic(logits[:, None], answers)
    slope, constant = OTHERS_SLOPE * slope, OTHERS_SLOPE * constant + OTHERS_CONSTANT
    probabilities = 1 / (1 + np.exp(-(slope * logits + constant)))
    return Trust(float(slope), float(constant), tuple(cutoffs(probabilities, answers, times)))


def cutoffs(
    probabilities: NDArray[np.float64], answers: NDArray[np.bool_], times: int = 1
) -> list[tuple[float, float]]:
    """Precisions, and the least probability from which answers have each, as far as one can say.

    A precision counts by the lower end of its interval (one standard error, Wilson's), so that a
    lucky handful at the top promises nothing, and as what it is on pictures not learned from.
    """
    order = np.argsort(-probabilities, kind="stable")
    share = np.cumsum(answers[order]) / np.arange(1, len(order) + 1)
    n = np.arange(1, len(order) + 1) / times
    lower = (share + 0.5 / n - np.sqrt(share * (1 - share) / n + 0.25 / n**2)) / (1 + 1 / n)
    found = []
    for precision in PRECISIONS:
        odds = (np.log(precision / (1 - precision)) - OTHERS_CONSTANT) / OTHERS_SLOPE
        enough = np.flatnonzero(lower >= 1 / (1 + np.exp(-odds)))
        if len(enough):
            found.append((precision, float(probabilities[order[enough[-1]]])))
    return found


def draw_queries(
    captions: Captions, texts: Sequence[str], random: np.random.Generator
) -> list[LabelledQuery]:
    """Words, as many phrases, and texts of which no caption speaks."""
    words = word_queries(captions)
    return words + phrase_queries(captions, len(words), random) + absent_queries(captions, texts)


def draw_searches(
    queries: Sequence[LabelledQuery],
    pool: Ids,
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


def _inside(ids: Ids, inside: NDArray[np.bool_]) -> Ids:
    ids = ids[ids < len(inside)]
    return ids[inside[ids]]


def fit_curve(
    background: Background,
    sources: Sequence[tuple[Pictures, Sequence[LabelledQuery], Floats]],
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
    cutoff = 1 / (1 + np.exp(-np.quantile(best_of_none, NOTHING))) if best_of_none else 0.5
    return Curve(background, tuple(weights.tolist()), float(cutoff))


def best_features(
    background: Background, image_embeds: Floats, query: Floats, search: Search
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


def copies_cosine(model: Encoder, pictures: Sequence[bytes], image_embeds: Floats) -> float:
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
