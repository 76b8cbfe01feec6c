"""How true the probabilities of search are, and how well its cut-off cuts.

    python benchmarks/quality/calibration.py ../shared/data [MODEL]

Searches of known answer among the pictures of flickr8k-val (for libraries of 5000, filled up with
those of flickr8k-train): words and phrases of their captions, a third of them asked where every
match was taken out; absent.txt, words for what none of them shows; and pictures, for those of which
captions agree that they show the same. The peer is what others do: one threshold on the cosine,
here the best that flickr8k-train gives, and a logistic curve over it.

Writes results/calibration.csv, the table in docs/measurements/search.md and docs/reliability.webp.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import twotower
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

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results" / "calibration.csv"
PICTURE = HERE.parent / "docs" / "reliability.webp"
PAGE = HERE.parent / "docs" / "measurements" / "search.md"
MARKS = "<!-- written by benchmarks/quality/calibration.py -->", "<!-- until here -->"
SIZES = (50, 500, 5000)
SEARCHES_HERE = 1000
BINS = 10

COLUMNS = (
    *("searches in", "method", "n", "ECE", "precision", "recall"),
    *("rightly nothing", "rightly something"),
)

Numbers = NDArray[np.float64]
Truths = NDArray[np.bool_]
Asked = tuple[NDArray[np.float32], NDArray[np.float32], Search]  # pictures, query, library
Probability = Callable[[NDArray[np.float32], NDArray[np.float32], int], Numbers]


@dataclass(frozen=True)
class Method:
    """A way to a probability, and from which on a picture is called a match."""

    name: str
    probability: Probability
    cutoff: float


@dataclass(frozen=True)
class Judged:
    """One search: the probability of every picture of the library, and whether it matches."""

    probabilities: Numbers
    truths: Truths


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
    in_words = [calibrated(calibration.text), *cosine_thresholds(train, words, embeds, random)]
    alike, embeds = pictures_as_queries(train, random)
    by_pictures = [calibrated(calibration.image), *cosine_thresholds(train, alike, embeds, random)]
    shown: dict[str, list[Judged]] = {}
    rows: list[tuple[str, ...]] = [COLUMNS]
    for methods, searches in (
        (in_words, all_searches(model, train, val)),
        (by_pictures, all_similar(train, val)),
    ):
        for name, asked in searches:
            for method in methods:
                judged = [judge(method, *one) for one in asked]
                figures = summarise(judged, method.cutoff)
                rows.append((name, method.name, str(len(judged)), *figures))
                print(*rows[-1], flush=True)
                if name == "500 pictures":
                    shown[method.name] = judged
    with RESULTS.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    write_table(rows, model.config.name)
    draw_reliability(shown, model.config.name)


def embed(model: Encoder, folder: Path) -> Pictures:
    source = open_source(folder)
    pairs = [source[number] for number in range(len(source))]
    image_embeds = model.encode_image([pair.picture for pair in pairs])
    return Pictures(image_embeds, [pair.captions for pair in pairs])


# --- the methods ---------------------------------------------------------------------------------


def calibrated(curve: Curve) -> Method:
    def probability(
        image_embeds: NDArray[np.float32], query: NDArray[np.float32], size: int
    ) -> Numbers:
        return to_probability(curve.logits(query, image_embeds, size))

    return Method("calibrated", probability, curve.cutoff)


def cosine_thresholds(
    train: Pictures,
    queries: Sequence[LabelledQuery],
    embeds: NDArray[np.float32],
    random: np.random.Generator,
) -> list[Method]:
    """A logistic curve over the cosine, cut by our rule, and where F1 is best; both on train."""
    pool = np.arange(len(train.image_embeds))
    searches = list(draw_searches(queries, pool, SEARCHES, random))
    cosines, truths, best_of_none = [], [], []
    for search in searches:
        scores = train.image_embeds[search.library] @ embeds[search.query]
        best = np.argsort(-scores)[:TOP_K]
        cosines.append(scores[best])
        truths.append(search.matches[best])
        if not search.matches.any():
            best_of_none.append(float(scores.max()))
    features = np.concatenate(cosines)[:, None].astype(np.float64)
    answers = np.concatenate(truths)
    slope, constant = fit_logistic(features, answers)

    def probability(
        image_embeds: NDArray[np.float32], query: NDArray[np.float32], size: int
    ) -> Numbers:
        return to_probability(slope * (image_embeds @ query).astype(np.float64) + constant)

    def at(cosine: float) -> float:
        return float(to_probability(np.array([slope * cosine + constant]))[0])

    order = np.argsort(-features[:, 0])
    right = np.cumsum(answers[order])
    f1 = 2 * right / (np.arange(1, len(order) + 1) + answers.sum())
    return [
        Method("cosine", probability, at(float(np.quantile(best_of_none, REJECTED_SHARE)))),
        Method("cosine, best F1", probability, at(float(features[order[f1.argmax()], 0]))),
    ]


def to_probability(logits: Numbers) -> Numbers:
    return 1 / (1 + np.exp(-logits))


# --- the searches --------------------------------------------------------------------------------


def all_searches(
    model: Encoder, train: Pictures, val: Pictures
) -> Iterator[tuple[str, list[Asked]]]:
    """Named lists of searches with known answers."""
    random = np.random.default_rng(2)
    texts = (HERE / "data" / "absent.txt").read_text(encoding="utf-8").splitlines()
    both = Pictures(
        np.concatenate([val.image_embeds, train.image_embeds]),
        [*val.captions, *train.captions],
    )
    for size in SIZES:
        pictures = val if size <= len(val.captions) else both
        queries = draw_queries(pictures.captions, [], random)
        embeds = model.encode_text([query.text for query in queries])
        yield f"{size} pictures", ask(pictures, queries, embeds, size, random)
    for size in SIZES:
        pictures = val if size <= len(val.captions) else both
        absent = absent_queries(pictures.captions, texts) if pictures is both else named(texts)
        times = 5 if size == SIZES[0] else 1
        asked = []
        embeds = model.encode_text([query.text for query in absent])
        for number in range(len(absent) * times):
            size = min(size, len(pictures.captions))
            library = random.choice(len(pictures.captions), size, replace=False)
            search = Search(number % len(absent), library, np.zeros(size, bool))
            asked.append((pictures.image_embeds, embeds[search.query], search))
        yield f"absent words, {size} pictures", asked


def all_similar(train: Pictures, val: Pictures) -> Iterator[tuple[str, list[Asked]]]:
    """The same for pictures as queries."""
    random = np.random.default_rng(3)
    both = Pictures(
        np.concatenate([val.image_embeds, train.image_embeds]),
        [*val.captions, *train.captions],
    )
    for size in SIZES:
        pictures = val if size <= len(val.captions) else both
        queries, embeds = pictures_as_queries(pictures, random)
        yield f"like a picture, {size} pictures", ask(pictures, queries, embeds, size, random)


def pictures_as_queries(
    pictures: Pictures, random: np.random.Generator
) -> tuple[list[LabelledQuery], NDArray[np.float32]]:
    queries = picture_queries(pictures.captions, PICTURE_QUERIES, random)
    return queries, pictures.image_embeds[[int(query.text) for query in queries]]


def named(texts: Sequence[str]) -> list[LabelledQuery]:
    none = np.zeros(0, np.int64)
    return [LabelledQuery(text, "absent", none, none) for text in texts]


def ask(
    pictures: Pictures,
    queries: Sequence[LabelledQuery],
    embeds: NDArray[np.float32],
    size: int,
    random: np.random.Generator,
) -> list[Asked]:
    pool = np.arange(len(pictures.captions))
    searches = draw_searches(queries, pool, SEARCHES_HERE, random, sizes=(size,))
    return [(pictures.image_embeds, embeds[one.query], one) for one in searches]


# --- the figures ---------------------------------------------------------------------------------


def judge(
    method: Method, image_embeds: NDArray[np.float32], query: NDArray[np.float32], search: Search
) -> Judged:
    found = method.probability(image_embeds[search.library], query, len(search.library))
    return Judged(found, search.matches)


def summarise(judged: Sequence[Judged], cutoff: float) -> tuple[str, ...]:
    """ECE of the hits that a person would see; what the cut-off lets through; whole answers."""
    hits = [np.argsort(-one.probabilities)[:TOP_K] for one in judged]
    seen = np.concatenate([one.probabilities[hit] for one, hit in zip(judged, hits, strict=True)])
    true = np.concatenate([one.truths[hit] for one, hit in zip(judged, hits, strict=True)])
    passed = [one.probabilities >= cutoff for one in judged]
    right = sum(int((ok & one.truths).sum()) for ok, one in zip(passed, judged, strict=True))
    let_through = sum(int(ok.sum()) for ok in passed)
    matching = sum(int(one.truths.sum()) for one in judged)
    something = np.array([ok.any() for ok in passed])
    is_there = np.array([one.truths.any() for one in judged])
    found = np.array([(ok & one.truths).any() for ok, one in zip(passed, judged, strict=True)])
    values = (
        calibration_error(seen, true),
        right / let_through if let_through else None,
        right / matching if matching else None,
        1 - something[~is_there].mean() if (~is_there).any() else None,
        found[is_there].mean() if is_there.any() else None,
    )
    return tuple("" if value is None else f"{value:.3f}" for value in values)


def calibration_error(probabilities: Numbers, truths: Truths) -> float:
    """The mean gap between what was said and what was true, over bins (Naeini 2015)."""
    return sum(share * abs(said - true) for share, said, true in bins(probabilities, truths))


def bins(probabilities: Numbers, truths: Truths) -> Iterator[tuple[float, float, float]]:
    """Of each bin of probabilities that has any: its share, mean probability and truth."""
    places = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    for place in range(BINS):
        inside = places == place
        if inside.any():
            yield inside.mean(), probabilities[inside].mean(), truths[inside].mean()


def write_table(rows: Sequence[tuple[str, ...]], model: str) -> None:
    """Put the figures into the page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    _, after = rest.split(MARKS[1])
    lines = [f"Model {model}:", "", *(f"| {' | '.join(row)} |" for row in rows)]
    lines.insert(3, "|---" * len(COLUMNS) + "|")
    table = "\n".join(["", "", *lines, "", ""])
    PAGE.write_text(before + MARKS[0] + table + MARKS[1] + after, encoding="utf-8")


