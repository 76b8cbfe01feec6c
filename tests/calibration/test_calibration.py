"""Scores to probabilities: the arithmetic, the file, and the accuracy of fitted curves."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import twotower
from twotower.arrays import normalize
from twotower.calibration.background import (
    LARGEST,
    Curve,
    background_texts,
    measure_background,
)
from twotower.calibration.calibration import (
    Calibration,
    estimate,
    read_calibration,
    write_calibration,
)
from twotower.calibration.captions import (
    LabelledQuery,
    absent_queries,
    content_words,
    phrase_queries,
    picture_queries,
    word_queries,
)
from twotower.calibration.fit import (
    Pictures,
    Search,
    altered_copies,
    best_features,
    draw_searches,
    fit_curve,
    fit_logistic,
)
from twotower.calibration.tag_curve import Recalibration, TagCurve
from twotower.encode.golden import golden_hash
from twotower.errors import CalibrationError
from twotower.tagging.fit_tags import TagExamples, balanced_rows, fit_weights, precision_cutoffs

ROOT = Path(__file__).parents[2]


# --- features and curve --------------------------------------------------------------------------


def test_features_by_hand() -> None:
    pictures = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0]], np.float32)
    queries = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    background = measure_background(pictures, queries)
    query = np.array([1, 0, 0], np.float32)
    features = background.features(query, pictures, size=100)
    scores = pictures @ query
    sd = np.sqrt(np.cov(pictures.T)[0, 0])  # three dimensions: two kept, the third even
    np.testing.assert_allclose(features[:, 0], (scores - scores.mean()) / sd, rtol=0.35)
    of_pictures = scores - pictures @ queries.mean(axis=0)
    np.testing.assert_allclose(features[:, 1], of_pictures / background.query_sd, rtol=1e-5)
    np.testing.assert_allclose(features[:, 2], np.log(100))


def test_competition_is_limited_to_the_sizes_of_the_fit() -> None:
    random = np.random.default_rng(0)
    pictures = normalize(random.standard_normal((20, 8)).astype(np.float32))
    background = measure_background(pictures, pictures)
    at = {
        size: background.features(pictures[0], pictures, size)[0, 2]
        for size in (LARGEST // 2, LARGEST, 1_000_000)
    }
    assert at[LARGEST // 2] < at[LARGEST] == at[1_000_000]


def test_the_variance_of_a_query_is_that_of_its_scores() -> None:
    random = np.random.default_rng(0)
    pictures = normalize(
        (random.standard_normal((4000, 256)) * np.geomspace(3, 0.1, 256)).astype(np.float32)
    )
    background = measure_background(pictures, pictures)
    for query in pictures[:20]:
        predicted = np.sqrt(((background.spread @ query) ** 2).sum() + background.residual)
        assert predicted == pytest.approx((pictures @ query).std(), rel=0.1)


def test_fit_logistic_recovers_the_weights() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((50_000, 3)) * (1, 10, 0.1) + (0, 5, -2)
    weights = np.array([1.5, -0.2, 4.0, 7.0])
    chance = 1 / (1 + np.exp(-(features @ weights[:-1] + weights[-1])))
    answers = random.random(len(features)) < chance
    np.testing.assert_allclose(fit_logistic(features, answers), weights, rtol=0.1)


class World:
    """Pictures of one of 40 things each, all shifted as real embeds are, and queries for them.

    Some queries score high with every picture, and some pictures with every query.
    """

    def __init__(self, seed: int, pictures: int = 3000) -> None:
        things = np.random.default_rng(0).standard_normal((40, 32))
        shift = np.random.default_rng(1).standard_normal((2, 32)) * 2
        random = np.random.default_rng(seed)
        self.thing = random.integers(0, 40, pictures)
        noise = random.standard_normal((pictures, 32)) * 1.6
        shifted = things[self.thing] + noise + shift[0] * random.uniform(0.3, 1.7, (pictures, 1))
        self.image_embeds = normalize(shifted.astype(np.float32))
        height = np.random.default_rng(2).uniform(0.0, 2.0, (40, 1))
        self.texts = normalize((things + shift[0] * height + shift[1]).astype(np.float32))
        empty = np.zeros(0, np.int64)
        self.queries = [
            LabelledQuery(str(thing), "word", np.flatnonzero(self.thing == thing), empty)
            for thing in range(40)
        ]

    def curve(self) -> Curve:
        background = measure_background(self.image_embeds, self.texts)
        source = Pictures(self.image_embeds, [[""]] * len(self.thing))
        random = np.random.default_rng(0)
        return fit_curve(background, [(source, self.queries, self.texts)], random)

    def searches(self, size: int) -> list[Search]:
        pool = np.arange(len(self.thing))
        return list(draw_searches(self.queries, pool, 600, np.random.default_rng(3), (size,)))


@pytest.fixture(scope="module")
def fitted() -> Curve:
    return World(seed=10).curve()


@pytest.mark.parametrize("size", [50, 500, 2000])
def test_probabilities_come_true_on_other_pictures(fitted: Curve, size: int) -> None:
    world = World(seed=11)
    estimated, true, unmatched = [], [], []
    for search in world.searches(size):
        query = world.texts[search.query]
        x, y = best_features(fitted.background, world.image_embeds, query, search)
        p = 1 / (1 + np.exp(-(x @ fitted.weights[:-1] + fitted.weights[-1])))
        estimated.append(p)
        true.append(y)
        if not search.matches.any():
            unmatched.append(p.max() < fitted.cutoff)
    estimated, true = np.concatenate(estimated), np.concatenate(true)
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        inside = (estimated >= low) & (estimated < low + 0.2)
        if inside.sum() > 300:
            assert estimated[inside].mean() == pytest.approx(true[inside].mean(), abs=0.15)
    assert len(unmatched) > 100
    assert np.mean(unmatched) > 0.75


def test_two_backgrounds_beat_the_cosine(fitted: Curve) -> None:
    """In this world a cosine tells little: each query and picture has its own mean score."""
    world = World(seed=12)
    ours, cosine, truths = [], [], []
    for search in world.searches(500):
        query, embeds = world.texts[search.query], world.image_embeds[search.library]
        ours.append(fitted.logits(query, embeds, 500))
        cosine.append(embeds @ query)
        truths.append(search.matches)
    truth = np.concatenate(truths)
    assert auc(np.concatenate(ours), truth) > auc(np.concatenate(cosine), truth) + 0.02


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    ranks = scores.argsort().argsort() + 1
    positives = int(truth.sum())
    return (ranks[truth].sum() - positives * (positives + 1) / 2) / positives / (~truth).sum()


def test_a_third_of_the_searches_have_no_match() -> None:
    world = World(seed=13)
    searches = world.searches(500)
    absent = np.mean([not search.matches.any() for search in searches])
    assert 0.2 < absent < 0.5
    for search in searches:
        assert len(set(search.library.tolist())) == len(search.library)
        np.testing.assert_array_equal(search.matches, world.thing[search.library] == search.query)


# --- tags ----------------------------------------------------------------------------------------


def make_tags(random: np.random.Generator, offsets: np.ndarray) -> list[TagExamples]:
    """Tags that depend on one feature, each with an offset of its own."""
    tags = []
    for number, offset in enumerate(offsets):
        features = random.standard_normal((3000, 4))
        chance = 1 / (1 + np.exp(-(2 * features[:, 0] - 4 + offset)))
        difference = random.standard_normal(64)
        tags.append(
            TagExamples(str(number), features, difference, random.random(len(chance)) < chance)
        )
    return tags


def test_each_tag_gets_its_own_offset() -> None:
    random = np.random.default_rng(0)
    offsets = random.normal(0, 2, 30)
    tags = make_tags(random, offsets)
    weights, words = fit_weights(tags)
    assert weights[0] == pytest.approx(2, abs=0.15)
    np.testing.assert_allclose(weights[1:4], 0, atol=0.1)
    fitted = weights[-1] + np.array([tag.difference @ words for tag in tags])
    np.testing.assert_allclose(fitted, offsets - 4, atol=0.8)


def test_frequent_tags_are_fitted_on_as_many_pictures_without_them() -> None:
    answers = np.array([1, 1, 0, 1, -1, 1, 1, 0, 1], np.int8)
    rows = balanced_rows(answers)
    assert rows.tolist() == [0, 2, 7, 8]
    rare = np.array([1, 0, -1, 0, 0], np.int8)
    assert balanced_rows(rare).tolist() == [0, 1, 3, 4]
    assert not len(balanced_rows(np.ones(5, np.int8)))


def test_cutoffs_reach_the_precision_with_a_margin() -> None:
    random = np.random.default_rng(0)
    estimated = random.uniform(0, 1, 200_000) ** 3
    true = random.random(len(estimated)) < estimated
    cutoffs = dict(precision_cutoffs(estimated, true))
    for precision in (0.6, 0.7, 0.8, 0.9):
        share = true[estimated >= cutoffs[precision]].mean()
        assert precision < share < precision + 0.1
    assert sorted(cutoffs.values()) == list(cutoffs.values())
    assert not dict(precision_cutoffs(estimated[:20], np.zeros(20, bool)))


def test_fitted_tags_have_another_correction() -> None:
    background = make_calibration().text.background
    fitted = Recalibration(1.0, 0.0, ((0.5, 0.3), (0.9, 0.8)))
    unfitted = Recalibration(0.5, -1.0, ())
    weights, words = (0.1, 2.0, 0.0, 0.0, -3.0), np.ones(8, np.float32)
    curve = TagCurve(background, 0.5, weights, words, frozenset({"dog"}), fitted, unfitted)
    tags = normalize(np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32))
    plain = curve.logits(tags, tags, np.array([True, True]))
    np.testing.assert_allclose(
        curve.logits(tags, tags, np.array([True, False])),
        np.stack([plain[:, 0], 0.5 * plain[:, 1] - 1], axis=1),
    )
    assert fitted.cutoff(0.6) == 0.8 and fitted.cutoff(0.95) > 1 and unfitted.cutoff(0.5) > 1


# --- captions ------------------------------------------------------------------------------------

CAPTIONS = [
    ["A brown dog runs", "Dog on grass", "the dogs play"],
    ["two dogs in snow", "a dog and a man", "white snow"],
    ["a man in a red shirt", "a man walks", "someone in a shirt"],
    ["a dog barks at a cat", "a cat", "the cat sleeps"],
]


def test_words_that_captions_agree_on() -> None:
    queries = {query.text: query for query in word_queries(CAPTIONS, min_matching=1)}
    assert queries["dog"].matching.tolist() == [0, 1]
    assert queries["dog"].unknown.tolist() == [3]
    assert queries["snow"].matching.tolist() == [1]
    assert "brown" not in queries, "named once"
    assert "the" not in queries and "walk" not in queries


def test_a_phrase_matches_its_picture_and_similar_ones_are_unknown() -> None:
    for query in phrase_queries(CAPTIONS, 30, np.random.default_rng(0)):
        [target] = query.matching.tolist()
        words = set(content_words(query.text))
        assert words
        assert words <= {word for text in CAPTIONS[target] for word in content_words(text)}
        assert target not in query.unknown
        for picture, texts in enumerate(CAPTIONS):
            shared = words & {word for text in texts for word in content_words(text)}
            if picture != target:
                assert (len(shared) >= len(words) / 2) == (picture in query.unknown)


def test_absent_queries_have_no_word_of_a_caption() -> None:
    texts = ["a volcano", "a dog in space", "cats", "the"]
    assert [query.text for query in absent_queries(CAPTIONS, texts)] == ["a volcano"]
    assert absent_queries([["a dog"], ["a cat"]], texts) == [], "one caption does not say all"


def test_matching_pictures_share_agreed_words() -> None:
    captions = [*CAPTIONS, ["dog in snow", "snow dog", "dog, snow"]]
    queries = picture_queries(captions, 10, np.random.default_rng(0))
    by_picture = {int(query.text): query for query in queries}
    assert by_picture[1].matching.tolist() == [0, 4], "half in common"
    assert 1 in by_picture[1].unknown, "itself is no test"
    assert 2 not in by_picture[1].unknown, "nothing in common"


# --- the file ------------------------------------------------------------------------------------


def make_calibration() -> Calibration:
    random = np.random.default_rng(0)
    pictures, queries = (normalize(random.standard_normal((n, 8)).astype("f4")) for n in (50, 20))
    curve = Curve(measure_background(pictures, queries), (1.0, 2.0, -0.5, -3.0), 0.4)
    return Calibration(curve, replace(curve, cutoff=0.3), 0.9, "0123456789abcdef")


def test_a_calibration_read_from_its_file_gives_the_same_logits(tmp_path: Path) -> None:
    before = make_calibration()
    path = tmp_path / "calibration.json"
    write_calibration(before, tmp_path)
    after = Calibration.from_json(path.read_text(), path)
    query = np.eye(8, dtype=np.float32)[0]
    embeds = np.eye(8, dtype=np.float32)
    np.testing.assert_array_equal(
        after.text.logits(query, embeds, 10), before.text.logits(query, embeds, 10)
    )
    assert (after.image.cutoff, after.duplicate, after.model) == (0.3, 0.9, before.model)
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"text": 1}'])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "calibration.json").write_text(damage)
    with pytest.raises(CalibrationError, match=r"calibration\.json: not a calibration"):
        read_calibration(tmp_path)


def test_a_calibration_of_other_weights_is_ignored(tiny_directory: Path) -> None:
    assert read_calibration(tiny_directory) is None
    path = tiny_directory / "calibration.json"
    try:
        write_calibration(make_calibration(), tiny_directory)
        assert read_calibration(tiny_directory) is None
        current = replace(make_calibration(), model=golden_hash(tiny_directory))
        write_calibration(current, tiny_directory)
        assert read_calibration(tiny_directory) is not None
    finally:
        path.unlink()


def test_a_calibration_keeps_its_curve_of_tags(tmp_path: Path) -> None:
    calibration = make_calibration()
    trusts = (
        Recalibration(0.8, -0.1, ((0.5, 0.25),)),
        Recalibration(0.5, -0.5, ((0.5, 0.75), (0.9, 0.9))),
    )
    weights, words = (0.1, 2.0, 0.5, -0.25, -3.0), np.arange(8, dtype=np.float32)
    background = calibration.text.background
    curve = TagCurve(background, 0.5, weights, words, frozenset({"dog", "cat"}), *trusts)
    text = replace(calibration, tags=curve).to_json()
    read = Calibration.from_json(text, tmp_path).tags
    assert read is not None
    assert (read.names, read.fitted, read.unfitted) == (curve.names, *trusts)
    assert read.words.tolist() == words.tolist() and read.weights == weights


def test_the_bundled_model_is_calibrated_for_its_own_weights() -> None:
    calibration = read_calibration(twotower.load().directory)
    assert calibration is not None, "make it again: twotower calibrate twotower-small PAIRS"
    assert 0.05 < calibration.text.cutoff < 0.9
    weights = calibration.text.weights
    assert weights[0] > 0 and weights[1] > 0 and weights[2] < 0
    assert calibration.image.weights[0] > 0 and calibration.image.weights[1:3] == (0, 0)


def test_estimated_from_the_pictures_alone(tiny_directory: Path) -> None:
    model = twotower.load(tiny_directory)
    pictures = model.encode_image(sorted((ROOT / "examples" / "photos").glob("*.jpg"))[:12])
    estimated = estimate(model, pictures)
    assert estimated.model == golden_hash(tiny_directory)
    logits = estimated.text.logits(model.encode_text("a dog")[0], pictures, 12)
    assert np.isfinite(logits).all() and np.ptp(logits) > 0


# --- data ----------------------------------------------------------------------------------------


def test_background_texts_are_many_and_none_twice() -> None:
    texts = background_texts()
    assert len(texts) == len(set(texts)) > 500
    assert all(text == text.strip() and text for text in texts)


def test_the_absent_words_were_not_fitted_on() -> None:
    absent = (ROOT / "benchmarks" / "data" / "absent.txt").read_text(encoding="utf-8").splitlines()
    assert len(absent) == len(set(absent)) >= 100
    assert not set(absent) & set(background_texts())


def test_altered_copies_are_smaller_and_alike() -> None:
    content = (ROOT / "examples" / "photos" / "cat.jpg").read_bytes()
    [copy] = altered_copies([content])
    before, after = PIL.Image.open(io.BytesIO(content)), PIL.Image.open(io.BytesIO(copy))
    assert after.width < 0.76 * before.width
    a, b = (np.asarray(image.convert("L").resize((16, 16)), float) for image in (before, after))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9
