"""Fit the calibration of a model on pictures of known content (`twotower calibrate`).

Each source of pictures has captions or names. The curves are fitted on all sources; cut-offs are
taken from searches in each source by curves that were fitted on the others, because a curve is too
sure of the pictures that it was fitted on.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from twotower.arrays import BoolArray, Float32Array, Float64Array, Int64Array, normalize
from twotower.calibration.background import background_texts, measure_background
from twotower.calibration.calibration import (
    TYPICAL_NAME,
    TYPICAL_PHRASE,
    TYPICAL_PICTURE,
    Calibration,
)
from twotower.calibration.captions import (
    MIN_CAPTIONS,
    Captions,
    LabelledQuery,
    absent_queries,
    phrase_queries,
    picture_queries,
    word_queries,
)
from twotower.calibration.competitors import Competitors, embed_names, embed_words
from twotower.calibration.curves import (
    LogisticCurve,
    TextCurves,
    embed_queries,
    is_phrase,
    judged_text,
)
from twotower.calibration.named import named_queries, specific_words
from twotower.encode.golden import golden_hash
from twotower.errors import BrokenPairError, CalibrationError
from twotower.inputs.pictures import open_picture
from twotower.progress import Progress, ReportProgress, ignore_progress

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder
    from twotower.pairs.pair import Source

LARGEST = 5000  # pictures in the largest library that curves are fitted on
SIZES = (50, 150, 500, 1500, LARGEST)  # of the libraries that are drawn from the pictures
MIN_LIBRARY = 30  # pictures in such a library
UNMATCHED_SHARE = 1 / 3  # of the searches have no match in the library
TOP_K = 50  # best scores of a search that the curve is fitted on: about what a person looks at
SEARCHES = 800  # in each source
REJECTED_SHARE = 0.8  # of the searches without a match find nothing at the cut-off
MIN_SEARCHES = 200  # for a curve
MIN_UNMATCHED = 30  # such searches in a source, to count for the cut-off
PICTURE_QUERIES = 400
MIN_PICTURES = 200  # below which a fit means nothing
MAX_PICTURES = 1500  # of a source that curves are fitted on
CAPTION_CENTRES = 600  # typical captions: centres of clusters of all
CLUSTER_STEPS = 12
MAX_CAPTIONS = 15_000  # that are clustered
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


@dataclass(frozen=True)
class Fit:
    """A calibration without cut-offs of tags, and the curves that were fitted without each source.

    Attributes:
        held_out: of each source, the curves that were fitted on the others; of a single source,
            those of the calibration.
    """

    calibration: Calibration
    held_out: list[TextCurves]


def fit(
    model: Encoder,
    sources: Sequence[Pictures],
    samples: Sequence[bytes],
    report: ReportProgress = ignore_progress,
    seed: int = 0,
) -> Fit:
    """Fit the calibration of a model, without its cut-offs of tags (`tagging/fit_tags.py`).

    Args:
        sources: pictures with captions or names. Queries of one source are not searched in another.
        samples: encoded pictures, of which altered copies are made.

    Raises:
        CalibrationError: there are too few pictures, or no captions and names.
    """
    image_embeds = np.concatenate([source.image_embeds for source in sources])
    if len(image_embeds) < MIN_PICTURES:
        raise CalibrationError(
            "PAIRS",
            f"{len(image_embeds)} pictures are too few to calibrate on",
            f"give {MIN_PICTURES} or more",
        )
    random = np.random.default_rng(seed)
    competitors = measure_competitors(model, sources, random)
    examples = []
    for number, source in enumerate(sources):
        report(Progress(number, len(sources), stage="Searching in each source"))
        examples.append(search_examples(model, competitors, source, random))
    text, held_out = fit_text_curves(competitors, examples)
    calibration = Calibration(
        text=text,
        image=fit_picture_curve(sources, random),
        background=measure_background(image_embeds),
        precisions=(),
        duplicate=copy_cosine(model, samples, image_embeds),
        model=golden_hash(model.directory),
    )
    return Fit(calibration, held_out)


def measure_competitors(
    model: Encoder, sources: Sequence[Pictures], random: np.random.Generator
) -> Competitors:
    """Embed the competing words, and typical captions: the centres of clusters of all captions."""
    texts = [
        text
        for source in sources
        if is_captioned(source.captions)
        for captions in source.captions
        for text in captions[:2]
    ]
    if len(texts) < 10 * CAPTION_CENTRES:
        return Competitors(embed_words(model), model.encode_text(background_texts()))
    drawn = random.permutation(len(texts))[:MAX_CAPTIONS]
    embeds = model.encode_text([texts[row] for row in drawn])
    return Competitors(embed_words(model), cluster_centres(embeds, CAPTION_CENTRES))


def cluster_centres(embeds: Float32Array, count: int) -> Float32Array:
    """Return the centres [count, embed_dim] of clusters by k-means over cosines."""
    centres = embeds[:: max(1, len(embeds) // count)][:count].copy()
    for _ in range(CLUSTER_STEPS):
        cluster = (embeds @ centres.T).argmax(axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, cluster, embeds)
        centres = normalize(np.where(sums.any(axis=1, keepdims=True), sums, centres))
    return centres


def is_captioned(captions: Captions) -> bool:
    """Return True for pictures with several captions each; others have names."""
    return min(map(len, captions), default=0) >= MIN_CAPTIONS


@dataclass(frozen=True)
class Examples:
    """Searches in one source, with known answers.

    Attributes:
        features: of the `TOP_K` best scores of each search, [k, 2] or [k, 5].
        answers: which of these match [k].
        phrase: True for searches by phrases.
    """

    features: list[Float64Array]
    answers: list[BoolArray]
    phrase: list[bool]

    def of(self, phrase: bool) -> list[tuple[Float64Array, BoolArray]]:
        """Return features and answers of the searches by phrases, or by names."""
        rows = zip(self.features, self.answers, self.phrase, strict=True)
        return [(features, answers) for features, answers, kind in rows if kind == phrase]


def search_examples(
    model: Encoder, competitors: Competitors, source: Pictures, random: np.random.Generator
) -> Examples:
    """Search in libraries drawn from a source, for words with known answers."""
    rows = random.permutation(len(source.captions))[:MAX_PICTURES]
    image_embeds = source.image_embeds[rows]
    captions = [source.captions[row] for row in rows]
    if is_captioned(captions):
        queries = draw_queries(captions, specific_words(), random)
    else:
        queries = named_queries(captions, lambda names: embed_names(model, names), random)
    embeds = embed_queries(model, [query.text for query in queries])
    standings = competitors.compare(image_embeds)
    examples, features = Examples([], [], []), {}
    for search in draw_searches(queries, np.arange(len(rows)), SEARCHES, random):
        text, embed = queries[search.query].text, embeds[search.query]
        if search.query not in features:
            prepared = judged_text(competitors, [text], embed)
            features[search.query] = prepared.features(image_embeds, standings)
        best = np.argsort(-(image_embeds[search.library] @ embed))[:TOP_K]
        examples.features.append(features[search.query][search.library[best]])
        examples.answers.append(search.matches[best])
        examples.phrase.append(is_phrase(text))
    return examples


# --- the curves ----------------------------------------------------------------------------------


def fit_text_curves(
    competitors: Competitors, sources: Sequence[Examples]
) -> tuple[TextCurves, list[TextCurves]]:
    """Fit the curves on all sources, and without each.

    Raises:
        CalibrationError: there are no queries.
    """
    held_out = [fit_curves(competitors, sources, left_out=source) for source in sources]
    final = fit_curves(competitors, sources)
    pairs = list(zip(held_out, sources, strict=True))
    name = rejecting_cutoff([(curves.name, source.of(False)) for curves, source in pairs])
    phrase = rejecting_cutoff([(curves.phrase, source.of(True)) for curves, source in pairs])
    return (
        TextCurves(
            competitors,
            LogisticCurve(final.name.weights, name),
            LogisticCurve(final.phrase.weights, phrase),
        ),
        held_out,
    )


def fit_curves(
    competitors: Competitors, sources: Sequence[Examples], left_out: Examples | None = None
) -> TextCurves:
    """Fit the weights of the curves of names and phrases; the cut-offs are not fitted yet.

    Args:
        left_out: a source that is not used, unless the others have too few searches of a kind.
    """
    curves = []
    for phrase, typical in ((False, TYPICAL_NAME), (True, TYPICAL_PHRASE)):
        rows = [row for source in sources if source is not left_out for row in source.of(phrase)]
        if len(rows) < MIN_SEARCHES:
            rows = [row for source in sources for row in source.of(phrase)]
        if any(answers.any() for _, answers in rows):
            features = np.concatenate([features for features, _ in rows])
            weights = fit_logistic(features, np.concatenate([answers for _, answers in rows]))
            curves.append(LogisticCurve(tuple(weights.tolist()), typical.cutoff))
        else:
            curves.append(typical)
    if curves == [TYPICAL_NAME, TYPICAL_PHRASE]:
        raise CalibrationError(
            "PAIRS", "the captions give no queries", "give more pictures with captions or names"
        )
    return TextCurves(competitors, *curves)


def rejecting_cutoff(
    searches: Sequence[tuple[LogisticCurve, list[tuple[Float64Array, BoolArray]]]],
) -> float:
    """Return the probability that `REJECTED_SHARE` of the searches without a match stay below.

    It is the median over sources, so that a source with many things that nearly match, or with
    wrong names, does not decide.

    Args:
        searches: of each source, a curve that was fitted without it, and features and answers.
    """
    limits = []
    for curve, rows in searches:
        best = [curve.logits(features).max() for features, answers in rows if not answers.any()]
        if len(best) >= MIN_UNMATCHED:
            limits.append(np.quantile(best, REJECTED_SHARE))
    return float(1 / (1 + np.exp(-np.median(limits)))) if limits else 0.5


def fit_picture_curve(sources: Sequence[Pictures], random: np.random.Generator) -> LogisticCurve:
    """Fit the curve of pictures as queries, over the cosine; a typical one without captions."""
    features, answers = [], []
    for source in sources:
        if not is_captioned(source.captions):
            continue
        queries = picture_queries(source.captions, PICTURE_QUERIES, random)
        pool = np.arange(len(source.captions))
        for search in draw_searches(queries, pool, SEARCHES, random) if queries else ():
            embed = source.image_embeds[int(queries[search.query].text)]
            scores = source.image_embeds[search.library] @ embed
            best = np.argsort(-scores)[:TOP_K]
            features.append(scores[best, None].astype(np.float64))
            answers.append(search.matches[best])
    if not any(row.any() for row in answers):
        return TYPICAL_PICTURE
    weights = fit_logistic(np.concatenate(features), np.concatenate(answers))
    curve = LogisticCurve(tuple(weights.tolist()), 0.5)
    cutoff = rejecting_cutoff([(curve, list(zip(features, answers, strict=True)))])
    return LogisticCurve(curve.weights, cutoff)


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

    Words and phrases are equally frequent. `UNMATCHED_SHARE` of all searches have no match: absent
    queries, and phrases in a library without their matches. (Where the pictures that are named
    "grass" are removed, others show it too.) Pictures that may match are left out.

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
        if by_kind["absent"] and unmatched and kind == "word":
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
