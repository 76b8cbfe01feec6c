"""Measure the calibration of search probabilities, and the quality of the cut-off.

    python benchmarks/quality/calibration.py ../shared/data [MODEL]

The searches have known answers among the pictures of flickr8k-val (libraries of 5,000 are filled up
with those of flickr8k-train, which is one of the sources that the bundled calibrations are fitted
on; for other sources: unseen_sources.py). The queries are words and phrases of the captions, a
third of them searched after every match was removed; the words of absent.txt, which no picture
shows; and pictures, whose matches are those with agreeing captions. The baseline is one threshold
on the cosine, the best on flickr8k-train, with a logistic curve over the cosine.

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
from twotower.calibration.background import background_texts
from twotower.calibration.calibration import read_calibration
from twotower.calibration.captions import LabelledQuery, absent_queries, picture_queries
from twotower.calibration.curves import LogisticCurve, TextCurves, embed_queries
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

Logits = Callable[[Float32Array, Sequence[str], Float32Array], Float64Array]


@dataclass(frozen=True)
class Method:
    """A function to log-odds, and the lowest probability of a match.

    Attributes:
        logits: image_embeds [n, embed_dim], the texts of queries and their embeds [q, embed_dim] ->
            [n, q].
        cutoff: of a text.
    """

    name: str
    logits: Logits
    cutoff: Callable[[str], float]


@dataclass(frozen=True)
class Searches:
    """Searches in libraries drawn from pictures.

    Attributes:
        image_embeds: of all pictures [n, embed_dim].
        texts: of the queries [q].
        embeds: of the queries [q, embed_dim].
    """

    name: str
    image_embeds: Float32Array
    texts: Sequence[str]
    embeds: Float32Array
    searches: Sequence[Search]

    def run(self, method: Method) -> list[SearchOutcome]:
        """Return the outcome of each search by a method."""
        table = to_probability(method.logits(self.image_embeds, self.texts, self.embeds))
        return [
            SearchOutcome(
                table[search.library, search.query],
                search.matches,
                method.cutoff(self.texts[search.query]),
            )
            for search in self.searches
        ]


@dataclass(frozen=True)
class SearchOutcome:
    """The probability of every picture of a library, and whether it matches; and the cut-off."""

    probabilities: Float64Array
    matches: BoolArray
    cutoff: float


def main() -> None:
    data = Path(sys.argv[1])
    model = twotower.load(sys.argv[2] if len(sys.argv) > 2 else None)
    calibration = read_calibration(model)
    if calibration is None:
        raise SystemExit(f"{model.directory}: no calibration; make one with: twotower calibrate")
    train = embed(model, data / "flickr8k-train")
    val = embed(model, data / "flickr8k-val")
    random = np.random.default_rng(1)
    words = draw_queries(train.captions, background_texts(), random)
    embeds = embed_queries(model, [query.text for query in words])
    for_words = [judged(calibration.text), *cosine_thresholds(train, words, embeds, random)]
    similar, embeds = pictures_as_queries(train, random)
    for_pictures = [
        by_cosine(calibration.image, "calibrated"),
        *cosine_thresholds(train, similar, embeds, random),
    ]
    drawn: dict[str, list[SearchOutcome]] = {}
    rows: list[tuple[str, ...]] = []
    for methods, searches in (
        (for_words, word_searches(model, train, val)),
        (for_pictures, picture_searches(train, val)),
    ):
        for kind in searches:
            for method in methods:
                outcomes = kind.run(method)
                rows.append((kind.name, method.name, str(len(outcomes)), *summarize(outcomes)))
                if kind.name == "500 pictures":
                    drawn[method.name] = outcomes
    write_results("calibration.csv", COLUMNS, rows)
    draw_reliability(drawn, model.config.name)


def embed(model: Encoder, folder: Path) -> Pictures:
    source = open_source(folder)
    pairs = [source[number] for number in range(len(source))]
    image_embeds = model.encode_image([pair.picture for pair in pairs])
    return Pictures(image_embeds, [pair.captions for pair in pairs])


# --- the methods ---------------------------------------------------------------------------------


def judged(curves: TextCurves) -> Method:
    """Judge texts by how they stand out among competing texts."""

    def logits(
        image_embeds: Float32Array, texts: Sequence[str], embeds: Float32Array
    ) -> Float64Array:
        prepared = [
            curves.prepare([text], embed) for text, embed in zip(texts, embeds, strict=True)
        ]
        return curves.logits(prepared, image_embeds)

    return Method("calibrated", logits, lambda text: curves.of(text).cutoff)


def by_cosine(curve: LogisticCurve, name: str) -> Method:
    """Judge by a curve over the cosine."""

    def logits(
        image_embeds: Float32Array, texts: Sequence[str], embeds: Float32Array
    ) -> Float64Array:
        cosines = (image_embeds @ embeds.T).astype(np.float64)
        return curve.logits(cosines[..., None])

    return Method(name, logits, lambda text: curve.cutoff)


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
    weights = tuple(fit_logistic(features, answers).tolist())

    def method(name: str, cosine: float) -> Method:
        logit = weights[0] * cosine + weights[1]
        return by_cosine(LogisticCurve(weights, float(to_probability(logit))), name)

    order = np.argsort(-features[:, 0])
    right = np.cumsum(answers[order])
    f1 = 2 * right / (np.arange(1, len(order) + 1) + answers.sum())
    return [
        method("cosine", float(np.quantile(best_without_match, REJECTED_SHARE))),
        method("cosine, best F1", float(features[order[f1.argmax()], 0])),
    ]


def to_probability(logits: Float64Array | float) -> Float64Array:
    return np.asarray(1 / (1 + np.exp(-logits)))


# --- the searches --------------------------------------------------------------------------------


def word_searches(model: Encoder, train: Pictures, val: Pictures) -> Iterator[Searches]:
    """Yield searches for words and phrases, and for absent words."""
    random = np.random.default_rng(2)
    texts = (ROOT / "benchmarks/data/absent.txt").read_text(encoding="utf-8").splitlines()
    joined = join(val, train)
    for size in SIZES:
        pictures = val if size <= len(val.captions) else joined
        queries = draw_queries(pictures.captions, [], random)
        embeds = embed_queries(model, [query.text for query in queries])
        yield draw(f"{size} pictures", pictures, queries, embeds, size, random)
    for size in SIZES:
        pictures = val if size <= len(val.captions) else joined
        if pictures is joined:
            absent = absent_queries(pictures.captions, texts)
        else:
            absent = queries_without_match(texts)
        times = 5 if size == SIZES[0] else 1
        searches = []
        for number in range(len(absent) * times):
            size = min(size, len(pictures.captions))
            library = random.choice(len(pictures.captions), size, replace=False)
            searches.append(Search(number % len(absent), library, np.zeros(size, bool)))
        words = [query.text for query in absent]
        embeds = embed_queries(model, words)
        name = f"absent words, {size} pictures"
        yield Searches(name, pictures.image_embeds, words, embeds, searches)


def picture_searches(train: Pictures, val: Pictures) -> Iterator[Searches]:
    """Yield searches with pictures as queries."""
    random = np.random.default_rng(3)
    joined = join(val, train)
    for size in SIZES:
        pictures = val if size <= len(val.captions) else joined
        queries, embeds = pictures_as_queries(pictures, random)
        yield draw(f"like a picture, {size} pictures", pictures, queries, embeds, size, random)


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


def draw(
    name: str,
    pictures: Pictures,
    queries: Sequence[LabelledQuery],
    embeds: Float32Array,
    size: int,
    random: np.random.Generator,
) -> Searches:
    """Draw searches in libraries of a size."""
    pool = np.arange(len(pictures.captions))
    searches = list(draw_searches(queries, pool, MAX_SEARCHES, random, sizes=(size,)))
    return Searches(
        name, pictures.image_embeds, [query.text for query in queries], embeds, searches
    )


# --- the figures ---------------------------------------------------------------------------------


def summarize(outcomes: Sequence[SearchOutcome]) -> tuple[str, ...]:
    """Return ECE of the best hits, precision and recall of pictures, and accuracy of searches."""
    probabilities, matches = best_hits(outcomes)
    passed = [outcome.probabilities >= outcome.cutoff for outcome in outcomes]
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