def draw_reliability(shown: dict[str, list[Judged]], model: str) -> None:
    """Said against true, and how often it was said."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 4.4), dpi=110)
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1)
    for (name, judged), colour in zip(shown.items(), ("#c8502e", "#4a6fa5"), strict=False):
        hits = [np.argsort(-one.probabilities)[:TOP_K] for one in judged]
        said = np.concatenate([one.probabilities[i] for one, i in zip(judged, hits, strict=True)])
        true = np.concatenate([one.truths[i] for one, i in zip(judged, hits, strict=True)])
        points = list(bins(said, true))
        axes.plot(
            [x for _, x, _ in points], [y for _, _, y in points], "o-", color=colour, label=name
        )
        for share, x, y in points:
            count = round(share * len(said))
            axes.annotate(
                str(count),
                (x, y),
                xytext=(5, -11),
                textcoords="offset points",
                fontsize=7,
                color=colour,
            )
    axes.set(
        xlabel="probability that search says",
        ylabel="share that the captions call a match",
        xlim=(0, 1),
        ylim=(0, 1),
        title=f"{model}: best {TOP_K} hits among 500 unseen pictures",
    )
    axes.title.set_fontsize(10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(PICTURE, pil_kwargs={"quality": 85})


if __name__ == "__main__":
    main()
