"""The fit of curves: on made-up worlds with known answers, each source judged by the others."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import PIL.Image
import pytest

from tests.calibration.worlds import (
    DIM,
    THINGS,
    WordEncoder,
    captioned_source,
    named_source,
    random_competitors,
)
from twotower.arrays import normalize
from twotower.calibration.calibration import TYPICAL_NAME, TYPICAL_PHRASE
from twotower.calibration.captions import LabelledQuery
from twotower.calibration.competitors import Competitors, embed_words
from twotower.calibration.curves import LogisticCurve, TextCurves
from twotower.calibration.fit import (
    CAPTION_CENTRES,
    REJECTED_SHARE,
    Examples,
    Pictures,
    altered_copies,
    cluster_centres,
    copy_cosine,
    draw_searches,
    fit,
    fit_logistic,
    fit_picture_curve,
    fit_text_curves,
    is_captioned,
    measure_competitors,
    rejecting_cutoff,
    search_examples,
)
from twotower.errors import CalibrationError

ROOT = Path(__file__).parents[2]
ENCODER = WordEncoder()


class World(NamedTuple):
    """Curves that were fitted on sources, with and without each."""

    competitors: Competitors
    examples: list[Examples]
    curves: TextCurves
    held_out: list[TextCurves]


@pytest.fixture(scope="module")
def world() -> World:
    sources = [named_source(1), captioned_source(2), named_source(3)]
    competitors = measure_competitors(ENCODER, sources, np.random.default_rng(0))
    examples = [draw_examples(competitors, source) for source in sources]
    curves, held_out = fit_text_curves(competitors, examples)
    return World(competitors, examples, curves, held_out)


def draw_examples(competitors: Competitors, source: Pictures) -> Examples:
    return search_examples(ENCODER, competitors, source, np.random.default_rng(0))


# --- curves of texts -----------------------------------------------------------------------------


def test_probabilities_come_true_in_another_source(world: World) -> None:
    rows = draw_examples(world.competitors, named_source(11)).of(False)
    curve = world.curves.name
    p = np.concatenate([1 / (1 + np.exp(-curve.logits(features))) for features, _ in rows])
    answers = np.concatenate([answers for _, answers in rows])
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        inside = (p >= low) & (p < low + 0.2)
        if inside.sum() > 300:
            assert p[inside].mean() == pytest.approx(answers[inside].mean(), abs=0.15)
    unmatched = [
        curve.logits(features).max() < np.log(curve.cutoff / (1 - curve.cutoff))
        for features, answers in rows
        if not answers.any()
    ]
    assert len(unmatched) > 50
    assert np.mean(unmatched) > REJECTED_SHARE - 0.15


def test_a_text_stands_out_better_than_its_cosine(world: World) -> None:
    """In this world some pictures are near every text, as in real models."""
    source = named_source(12)
    examples = draw_examples(world.competitors, source)
    logits, cosines, answers = [], [], []
    for thing in THINGS:
        embed = ENCODER.encode_text([thing])[0]
        text = world.curves.prepare([thing], embed)
        logits.append(world.curves.logits([text], source.image_embeds)[:, 0])
        cosines.append(source.image_embeds @ embed)
        answers.append(np.array([names == (thing,) for names in source.captions]))
    assert len(examples.answers) > 500
    truth = np.concatenate(answers)
    assert auc(np.concatenate(logits), truth) > auc(np.concatenate(cosines), truth) + 0.005


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    ranks = scores.argsort().argsort() + 1
    positives = int(truth.sum())
    return (ranks[truth].sum() - positives * (positives + 1) / 2) / positives / (~truth).sum()


def test_each_source_is_judged_by_curves_that_were_fitted_on_the_others(world: World) -> None:
    altered = [*world.examples]
    altered[0] = draw_examples(world.competitors, named_source(5, noise=3))
    curves, held_out = fit_text_curves(world.competitors, altered)
    assert held_out[0].name == world.held_out[0].name
    assert held_out[1].name != world.held_out[1].name and curves.name != world.curves.name


def test_cutoffs_come_from_the_held_out_curves(world: World) -> None:
    for phrase in (False, True):
        pairs = [
            (held_out.phrase if phrase else held_out.name, examples.of(phrase))
            for held_out, examples in zip(world.held_out, world.examples, strict=True)
        ]
        curve = world.curves.phrase if phrase else world.curves.name
        assert curve.cutoff == rejecting_cutoff(pairs)


def test_without_phrases_in_other_sources_those_of_all_are_used(world: World) -> None:
    """A curve that was fitted on no phrase, or a few, says nothing about them."""
    assert world.held_out[1].phrase.weights == world.curves.phrase.weights
    assert world.held_out[1].name.weights != world.curves.name.weights
    curves, [held_out] = fit_text_curves(world.competitors, world.examples[:1])
    assert held_out.name.weights == curves.name.weights
    assert curves.phrase.weights == TYPICAL_PHRASE.weights, "names alone"


def test_the_cutoff_rejects_most_searches_without_a_match_in_the_median_source() -> None:
    curve = LogisticCurve((0.05, 0.0), 0.5)
    matched = [(np.array([[200.0]]), np.ones(1, bool))] * 5

    def source(lowest: int, count: int = 101) -> list[tuple[np.ndarray, np.ndarray]]:
        best = range(lowest, lowest + count)
        return [*matched, *((np.array([[x], [-50.0]]), np.zeros(2, bool)) for x in best)]

    limit = 0.05 * 100 * REJECTED_SHARE
    middle = pytest.approx(1 / (1 + np.exp(-limit)))
    assert rejecting_cutoff([(curve, source(0))]) == middle
    assert rejecting_cutoff([(curve, source(lowest)) for lowest in (0, 500, -500)]) == middle
    assert rejecting_cutoff([(curve, source(0)), (curve, source(500, 5))]) == middle, "too few"
    assert rejecting_cutoff([(curve, matched)]) == 0.5


def test_pictures_that_give_no_queries_are_an_error() -> None:
    examples = Examples([np.zeros((3, 2))], [np.zeros(3, bool)], [False])
    with pytest.raises(CalibrationError, match="the captions give no queries"):
        fit_text_curves(random_competitors(100), [examples])


def test_few_pictures_are_an_error() -> None:
    with pytest.raises(CalibrationError, match=r"40 pictures are too few.*give 200 or more"):
        fit(ENCODER, [named_source(0, 20), named_source(1, 20)], [])


def test_fit_logistic_recovers_the_weights() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((50_000, 3)) * (1, 10, 0.1) + (0, 5, -2)
    weights = np.array([1.5, -0.2, 4.0, 7.0])
    chance = 1 / (1 + np.exp(-(features @ weights[:-1] + weights[-1])))
    answers = random.random(len(features)) < chance
    np.testing.assert_allclose(fit_logistic(features, answers), weights, rtol=0.1)


# --- searches ------------------------------------------------------------------------------------


def test_a_third_of_the_searches_have_no_match() -> None:
    thing = np.random.default_rng(0).integers(0, 40, 3000)
    empty = np.zeros(0, np.int64)
    queries = [
        LabelledQuery(str(number), "word", np.flatnonzero(thing == number), empty)
        for number in range(40)
    ]
    random = np.random.default_rng(3)
    searches = list(draw_searches(queries, np.arange(3000), 600, random, (500,)))
    absent = np.mean([not search.matches.any() for search in searches])
    assert 0.2 < absent < 0.5
    for search in searches:
        assert len(set(search.library.tolist())) == len(search.library)
        np.testing.assert_array_equal(search.matches, thing[search.library] == search.query)


def test_examples_are_the_best_of_each_search(world: World) -> None:
    names, captions = world.examples[0], world.examples[1]
    assert not any(names.phrase) and any(captions.phrase)
    for features, answers in names.of(False):
        assert len(features) == len(answers) <= 50 and features.shape[1] == 2
    assert {features.shape[1] for features, _ in captions.of(True)} == {5}


def test_several_captions_are_not_names() -> None:
    assert is_captioned([("a", "b", "c"), ("a", "b", "c", "d")])
    assert not is_captioned([("a", "b", "c"), ("name",)])
    assert not is_captioned([])


def test_pictures_as_queries_have_a_curve_over_the_cosine() -> None:
    curve = fit_picture_curve([captioned_source(7), named_source(7)], np.random.default_rng(0))
    assert curve.weights[0] > 0 and 0 < curve.cutoff < 1
    assert curve.logits(np.array([[0.9], [0.2]])).tolist() == pytest.approx(
        [0.9 * curve.weights[0] + curve.weights[1], 0.2 * curve.weights[0] + curve.weights[1]]
    )


# --- competitors ---------------------------------------------------------------------------------


def test_centres_of_clusters() -> None:
    random = np.random.default_rng(0)
    true = normalize(random.standard_normal((6, DIM)).astype(np.float32))
    cluster = random.permutation(np.repeat(np.arange(6), 50))
    cluster[:6] = range(6)  # centres start at evenly spaced rows
    embeds = normalize(
        (true[cluster] + 0.05 * random.standard_normal((300, DIM))).astype(np.float32)
    )
    centres = cluster_centres(np.concatenate([embeds[::50], embeds]), 6)
    assert centres.shape == (6, DIM)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, rtol=1e-5)
    nearest = (embeds @ centres.T).max(axis=1)
    assert np.quantile(nearest, 0.1) > 0.6


def test_typical_captions_are_centres_if_there_are_many() -> None:
    few = measure_competitors(ENCODER, [captioned_source(1, 300)], np.random.default_rng(0))
    many = measure_competitors(
        ENCODER, [captioned_source(1, 3100), named_source(1)], np.random.default_rng(0)
    )
    assert len(many.captions) == CAPTION_CENTRES
    np.testing.assert_allclose(np.linalg.norm(many.captions, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(few.words, embed_words(ENCODER))
    np.testing.assert_array_equal(many.words, few.words)
    source = captioned_source(9)
    ours, generic = (
        (source.image_embeds @ competitors.captions.T).max(axis=1).mean()
        for competitors in (many, few)
    )
    assert ours > generic, "they describe such pictures"


# --- copies --------------------------------------------------------------------------------------


def test_altered_copies_are_smaller_and_alike() -> None:
    content = (ROOT / "examples" / "photos" / "cat.jpg").read_bytes()
    [copy] = altered_copies([content])
    before, after = PIL.Image.open(io.BytesIO(content)), PIL.Image.open(io.BytesIO(copy))
    assert after.width < 0.76 * before.width
    a, b = (np.asarray(image.convert("L").resize((16, 16)), float) for image in (before, after))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9


def test_few_pictures_have_a_near_duplicate_by_mistake() -> None:
    content = (ROOT / "examples" / "photos" / "cat.jpg").read_bytes()
    embeds = normalize(np.random.default_rng(0).standard_normal((2000, 16)).astype(np.float32))
    alike = SimpleNamespace(encode_image=lambda pictures: embeds[: len(pictures)])
    cosine = copy_cosine(alike, [content], embeds)
    assert cosine == pytest.approx(1, abs=1e-5), "equal copies"
    unlike = SimpleNamespace(
        encode_image=lambda pictures: embeds[int(pictures != [content]) :][: len(pictures)]
    )
    lowest = copy_cosine(unlike, [content], embeds)
    pairs = embeds @ embeds.T - 2 * np.eye(len(embeds))
    assert (pairs.max(axis=1) >= lowest).mean() <= 0.002


def test_typical_curves_rise_with_every_feature() -> None:
    assert min(TYPICAL_NAME.weights[:-1]) > 0 and min(TYPICAL_PHRASE.weights[:-1]) > 0
