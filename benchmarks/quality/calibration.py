"""Measure the calibration of search probabilities, and the quality of the cut-off.

    python benchmarks/quality/calibration.py ../shared/data [MODEL]

The searches have known answers among the pictures of flickr8k-val (libraries of 5,000 are filled up
with those of flickr8k-train). The queries are words and phrases of the captions, a third of them
searched after every match was removed; the words of absent.txt, which no picture shows; and
pictures, whose matches are those with agreeing captions. The baseline is one threshold on the
cosine, the best on flickr8k-train, with a logistic curve over the cosine.

Writes results/calibration.csv and docs/reliability.webp.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import twotower
from benchmarks.table import ROOT, write_results
from twotower.arrays import BoolArray, Float32Array, Float64Array
from twotower.calibration.background import Curve, background_texts
from twotower.calibration.calibration import read_calibration
from twotower.calibration.captions import LabelledQuery, absent_queries, picture_queries
from twotower.calibration.fit import (
    PICTURE_QUERIES,
    REJECTED_SHARE,
    SEARCHES,
    TOP_K,
    Pictures,
    Search,
    draw_queries,
    draw_searches,
    fit_logistic,
)
from twotower.encode.encoder import Encoder
from twotower.pairs.sources import open_source

FIGURE = ROOT / "docs" / "reliability.webp"
SIZES = (50, 500, 5000)
MAX_SEARCHES = 1000
BINS = 10
COLUMNS = (
    *("searches", "method", "n", "ECE", "precision", "recall"),
    *("correctly empty", "correctly found"),
)

EmbeddedSearch = tuple[Float32Array, Float32Array, Search]  # pictures, query, library
Probability = Callable[[Float32Array, Float32Array, int], Float64Array]


@dataclass(frozen=True)
class Method:
    """A function to probabilities, and the lowest probability of a match."""

    name: str
    probability: Probability
    cutoff: float


@dataclass(frozen=True)
class SearchOutcome:
    """The probability of every picture of a library, and whether it matches."""

    probabilities: Float64Array
    matches: BoolArray


def main() -> None:
    data = Path(sys.argv[1])
    model = twotower.load(sys.argv[2] if len(sys.argv) > 2 else None)
    calibration = read_calibration(model.directory)
    if calibration is None:
        raise SystemExit(f"{model.directory}: no calibration; make one with: twotower calibrate")
    train = embed(model, data / "flickr8k-train")
    val = embed(model, data / "flickr8k-val")
    random = np.random.default_rng(1)
    words = draw_queries(train.captions, background_texts(), random)
    embeds = model.encode_text([query.text for query in words])
    for_words = [calibrated(calibration.text), *cosine_thresholds(train, words, embeds, random)]
    similar, embeds = pictures_as_queries(train, random)
    for_pictures = [
        calibrated(calibration.image),
        *cosine_thresholds(train, similar, embeds, random),
    ]
    drawn: dict[str, list[SearchOutcome]] = {}
    rows: list[tuple[str, ...]] = []
    for methods, searches in (
        (for_words, word_searches(model, train, val)),
        (for_pictures, picture_searches(train, val)),
    ):
        for name, embedded in searches:
            for method in methods:
                outcomes = [run_search(method, *search) for search in embedded]
                figures = summarize(outcomes, method.cutoff)
                rows.append((name, method.name, str(len(outcomes)), *figures))
                if name == "500 pictures":
                    drawn[method.name] = outcomes
    write_results("calibration.csv", COLUMNS, rows)
    draw_reliability(drawn, model.config.name)


def embed(model: Encoder, folder: Path) -> Pictures:
    source = open_source(folder)
    pairs = [source[number] for number in range(len(source))]
    image_embeds = model.encode_image([pair.picture for pair in pairs])
    return Pictures(image_embeds, [pair.captions for pair in pairs])


# --- the methods ---------------------------------------------------------------------------------


def calibrated(curve: Curve) -> Method:
    def probability(image_embeds: Float32Array, query: Float32Array, size: int) -> Float64Array:
        return to_probability(curve.logits(query, image_embeds, size))

    return Method("calibrated", probability, curve.cutoff)


def cosine_thresholds(
    train: Pictures,
    queries: Sequence[LabelledQuery],
    embeds: Float32Array,
    random: np.random.Generator,
) -> list[Method]:
    """Return a logistic curve over the cosine with two cut-offs: by our rule, and at the best F1.

    Both are fitted on train.
    """
    pool = np.arange(len(train.image_embeds))
    searches = list(draw_searches(queries, pool, SEARCHES, random))
    cosines, matches, best_without_match = [], [], []
    for search in searches:
        scores = train.image_embeds[search.library] @ embeds[search.query]
        best = np.argsort(-scores)[:TOP_K]
        cosines.append(scores[best])
        matches.append(search.matches[best])
        if not search.matches.any():
            best_without_match.append(float(scores.max()))
    features = np.concatenate(cosines)[:, None].astype(np.float64)
    answers = np.concatenate(matches)
    slope, constant = fit_logistic(features, answers)

    def probability(image_embeds: Float32Array, query: Float32Array, size: int) -> Float64Array:
        return to_probability(slope * (image_embeds @ query).astype(np.float64) + constant)

    def cutoff(cosine: float) -> float:
        return float(to_probability(np.array([slope * cosine + constant]))[0])

    order = np.argsort(-features[:, 0])
    right = np.cumsum(answers[order])
    f1 = 2 * right / (np.arange(1, len(order) + 1) + answers.sum())
    return [
        Method(
            "cosine", probability, cutoff(float(np.quantile(best_without_match, REJECTED_SHARE)))
        ),
        Method("cosine, best F1", probability, cutoff(float(features[order[f1.argmax()], 0]))),
    ]


def to_probability(logits: Float64Array) -> Float64Array:
    return 1 / (1 + np.exp(-logits))


# --- the searches --------------------------------------------------------------------------------


def word_searches(
    model: Encoder, train: Pictures, val: Pictures
) -> Iterator[tuple[str, list[EmbeddedSearch]]]:
    """Yield the names and searches of words and phrases, and of absent words."""
    random = np.random.default_rng(2)
    texts = (ROOT / "benchmarks/data/absent.txt").read_text(encoding="utf-8").splitlines()
    joined = join(val, train)
    for size in SIZES:
        pictures = val if size <= len(val.captions) else joined
        queries = draw_queries(pictures.captions, [], random)
        embeds = model.encode_text([query.text for query in queries])
        yield f"{size} pictures", embed_searches(pictures, queries, embeds, size, random)
    for size in SIZES:
        pictures = val if size <= len(val.captions) else joined
        if pictures is joined:
            absent = absent_queries(pictures.captions, texts)
        else:
            absent = queries_without_match(texts)
        times = 5 if size == SIZES[0] else 1
        searches = []
        embeds = model.encode_text([query.text for query in absent])
        for number in range(len(absent) * times):
            size = min(size, len(pictures.captions))
            library = random.choice(len(pictures.captions), size, replace=False)
            search = Search(number % len(absent), library, np.zeros(size, bool))
            searches.append((pictures.image_embeds, embeds[search.query], search))
        yield f"absent words, {size} pictures", searches


def picture_searches(train: Pictures, val: Pictures) -> Iterator[tuple[str, list[EmbeddedSearch]]]:
    """Yield the names and searches of pictures as queries."""
    random = np.random.default_rng(3)
    joined = join(val, train)
    for size in SIZES:
        pictures = val if size <= len(val.captions) else joined
        queries, embeds = pictures_as_queries(pictures, random)
        searches = embed_searches(pictures, queries, embeds, size, random)
        yield f"like a picture, {size} pictures", searches


def join(val: Pictures, train: Pictures) -> Pictures:
    image_embeds = np.concatenate([val.image_embeds, train.image_embeds])
    return Pictures(image_embeds, [*val.captions, *train.captions])


def pictures_as_queries(
    pictures: Pictures, random: np.random.Generator
) -> tuple[list[LabelledQuery], Float32Array]:
    queries = picture_queries(pictures.captions, PICTURE_QUERIES, random)
    return queries, pictures.image_embeds[[int(query.text) for query in queries]]


def queries_without_match(texts: Sequence[str]) -> list[LabelledQuery]:
    none = np.zeros(0, np.int64)
    return [LabelledQuery(text, "absent", none, none) for text in texts]


def embed_searches(
    pictures: Pictures,
    queries: Sequence[LabelledQuery],
    embeds: Float32Array,
    size: int,
    random: np.random.Generator,
) -> list[EmbeddedSearch]:
    pool = np.arange(len(pictures.captions))
    searches = draw_searches(queries, pool, MAX_SEARCHES, random, sizes=(size,))
    return [(pictures.image_embeds, embeds[search.query], search) for search in searches]


def run_search(
    method: Method, image_embeds: Float32Array, query: Float32Array, search: Search
) -> SearchOutcome:
    library = image_embeds[search.library]
    return SearchOutcome(method.probability(library, query, len(library)), search.matches)


# --- the figures ---------------------------------------------------------------------------------


def summarize(outcomes: Sequence[SearchOutcome], cutoff: float) -> tuple[str, ...]:
    """Return ECE of the best hits, precision and recall of pictures, and accuracy of searches."""
    probabilities, matches = best_hits(outcomes)
    passed = [outcome.probabilities >= cutoff for outcome in outcomes]
    true_positives = sum(
        int((chosen & outcome.matches).sum())
        for chosen, outcome in zip(passed, outcomes, strict=True)
    )
    positives = sum(int(chosen.sum()) for chosen in passed)
    matching = sum(int(outcome.matches.sum()) for outcome in outcomes)
    returned = np.array([chosen.any() for chosen in passed])
    has_match = np.array([outcome.matches.any() for outcome in outcomes])
    correct = np.array(
        [(chosen & outcome.matches).any() for chosen, outcome in zip(passed, outcomes, strict=True)]
    )
    values = (
        calibration_error(probabilities, matches),
        true_positives / positives if positives else None,
        true_positives / matching if matching else None,
        1 - returned[~has_match].mean() if (~has_match).any() else None,
        correct[has_match].mean() if has_match.any() else None,
    )
    return tuple("" if value is None else f"{value:.3f}" for value in values)


def best_hits(outcomes: Sequence[SearchOutcome]) -> tuple[Float64Array, BoolArray]:
    """Return the probabilities of the `TOP_K` best hits of each search, and their matches."""
    hits = [np.argsort(-outcome.probabilities)[:TOP_K] for outcome in outcomes]
    pairs = list(zip(outcomes, hits, strict=True))
    return (
        np.concatenate([outcome.probabilities[best] for outcome, best in pairs]),
        np.concatenate([outcome.matches[best] for outcome, best in pairs]),
    )


def calibration_error(probabilities: Float64Array, matches: BoolArray) -> float:
    """Return the expected calibration error over bins of equal width (Naeini et al. 2015)."""
    return sum(share * abs(mean - rate) for share, mean, rate in bins(probabilities, matches))


def bins(probabilities: Float64Array, matches: BoolArray) -> Iterator[tuple[float, float, float]]:
    """Yield the share, mean probability and rate of matches of each bin that is not empty."""
    numbers = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    for number in range(BINS):
        inside = numbers == number
        if inside.any():
            yield inside.mean(), probabilities[inside].mean(), matches[inside].mean()


def draw_reliability(drawn: dict[str, list[SearchOutcome]], model: str) -> None:
    """Draw the rate of matches over the probability, with the number of hits."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 4.4), dpi=110)
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1)
    for (name, outcomes), colour in zip(drawn.items(), ("#c8502e", "#4a6fa5"), strict=False):
        probabilities, matches = best_hits(outcomes)
        points = list(bins(probabilities, matches))
        axes.plot(
            [x for _, x, _ in points], [y for _, _, y in points], "o-", color=colour, label=name
        )
        for share, x, y in points:
            count = round(share * len(probabilities))
            axes.annotate(
                str(count),
                (x, y),
                xytext=(5, -11),
                textcoords="offset points",
                fontsize=7,
                color=colour,
            )
    axes.set(
        xlabel="probability of the search",
        ylabel="share of matches by captions",
        xlim=(0, 1),
        ylim=(0, 1),
        title=f"{model}: best {TOP_K} hits among 500 unseen pictures",
    )
    axes.title.set_fontsize(10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(FIGURE, pil_kwargs={"quality": 85})


if __name__ == "__main__":
    main()
