"""The cut-offs of tags: what captions and names decide, and precisions on other sources."""

import numpy as np
import pytest

from tests.calibration.worlds import DIM, WordEncoder, captioned_source, named_source
from twotower.calibration.curves import LogisticCurve, TextCurves
from twotower.calibration.fit import measure_competitors
from twotower.tagging.fit_tags import (
    PRECISIONS,
    TagAnswers,
    balanced,
    captioned_tags_of,
    even_rows,
    measure_tags,
    named_tags,
    precision_cutoffs,
)

PEOPLE = ("a man and a dog", "a man", "the man walks")
BEACH = ("the beach", "a sandy beach", "waves at a beach")


def test_frequent_tags_are_measured_on_as_many_pictures_without_them() -> None:
    decided = captioned_tags_of(WordEncoder(), [PEOPLE] * 9 + [BEACH] * 3)
    answers = {entry.tag.name: entry.answers for entry in decided}
    assert (answers["person"] == 1).sum() == (answers["person"] == 0).sum() == 3
    assert (answers["person"] == -1).sum() == 6
    assert (answers["beach"] == 1).sum() == 3 and (answers["beach"] == 0).sum() == 9


def test_answers_are_balanced() -> None:
    assert balanced(np.array([1, 1, 0, 1, -1, 1, 1, 0, 1], np.int8)).tolist() == (
        [1, -1, 0, -1, -1, -1, -1, 0, 1]
    )
    rare = np.array([1, 0, -1, 0, 0], np.int8)
    assert balanced(rare).tolist() == rare.tolist()
    assert balanced(np.ones(3, np.int8)).tolist() == [-1, -1, -1]


def test_names_decide_tags_of_their_own_kinds() -> None:
    decided = named_tags(WordEncoder(), [("beagle",), ("guitar",), ("banana",)])
    answers = {entry.tag.name: entry.answers.tolist() for entry in decided}
    assert answers["dog"] == [1, 0, 0]
    assert answers["guitar"] == [0, 1, 0]
    assert "person" not in answers, "may stand beside any dog"
    assert "blurry" not in answers and "screenshot" not in answers
    assert all(entry.embed.shape == (DIM,) for entry in decided)


def test_rows_are_evenly_spaced() -> None:
    assert even_rows(10, 4).tolist() == [0, 3, 6, 9]
    assert even_rows(3, 10).tolist() == [0, 1, 2]
    assert even_rows(0, 5).tolist() == [] and even_rows(5, 0).tolist() == []


def made_up_answers(seed: int, exponent: float = 3) -> TagAnswers:
    """Return answers with true probabilities."""
    random = np.random.default_rng(seed)
    probabilities = random.uniform(0, 1, 50_000) ** exponent
    return TagAnswers(probabilities, random.random(50_000) < probabilities)


def test_cutoffs_reach_the_precision_with_a_margin() -> None:
    source = made_up_answers(0)
    cutoffs = dict(precision_cutoffs([source]))
    for precision in (0.6, 0.7, 0.8, 0.9):
        share = source.answers[source.probabilities >= cutoffs[precision]].mean()
        assert precision < share < precision + 0.02
    assert sorted(cutoffs.values()) == list(cutoffs.values())
    assert set(cutoffs) <= set(PRECISIONS)


def test_the_median_source_decides() -> None:
    usual = made_up_answers(0)
    easy = TagAnswers(usual.probabilities, usual.probabilities > 0.1)
    wrong = TagAnswers(usual.probabilities, usual.probabilities < 0.05)
    assert precision_cutoffs([easy, usual, wrong]) == precision_cutoffs([usual])
    cutoffs = dict(precision_cutoffs([wrong, wrong, usual]))
    assert max(cutoffs, default=0) < 0.9, "most sources never reach it"


def test_a_few_right_tags_do_not_suffice() -> None:
    few = TagAnswers(np.array([0.9, 0.8, 0.1, 0.1]), np.array([True, True, False, False]))
    assert precision_cutoffs([few]) == []
    at_the_top = np.linspace(1, 0, 1000)
    several = TagAnswers(at_the_top, np.arange(1000) % 3 == 0)
    several.answers[:3] = True
    assert max(precision for precision, _ in precision_cutoffs([several])) < 0.9
    assert precision_cutoffs([TagAnswers(np.zeros(0), np.zeros(0, bool))]) == []


@pytest.mark.parametrize("captioned", [True, False])
def test_tags_of_a_source_are_judged_by_the_curves(captioned: bool) -> None:
    encoder = WordEncoder()
    source = captioned_source(3, 100) if captioned else named_source(3, 100)
    competitors = measure_competitors(encoder, [source], np.random.default_rng(0))
    curve = LogisticCurve((0.3, 0.1, -2.0), 0.5)
    phrase = LogisticCurve((0.3, 0.1, 0.0, 0.0, 0.0, -2.0), 0.5)
    measured = measure_tags(encoder, TextCurves(competitors, curve, phrase), source)
    assert len(measured.answers) == len(measured.probabilities) > 1000
    right = measured.probabilities[measured.answers].mean()
    assert right > 10 * measured.probabilities[~measured.answers].mean()


def test_a_source_that_decides_no_tag_is_left_out() -> None:
    encoder = WordEncoder()
    source = named_source(3, 10)
    unnamed = type(source)(source.image_embeds, [()] * 10)
    competitors = measure_competitors(encoder, [source], np.random.default_rng(0))
    curves = TextCurves(competitors, LogisticCurve((1, 1, 0), 0.5), LogisticCurve((1,) * 6, 0.5))
    assert not measure_tags(encoder, curves, unnamed).answers.any()
